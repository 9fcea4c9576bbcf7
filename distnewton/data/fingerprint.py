r"""A hash of data that is the same however samples and features are cut: by it a run knows its data when it resumes.

The bits of a value are one or two numbers :math:`u < 2^{32}`, and the hash of all is
:math:`\sum_i a_i \sum_k b_k u_{ik} \bmod 2^{64}` over samples i and numbers k of their features. The weights a and b
are odd random numbers, functions of the place in the whole data set, so that ranks add up their parts. One value that
changes always changes the hash, since odd numbers have inverses; samples that change places do so but for chances of
about :math:`2^{-32}`. Zeros have no bits: sparse data have the hash of the same data in a dense array.
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
"""Numbers that are multiplied at a time: they stay in the cache."""
_BITS = (1 << 64) - 1
_LIMB = 22
"""Bits of a part of a weight: codes times as many rows as memory holds are then below 2^53."""
_ROWS, _COLUMNS = np.uint64(0x243F6A8885A308D3), np.uint64(0x13198A2E03707344)
"""Beginnings of the two sequences of weights: digits of pi."""


def fingerprint(X: Features | PackedColumns, rows: Chosen | None = None, first_column: int = 0) -> int:
    """Hash of some samples' values of some features, as they were read.

    Parameters
    ----------
    X : ndarray or csr_array of float32 or float64, or PackedColumns, of shape (n_rows, n_columns)
        Values; of packed columns their codes are taken.
    rows : ndarray of int of shape (n_rows,), optional
        Numbers of the samples in the whole data set; by default from 0.
    first_column : int
        Number of the first feature there.

    Returns
    -------
    int
        Below 2^64; those of parts add up to that of the whole, modulo 2^64.
    """
    if isinstance(X, PackedColumns):
        return _of_packed(X, np.arange(X.shape[0]) if rows is None else rows, first_column)
    n_rows, n_columns = X.shape
    n_parts = X.dtype.itemsize // 4
    rows = np.arange(n_rows) if rows is None else rows
    dense = isinstance(X, np.ndarray)
    # of sparse data, which may have very many columns, those weights alone that occur
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
    """Hash of codes, by products whose sums are whole numbers that float64 holds: weights in three parts."""
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
    """Hash of a data set: that of its values, and those of its labels and weights.

    Parameters
    ----------
    values : int
        Sum of the hashes of all parts.
    *arrays : ndarray or None
        Numbers or texts, whole.

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
