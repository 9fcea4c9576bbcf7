"""Ranges and permutations of samples, for dense and for sparse features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distnewton.backend import Array, is_packed, is_sparse, library_of, on_device

if TYPE_CHECKING:
    from scipy import sparse

_COLUMNS_AT_ONCE = 64
_MAX_INT32 = 2**31 - 1


def row_range(X: Any, start: int, stop: int) -> Any:
    """Return consecutive samples as a view: sparse rows also share the memory of the whole matrix.

    Parameters
    ----------
    X : Array or csr_array of shape (n_samples, n_features)
        Features.
    start, stop : int
        Half-open range of samples.

    Returns
    -------
    Array or csr_array of shape (stop - start, n_features)
    """
    if not is_sparse(X) or is_packed(X):
        return X[start:stop]
    if (start, stop) == (0, X.shape[0]):
        return X
    if on_device(X):
        return library_of(X).sparse_rows(X, start, stop)
    first, last = X.indptr[start], X.indptr[stop]
    parts = X.data[first:last], X.indices[first:last], X.indptr[start : stop + 1] - first
    rows = type(X)((stop - start, X.shape[1]), dtype=X.dtype)
    # set directly: the constructor would scan all indices again, for each chunk of each evaluation
    rows.data, rows.indices, rows.indptr = parts
    rows.has_canonical_format = X.has_canonical_format
    return rows


def keep_by_columns(X: Any) -> None:
    """Also keep sparse features by columns, as ``by_columns``, for products with all rows.

    If there are more features than samples, products then access the smaller of the two arrays at random, and take a
    third of the time (11,314 texts of 130,107 words, 20 outputs: 31 ms instead of 99), for twice the memory.

    Parameters
    ----------
    X : csr_array of shape (n_samples, n_features)
        On the host.
    """
    X.by_columns = X.tocsc()


def permute_rows(X: Any, order: Array) -> Any:
    """Reorder samples: dense and packed in place, a few columns at a time; sparse into a new array.

    Parameters
    ----------
    X : Array or csr_array of shape (n_samples, n_features)
        Features; overwritten when dense or packed.
    order : Array of shape (n_samples,)
        Row ``k`` of the result is row ``order[k]`` of ``X``.

    Returns
    -------
    Array or csr_array
    """
    if is_packed(X):
        return X.permuted(order)
    if not isinstance(X, np.ndarray):
        return X[order]
    for start in range(0, X.shape[1], _COLUMNS_AT_ONCE):
        columns = slice(start, start + _COLUMNS_AT_ONCE)
        X[:, columns] = X[order, columns]
    return X


def join_rows(
    pieces: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]], n_columns: int, dtype: np.dtype
) -> sparse.csr_array:
    """Join the sparse rows of all blocks of a file into one matrix.

    Parameters
    ----------
    pieces : list of (lengths, indices, values)
        Values of each row, and their columns, which ascend within a row. The list is emptied: pieces are freed once
        they are copied.
    n_columns : int
        Columns of the matrix.
    dtype : dtype
        Of its values.

    Returns
    -------
    csr_array
    """
    from scipy import sparse

    lengths = np.concatenate([piece[0] for piece in pieces]) if pieces else np.zeros(0, dtype=np.int32)
    n_values = int(lengths.sum(dtype=np.int64))
    index_dtype = np.int32 if max(n_values, n_columns) <= _MAX_INT32 else np.int64
    pointers = np.zeros(len(lengths) + 1, dtype=index_dtype)
    np.cumsum(lengths, out=pointers[1:])
    indices = np.empty(n_values, dtype=index_dtype)
    values = np.empty(n_values, dtype=dtype)
    pieces.reverse()
    at = 0
    while pieces:
        _, piece_indices, piece_values = pieces.pop()
        end = at + len(piece_values)
        indices[at:end], values[at:end] = piece_indices, piece_values
        at = end
    matrix = sparse.csr_array((values, indices, pointers), shape=(len(lengths), n_columns))
    matrix.has_canonical_format = True  # sorted and unique, as checked; saves scipy a scan of all indices
    return matrix
