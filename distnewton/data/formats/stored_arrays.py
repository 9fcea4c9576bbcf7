"""Arrays on disk (npy, npz members, IDX), read by columns without holding the whole array."""

from __future__ import annotations

import math
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnewton.data.formats.streams import BLOCK_BYTES, ByteStream, check_line, is_compressed, open_stream
from distnewton.data.row_selection import RowSelection
from distnewton.errors import DataError, shown

IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MOST_BYTES = 2**62
Opener = Callable[[], AbstractContextManager[ByteStream]]
Header = tuple[tuple[int, ...], np.dtype[Any], bool, int]
"""Shape, dtype with its byte order, whether the first axis varies fastest, and the bytes before the values."""


class TableArray(ABC):
    """An array on disk, as a table of samples times values; all axes but the first are flattened into one.

    Attributes
    ----------
    name : str
        File, and the array in it, for messages.
    shape : tuple of int
        Shape as stored.
    dtype : dtype
        Dtype as stored.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def table_shape(self) -> tuple[int, int]:
        """``(n_samples, n_values)``."""
        return self.shape[0], int(np.prod(self.shape[1:], dtype=np.int64))

    @abstractmethod
    def blocks(self) -> Iterator[tuple[int, int, NDArray[Any]]]:
        """Yield parts of the table, of bounded size.

        Yields
        ------
        i_row, i_column : int
            First row and column of the part.
        part : ndarray of shape (n_rows_of_part, n_columns_of_part)
            Values as stored, in whole rows or whole columns.
        """

    @abstractmethod
    def read_columns(self, columns: NDArray[np.int64], dtype: DTypeLike, wanted: RowSelection) -> NDArray[Any]:
        """Some columns of samples.

        Parameters
        ----------
        columns : ndarray of int64
            Numbers of the columns, ascending.
        dtype : dtype
            Dtype of the result.
        wanted : RowSelection
            Wanted samples.

        Returns
        -------
        ndarray of shape (n_samples_wanted, n_columns_wanted)
        """


def check_shape(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse an impossible shape, since a file may claim any.

    Parameters
    ----------
    name : str
        Array, for messages.
    shape : tuple of int
        Shape according to the file.
    dtype : dtype
        Dtype according to the file.

    Raises
    ------
    DataError
        If a length is not a number or negative, or the values exceed 64-bit addresses.
    """
    whole = all(type(n) is int and n >= 0 for n in shape)
    if not whole or math.prod(filter(None, shape)) * max(1, dtype.itemsize) > _MOST_BYTES:
        raise DataError(f"{name}: header is damaged: no array has the shape {shown(shape)}")


