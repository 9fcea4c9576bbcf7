r"""A hash of data that does not depend on how samples and features are split; a resumed run recognises its data by it.

The bits of a value are one or two numbers :math:`u < 2^{32}`, and the hash of all values is
:math:`\sum_i a_i \sum_k b_k u_{ik} \bmod 2^{64}` over samples i and numbers k of their features. The weights a and b
are odd random numbers that depend on the place in the whole data set, so ranks can add up their parts. A single changed
value always changes the hash, since odd numbers have inverses; swapped samples do so except with a probability of about
:math:`2^{-32}`. Zeros have no bits, so sparse data have the same hash as the same data in a dense array.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distnewton.data.packed import PackedColumns

if TYPE_CHECKING:
    from distnewton.data.description import Features
    from distnewton.data.row_selection import Chosen

_BLOCK_VALUES = 1 << 16
"""Numbers multiplied at a time, few enough to stay in the cache."""
_BITS = (1 << 64) - 1
_LIMB = 22
"""Bits in a part of a weight: sums of codes over as many rows as memory holds then stay below 2^53."""
_ROWS, _COLUMNS = np.uint64(0x243F6A8885A308D3), np.uint64(0x13198A2E03707344)
"""Starts of the two sequences of weights: digits of pi."""


def fingerprint(X: Features | PackedColumns, rows: Chosen | None = None, first_column: int = 0) -> int:
    """Hash some samples' values of some features, as they were read.

    Parameters
    ----------
    X : ndarray or csr_array of float32 or float64, or PackedColumns, of shape (n_rows, n_columns)
        Values; packed columns are hashed by their codes.
    rows : ndarray of int of shape (n_rows,), optional
        Numbers of the samples in the whole data set; by default from 0.
    first_column : int
        Number of the first column in the whole data set.

    Returns
    -------
    int
        Hash below 2^64; the hashes of parts sum to that of the whole, modulo 2^64.
    """
    if isinstance(X, PackedColumns):
        return _of_packed(X, np.arange(X.shape[0]) if rows is None else rows, first_column)
    n_rows, n_columns = X.shape
    n_parts = X.dtype.itemsize // 4
    rows = np.arange(n_rows) if rows is None else rows
    dense = isinstance(X, np.ndarray)
    # sparse data may have very many columns: compute weights only of those that occur
    of_column = _of_columns(np.arange(n_columns if dense else 0) + first_column, n_parts)
    total, height = 0, max(1, _BLOCK_VALUES * n_rows // max(1, X.size * n_parts))
    for i in range(0, n_rows, height):
        part, of_row = X[i : i + height], _weights(rows[i : i + height], _ROWS)
        if isinstance(part, np.ndarray):
            bits = np.ascontiguousarray(part).view(np.uint32)
            products = of_row * np.einsum("ik,k->i", bits, of_column, dtype=np.uint64, casting="unsafe")
        else:
            of_value = _of_columns(part.indices.astype(np.int64) + first_column, n_parts)
            products = np.repeat(of_row, n_parts * np.diff(part.indptr)) * of_value * part.data.view(np.uint32)
        total += int(products.sum(dtype=np.uint64))
    return total & _BITS


def _of_packed(X: PackedColumns, rows: Chosen, first_column: int) -> int:
    """Hash of codes, by products with weights in three parts, so that float64 holds all sums exactly."""
    of_row, (n, p) = _weights(rows, _ROWS), (X.shape[0], X.n_packed)
    parts = np.stack([(of_row >> np.uint64(_LIMB * k)) & np.uint64(2**_LIMB - 1) for k in range(3)], axis=1)
    codes = np.repeat(np.arange(4.0)[:, None], p, axis=1)
    sums = PackedColumns(X.codes, n, codes, X.numbers[:, :0], np.float64).T @ parts.astype(np.float64)
    shifted = sums.astype(np.uint64) << np.arange(0, 3 * _LIMB, _LIMB, dtype=np.uint64)
    of_column = _of_columns(np.arange(p) + first_column, 2)[::2]
    total = int((shifted.sum(axis=1, dtype=np.uint64) * of_column).sum(dtype=np.uint64))
    return (total + fingerprint(X.numbers, rows, first_column + p)) & _BITS


def _of_columns(numbers: NDArray[np.int64], n_parts: int) -> NDArray[np.uint64]:
    """Weights of the parts of some columns, one column after the other."""
    return _weights(np.add.outer(n_parts * numbers, np.arange(n_parts)).ravel(), _COLUMNS)


def combined(values: int, *arrays: NDArray[Any] | None) -> str:
    """Combine the hashes of a data set's values, labels and weights.

    Parameters
    ----------
    values : int
        Sum of the hashes of all parts.
    *arrays : ndarray or None
        Whole arrays of numbers or texts.

    Returns
    -------
    str
        16 hexadecimal digits.
    """
    digest = hashlib.sha256((values & _BITS).to_bytes(8, "little"))
    for array in arrays:
        digest.update(b"" if array is None else array.dtype.str.encode() + array.tobytes())
    return digest.hexdigest()[:16]


def _weights(numbers: NDArray[Any], start: np.uint64) -> NDArray[np.uint64]:
    """An odd random number for each number (splitmix64)."""
    x = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + start
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))) | np.uint64(1)
