"""Ranges and permutations of samples, for dense and for sparse features."""

from __future__ import annotations

from typing import Any

import numpy as np

from distnewton.backend import Array, is_sparse, library_of, on_device

_COLUMNS_AT_ONCE = 64


def row_range(X: Any, start: int, stop: int) -> Any:
    """Some consecutive samples, as a view: sparse rows share the memory of the whole, too.

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
    if not is_sparse(X):
        return X[start:stop]
    if on_device(X):
        return library_of(X).sparse_rows(X, start, stop)
    first, last = X.indptr[start], X.indptr[stop]
    parts = X.data[first:last], X.indices[first:last], X.indptr[start : stop + 1] - first
    rows = type(X)((stop - start, X.shape[1]), dtype=X.dtype)
    # set directly: the constructor from parts would scan all indices again, at each chunk of each evaluation
    rows.data, rows.indices, rows.indptr = parts
    rows.has_canonical_format = X.has_canonical_format
    return rows


def permute_rows(X: Any, order: Array) -> Any:
    """Put samples in another order: dense in place, a few columns at a time; sparse into a new array.

    Parameters
    ----------
    X : Array or csr_array of shape (n_samples, n_features)
        Features; overwritten when dense.
    order : Array of shape (n_samples,)
        Row ``k`` of the result is row ``order[k]`` of ``X``.

    Returns
    -------
    Array or csr_array
    """
    if not isinstance(X, np.ndarray):
        return X[order]
    for start in range(0, X.shape[1], _COLUMNS_AT_ONCE):
        columns = slice(start, start + _COLUMNS_AT_ONCE)
        X[:, columns] = X[order, columns]
    return X