class StoredArray(TableArray):
    """An array stored as consecutive numbers in a file.

    Parameters
    ----------
    name : str
        Name of the array, for messages.
    header : Header
        Description of the array in the file.
    opener : callable
        Opens the stream of bytes, including the header.
    path : Path
        The file.
    packed : bool
        Whether the file is compressed or an archive; if not, it is mapped into memory.
    """

    def __init__(self, name: str, header: Header, opener: Opener, path: Path, *, packed: bool) -> None:
        self.name, self._opener, self._path, self._packed = name, opener, path, packed
        self.shape, self.dtype, fortran_order, self._offset = header
        self._by_columns = fortran_order and len(self.shape) > 1
        check_shape(name, self.shape, self.dtype)
        if packed:
            # each column takes an 8-byte number in memory
            column_bytes = math.prod(self.shape[:1]) * self.dtype.itemsize
            self._check_packed(max(8 * math.prod(self.shape[1:]), column_bytes * self._by_columns))
            return
        needed = self._offset + math.prod(self.shape) * self.dtype.itemsize
        if (size := path.stat().st_size) < needed:
            raise DataError(f"{name}: file is cut short: it has {size} bytes, but its header promises {needed}")

    def _check_packed(self, n_bytes: int) -> None:
        """Refuse to hold `n_bytes` at once for a file that is far smaller."""
        if self._packed:
            check_line(self.name, n_bytes, self._path)

    def blocks(self) -> Iterator[tuple[int, int, NDArray[Any]]]:
        """Yield whole rows, or whole columns for Fortran order."""
        n_rows, n_columns = self.table_shape
        if not self._by_columns:
            yield from ((i, 0, part) for i, part in self._lines(n_rows, n_columns))
        elif len(self.shape) == 2:
            yield from ((0, i, part.T) for i, part in self._lines(n_columns, n_rows))
        else:
            # columns are a sample's values in C order; with more than two axes the file's order differs
            columns = np.arange(n_columns).reshape(self.shape[1:]).ravel(order="F").tolist()
            for i, part in self._lines(n_columns, n_rows):
                yield from ((0, columns[i + k], line[:, np.newaxis]) for k, line in enumerate(part))

    def _lines(self, n_lines: int, line_length: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield blocks of rows of a C-ordered table."""
        line_bytes = line_length * self.dtype.itemsize
        n_block = max(1, BLOCK_BYTES // max(1, line_bytes))
        if not self._packed and n_lines and line_length:
            # mapped into memory: values are read when they are used
            table = np.memmap(self._path, self.dtype, "r", self._offset, (n_lines, line_length))
            yield from ((i, table[i : i + n_block]) for i in range(0, n_lines, n_block))
            return
        with self._opener() as stream:
            stream.skip(self._offset)
            for i in range(0, n_lines, n_block):
                n = min(n_block, n_lines - i)
                values = np.frombuffer(stream.read_exactly(n * line_bytes), dtype=self.dtype)
                yield i, values.reshape(n, line_length)

    def read_columns(self, columns: NDArray[np.int64], dtype: DTypeLike, wanted: RowSelection) -> NDArray[Any]:
        """Read columns of samples: all of a compressed file, but only the needed pages of others."""
        result = np.empty((wanted.count(self.table_shape[0]), len(columns)), dtype=dtype)
        for i_row, i_column, part in self.blocks():
            first, last = np.searchsorted(columns, [i_column, i_column + part.shape[1]])
            place, chosen = wanted.of(i_row, len(part))
            result[place, first:last] = part[chosen][:, columns[first:last] - i_column]
        return result

    def runs(self, first: int, lengths: Iterable[int]) -> Iterator[NDArray[Any]]:
        """Yield consecutive runs of the given lengths from a one-dimensional array, starting at value `first`.

        Yields
        ------
        ndarray of shape (length,)
        """
        with self._opener() as stream:
            stream.skip(self._offset + first * self.dtype.itemsize)
            for n in lengths:
                self._check_packed(n * self.dtype.itemsize)
                yield np.frombuffer(stream.read_exactly(n * self.dtype.itemsize), self.dtype)

    def load(self) -> NDArray[Any]:
        """Load all values of a small array."""
        return next(self.runs(0, [int(np.prod(self.shape, dtype=np.int64))])).reshape(self.shape)


def open_npy(path: Path) -> StoredArray:
    """Open the array of an npy file, plain or compressed.

    Parameters
    ----------
    path : Path
        An existing file.

    Returns
    -------
    StoredArray
    """
    return _from_npy_stream(str(path), lambda: open_stream(path), path, packed=is_compressed(path))


def open_npz(path: Path) -> dict[str, Callable[[], StoredArray]]:
    """Map the names of the arrays in an npz file to functions that open them; unopened arrays are not checked.

    Parameters
    ----------
    path : Path
        An existing file.

    Returns
    -------
    dict of str to callable

    Raises
    ------
    DataError
        If the archive is damaged.
    """
    with _archive(path) as archive:
        members = [name for name in archive.namelist() if name.endswith(".npy")]
    names = {member.removesuffix(".npy"): member for member in members}
    return {
        name: partial(_from_npy_stream, f"{path}[{name}]", _member_opener(path, member), path, packed=True)
        for name, member in names.items()
    }


def _member_opener(path: Path, member: str) -> Opener:
    """Return a function that opens a member of an archive."""

    @contextmanager
    def opener() -> Iterator[ByteStream]:
        with ExitStack() as opened:
            with _archive(path) as archive:
                opened.push(archive)
                stream = opened.enter_context(archive.open(member))
            yield ByteStream(path, stream)

    return opener


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive, and convert zipfile's errors about damage to DataError."""
    try:
        yield zipfile.ZipFile(path)
    # RuntimeError: encrypted, or a version or compression that zipfile does not support
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, KeyError, EOFError) as error:
        raise DataError(f"{path}: npz archive is cut short or damaged ({error}); copy or download it again") from None


def _from_npy_stream(name: str, opener: Opener, path: Path, *, packed: bool) -> StoredArray:
    """Read the header of an npy stream."""
    with opener() as stream:
        # an early end is reported as such, not as a damaged header
        file = cast("IO[bytes]", SimpleNamespace(read=stream.read_exactly))
        try:
            version = np.lib.format.read_magic(file)
            first = version[0] == 1
            read_header = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
            shape, fortran_order, dtype = read_header(file)
        except DataError:
            raise
        except Exception as error:
            # numpy parses the header as Python, so a damaged one may raise almost any error
            what = str(error).splitlines()[:1] or [type(error).__name__]
            raise DataError(f"{name}: npy header is damaged ({what[0][:200]})") from None
        offset = stream.read_bytes
    if dtype.hasobject:
        raise DataError(
            f"{name}: holds Python objects, which are never loaded, since a pickle can run any code; save numbers as "
            "numbers, texts as y.astype(str), and a sparse matrix by scipy.sparse.save_npz"
        )
    return StoredArray(name, (shape, dtype, fortran_order, offset), opener, path, packed=packed)


def open_idx(path: Path) -> StoredArray:
    """Open the array of an IDX file (MNIST's format), plain or compressed.

    Parameters
    ----------
    path : Path
        An existing file.

    Returns
    -------
    StoredArray

    Raises
    ------
    DataError
        If the header is invalid.
    """
    with open_stream(path) as stream:
        magic = stream.read_exactly(4)
        if magic[:2] != b"\0\0" or magic[2] not in IDX_DTYPES or not magic[3]:
            raise DataError(f"{path}: is not an IDX file: it begins with the bytes {magic.hex(' ')}")
        shape = tuple(np.frombuffer(stream.read_exactly(4 * magic[3]), dtype=">u4").tolist())
        offset = stream.read_bytes
    header = shape, np.dtype(IDX_DTYPES[magic[2]]), False, offset
    return StoredArray(str(path), header, lambda: open_stream(path), path, packed=is_compressed(path))
