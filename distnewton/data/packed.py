r"""Columns of at most four values in two bits each, for genotypes; products decode a few columns at a time.

.. math:: X_{ik} = t_k(c_{ik}), \qquad c_{ik} \in \{0, 1, 2, 3\}

The codes c are stored four samples a byte, as PLINK packs them, and t_k holds the four values of column k. Scaling a
column, or counting its other allele, changes only t. Columns of plain numbers, such as covariates, may follow.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnewton.errors import ConfigError, DataError

_AT_ONCE = 1 << 17
"""Values decoded at a time, few enough to stay in the cache between decoding and product."""
NUMBA_FROM = 1 << 24
"""Table size (values) from which numba is imported; for 2e8 values it takes 0.35 ns a value, lookups take 1.3."""
_MOST_NUMBERS = 1 << 31
"""Most values converted to a plain array at once, for operations that need one."""
_CODES = ((np.arange(256)[:, None] >> np.arange(0, 8, 2)) & 3).astype(np.uint8)
"""Codes of the four samples of each byte."""
_WORDS = _CODES.view("<u4").ravel()
"""The four codes as one 32-bit number, one byte a code; one lookup is far faster than four."""
_TO_BYTE = np.uint32(2**24 + 2**18 + 2**12 + 2**6)
"""Multiplied by this, a number of `_WORDS` has the packed byte in its highest bits; no other products overlap it."""
_COUNTED = 16
"""Bits of each counter in `_COUNTS`."""
_COUNTS = (np.uint64(1) << (np.uint64(_COUNTED) * _CODES)).sum(axis=1, dtype=np.uint64)
"""Number of times each code occurs in a byte, four counters in one number."""
_COUNTED_BYTES = (2**_COUNTED - 1) // 4


class PackedColumns:
    """A table of packed columns followed by columns of numbers, with the interface of sparse rows.

    Parameters
    ----------
    codes : ndarray of uint8 of shape (n_packed, n_bytes)
        One row for each packed column, four samples a byte, the first sample in the lowest bits.
    n : int
        Number of samples.
    values : ndarray of float64 of shape (4, n_packed)
        Value of each code. NaN marks a missing value until columns are centred.
    numbers : ndarray of float64 of shape (n, n_columns - n_packed)
        The columns after the packed ones.
    dtype : dtype
        Floating-point type of decoded values.
    first : int
        Number of samples in `codes` before the first sample of the table.
    """

    def __init__(
        self, codes: NDArray[np.uint8], n: int, values: NDArray[np.float64], numbers: NDArray[np.float64],
        dtype: DTypeLike, first: int = 0,
    ) -> None:  # fmt: skip
        self.codes, self.values, self.numbers, self.dtype = codes, values, numbers, np.dtype(dtype)
        self.shape: tuple[int, int] = n, len(codes) + numbers.shape[1]
        self._first = first

    ndim = 2

    @property
    def n_packed(self) -> int:
        """Number of packed columns, which come first."""
        return len(self.codes)

    @property
    def size(self) -> int:
        """Number of values."""
        n, n_columns = self.shape
        return n * n_columns

    @property
    def data(self) -> NDArray[np.float64]:
        """All values that may occur, for range checks."""
        return np.concatenate([self.values.ravel(), self.numbers.ravel()])

    def blocks(self, n: int | None = None) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Yield decoded blocks of columns.

        Parameters
        ----------
        n : int or None
            Number of samples that determines the block width; by default that of this table.

        Yields
        ------
        slice
            The columns.
        ndarray of shape (n_columns_of_block, n)
            Their values, one row for each column.
        """
        for columns in self._ranges(n):
            yield columns, self._decoded(columns)
        if self.numbers.shape[1]:
            yield slice(self.n_packed, self.shape[1]), self.numbers.T.astype(self.dtype)

    def _ranges(self, n: int | None = None) -> Iterator[slice]:
        """Yield ranges of packed columns."""
        width = max(1, _AT_ONCE // max(1, self.shape[0] if n is None else n))
        for start in range(0, self.n_packed, width):
            yield slice(start, min(start + width, self.n_packed))

    def _decoded(self, columns: slice) -> NDArray[Any]:
        packed, skipped = self._bytes(columns), self._first % 4
        decoded = np.empty((len(packed), 4 * packed.shape[1]), self.dtype)
        _decoder(self.size >= NUMBA_FROM)(packed, self.values[:, columns].T.astype(self.dtype, order="C"), decoded)
        return decoded[:, skipped : skipped + self.shape[0]]

    def _bytes(self, columns: slice) -> NDArray[np.uint8]:
        """Bytes that hold the samples of a range of packed columns."""
        return self.codes[columns, self._first // 4 : -(-(self._first + self.shape[0]) // 4)]

    def _unpacked(self, columns: slice) -> NDArray[np.uint8]:
        """Codes of a range of packed columns, (n_columns, n)."""
        return unpack(self._bytes(columns), self._first % 4, self.shape[0])

    # --- interface of sparse rows

    def __matmul__(self, other: Any) -> NDArray[Any]:
        """Multiply by weights, (n_columns,) or (n_columns, k), or by the transpose of a packed table."""
        if isinstance(other, _Transposed):
            theirs, product = other.columns, np.zeros((self.shape[0], other.shape[1]), self.dtype)
            n = max(self.shape[0], theirs.shape[0])
            for (_, left), (_, right) in zip(self.blocks(n), theirs.blocks(n), strict=True):
                product += left.T @ right
            return product
        product = np.zeros((self.shape[0], *other.shape[1:]), self.dtype)
        for columns, block in self.blocks():
            product += block.T @ other[columns]
        return product

    @property
    def T(self) -> _Transposed:  # noqa: N802  (numpy's name)
        """Transpose, for products."""
        return _Transposed(self)

    def __getitem__(self, key: Any) -> PackedColumns:
        """Select samples, as a view for a slice and a copy for numbers, or columns as a view ``[:, columns]``."""
        if isinstance(key, tuple):
            start, stop, _ = key[1].indices(self.shape[1])
            packed = slice(start, min(stop, self.n_packed))
            behind = slice(max(0, start - self.n_packed), max(0, stop - self.n_packed))
            return PackedColumns(
                self.codes[packed], self.shape[0], self.values[:, packed], self.numbers[:, behind], self.dtype,
                self._first,
            )  # fmt: skip
        if isinstance(key, slice):
            start, stop, _ = key.indices(self.shape[0])
            n = max(0, stop - start)
            return PackedColumns(self.codes, n, self.values, self.numbers[key], self.dtype, self._first + start)
        codes = np.empty((self.n_packed, -(-len(key) // 4)), np.uint8)
        self._choose(key, codes)
        return PackedColumns(codes, len(key), self.values.copy(), self.numbers[key], self.dtype)

    def permuted(self, order: NDArray[np.intp]) -> PackedColumns:
        """Reorder or select samples; in place if their number does not change.

        Parameters
        ----------
        order : ndarray of int of shape (n,)
            Sample ``k`` of the result is sample ``order[k]`` of this table.

        Returns
        -------
        PackedColumns
        """
        if len(order) != self.shape[0] or self._first:
            return self[order]
        self._choose(order, self.codes)
        return PackedColumns(self.codes, len(order), self.values, self.numbers[order], self.dtype)

    def _choose(self, rows: NDArray[np.intp], out: NDArray[np.uint8]) -> None:
        """Pack the codes of the chosen samples."""
        for columns in self._ranges():
            out[columns] = pack(np.take(self._unpacked(columns), rows, axis=1))

    def gathered(self, n: int, gather: Callable[[NDArray[Any]], NDArray[Any]]) -> PackedColumns:
        """Gather the samples of all replicas.

        Parameters
        ----------
        n : int
            Number of samples of all replicas.
        gather : callable
            Function that turns rows of this table's samples into rows of all samples, (n, k).

        Returns
        -------
        PackedColumns

        Notes
        -----
        Collective over the replicas, like ``gather``, which is called once for each block of columns.
        """
        codes = np.empty((self.n_packed, -(-n // 4)), np.uint8)
        for columns in self._ranges(n):
            rows = gather(self._unpacked(columns).T.astype(self.dtype, order="C"))
            codes[columns] = pack(rows.T.astype(np.uint8))
        return PackedColumns(codes, n, self.values, gather(self.numbers), self.dtype)

    def multiply(self, other: PackedColumns) -> PackedColumns:
        """Square all values; the other table must be this one."""
        if other is not self:
            raise TypeError("packed columns can only be multiplied by themselves")
        return PackedColumns(
            self.codes, self.shape[0], np.square(self.values), np.square(self.numbers), self.dtype, self._first
        )

    def toarray(self) -> NDArray[Any]:
        """Decode all values into one array; refuses a table that would fill the memory."""
        if self.size > _MOST_NUMBERS:
            raise ConfigError(
                f"{self.shape[0]:,} samples of {self.shape[1]:,} packed columns would take "
                f"{self.size * self.dtype.itemsize / 1e9:.0f} GB as numbers, which this method needs; take "
                "method.direction = gauss_newton, or more ranks"
            )
        result = np.empty(self.shape, self.dtype)
        for columns, block in self.blocks():
            result[:, columns] = block.T
        return result

    # --- interface for scaling

    def counts(self) -> NDArray[np.float64]:
        """Number of samples with each code in each packed column, (4, n_packed)."""
        result = np.empty((4, self.n_packed))
        n_whole = self.shape[0] // 4 if self._first % 4 == 0 else 0
        for columns in self._ranges():
            packed = self._bytes(columns)[:, :n_whole]
            rest = self._unpacked(columns)[:, 4 * n_whole :]
            result[:, columns] = (rest == np.arange(4)[:, None, None]).sum(axis=2)
            for i in range(0, n_whole, _COUNTED_BYTES):
                counts = _COUNTS[packed[:, i : i + _COUNTED_BYTES]].sum(axis=1, dtype=np.uint64)
                result[:, columns] += counts.view("<u2").reshape(len(counts), 4).T
        return result

    def shift_columns(
        self, offset: NDArray[np.float64], factor: NDArray[np.float64], *, centred: bool
    ) -> None:
        """Replace x by (x - offset) factor, in place.

        Parameters
        ----------
        offset, factor : ndarray of float64 of shape (n_columns,)
            Offset and factor of each column.
        centred : bool
            Whether the offset is the mean, which then replaces missing values.

        Raises
        ------
        DataError
            If it is not the mean, and a value is missing.
        """
        n, missing = self.n_packed, np.isnan(self.values)
        if not centred and missing.any():
            n_missing = int(self.counts()[missing].sum())
            if n_missing:
                raise DataError(
                    f"{n_missing:,} calls are missing, and only a scaling that centres columns replaces them: set "
                    "data.scale = standard, hardy_weinberg or center"
                )
        self.values = (self.values - offset[:n]) * factor[:n]
        self.values[missing] = 0.0
        self.numbers = (self.numbers - offset[n:]) * factor[n:]


class _Transposed:
    """Transpose of packed columns, for products only."""

    def __init__(self, columns: PackedColumns) -> None:
        self.columns = columns
        self.shape = columns.shape[::-1]

    def __matmul__(self, other: NDArray[Any]) -> NDArray[Any]:
        """Multiply by an array of shape (n,) or (n, k)."""
        table = self.columns
        product = np.empty((table.shape[1], *other.shape[1:]), np.result_type(table.dtype, other.dtype))
        for columns, block in table.blocks():
            product[columns] = block @ other
        return product


@cache
def _decoder(large: bool) -> Callable[..., None]:
    """Choose the decoder for a large or small table; both give the same values."""
    if large and importlib.util.find_spec("numba") is not None:
        from distnewton.data.packed_numba import decode

        return cast("Callable[..., None]", decode)
    return decode_by_lookup


def decode_by_lookup(packed: NDArray[np.uint8], values: NDArray[Any], out: NDArray[Any]) -> None:
    """Decode the values of all samples of some columns.

    Parameters
    ----------
    packed : ndarray of uint8 of shape (n_columns, n_bytes)
        Four samples a byte.
    values : ndarray of shape (n_columns, 4)
        Value of each code.
    out : ndarray of shape (n_columns, 4 n_bytes)
        Output of the same dtype as `values`; overwritten.
    """
    of_byte = np.take(values, _CODES, axis=1).reshape(-1, 4)
    places = packed + np.arange(0, 256 * len(packed), 256, dtype=np.intp)[:, None]
    np.take(of_byte, places, axis=0, out=out.reshape(*packed.shape, 4), mode="clip")


def unpack(packed: NDArray[np.uint8], first: int, n: int) -> NDArray[np.uint8]:
    """Unpack the codes of consecutive samples.

    Parameters
    ----------
    packed : ndarray of uint8 of shape (n_columns, n_bytes)
        Four samples a byte.
    first, n : int
        Number of samples to skip, and number to unpack.

    Returns
    -------
    ndarray of uint8 of shape (n_columns, n)
        From 0 to 3.
    """
    return _WORDS[packed].view(np.uint8)[:, first : first + n]


def pack(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pack codes, four samples a byte.

    Parameters
    ----------
    codes : ndarray of uint8 of shape (n_columns, n)
        From 0 to 3.

    Returns
    -------
    ndarray of uint8 of shape (n_columns, ceil(n / 4))
        Packed codes; unused bits of the last byte are 0.
    """
    n = codes.shape[1]
    padded = codes
    if n % 4:
        padded = np.zeros((len(codes), n + 4 - n % 4), np.uint8)
        padded[:, :n] = codes
    words = np.ascontiguousarray(padded).view("<u4") * _TO_BYTE
    return (words >> np.uint32(24)).astype(np.uint8)
