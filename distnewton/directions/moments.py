"""Second moments of a block's inputs or cotangents: the full matrix, or its diagonal if there are too many of them."""

from __future__ import annotations

from typing import Any

from distnewton.backend import Array, Backend, is_packed, is_sparse, namespace

MAX_WIDTH = 4096
"""Above this many inputs or outputs a factor is kept as its diagonal: 4096 squared float32 numbers are 64 MiB for each
block and take seconds to factorise. Wide sparse data have such first layers, and thousands of labels such last ones."""


def is_wide(n_units: int) -> bool:
    """Whether a factor over this many inputs or outputs is kept as its diagonal."""
    return n_units > MAX_WIDTH


def moments_size(n_units: int) -> int:
    """Count the numbers in a factor over this many inputs or outputs."""
    return n_units if is_wide(n_units) else n_units**2


def second_moments(
    backend: Backend, Z: Any, owns_bias: bool, weights: Array | None = None, ones: Array | None = None
) -> Array:
    r"""Sum w z z^T over rows, with z = (inputs, 1) if the block owns the bias.

    Parameters
    ----------
    backend : Backend
        Array library and dtype.
    Z : Array or csr_array of shape (n, n_in)
        Inputs: one row per sample, or per place of the kernel.
    owns_bias : bool
        Whether a 1 is appended.
    weights : Array of shape (n,) or None
        w; 1 by default.
    ones : Array of shape (n,) or None
        1 in rows where the bias counts, 0 elsewhere; by default it counts in all rows.

    Returns
    -------
    Array of shape (k, k), or (k,) for wide blocks
        k = n_in + owns_bias; the diagonal for :func:`is_wide`.
    """
    n, n_in = Z.shape
    k = n_in + owns_bias
    if is_packed(Z) and not is_wide(n_in):
        Z = Z.toarray()
    dense = not is_sparse(Z)
    w = backend.xp.ones(n, backend.dtype) if weights is None else weights
    of_bias = w if ones is None else w * ones
    if is_wide(n_in):
        moments = backend.empty(k)
        moments[:n_in] = w @ (Z * Z) if dense else Z.multiply(Z).T @ w
        if owns_bias:
            moments[n_in] = of_bias.sum()
        return moments
    moments = backend.empty(k, k)
    weighted = Z if weights is None else (Z * weights[:, None] if dense else Z.multiply(weights[:, None]).tocsr())
    product = Z.T @ weighted
    moments[:n_in, :n_in] = product if dense else product.toarray()
    if owns_bias:
        moments[n_in, :n_in] = Z.T @ of_bias
        moments[:n_in, n_in] = moments[n_in, :n_in]
        moments[n_in, n_in] = of_bias.sum()
    return moments


def shifted(moments: Array, shift: float) -> Array:
    """Copy moments with a number added to the diagonal."""
    copy = moments.copy()
    if copy.ndim == 1:
        copy += shift
    else:
        copy.reshape(-1)[:: len(copy) + 1] += shift
    return copy


def inverted(backend: Backend, moments: Array) -> Array:
    """Invert a positive definite matrix, or each number of a diagonal."""
    return 1 / moments if moments.ndim == 1 else backend.inverse(moments)


def apply_right(V: Array, inverse: Array, out: Array) -> None:
    """Write the product of a block of shape (k, n_out) with an inverse, full or diagonal, to ``out``."""
    multiply = namespace(out).multiply if inverse.ndim == 1 else namespace(out).matmul
    multiply(V, inverse, out=out)


def apply_left(inverse: Array, V: Array) -> Array:
    """Multiply an inverse, full or diagonal, with a block of shape (k, n_out)."""
    return inverse[:, None] * V if inverse.ndim == 1 else inverse @ V


def blend(average: Array | None, sample: Array, weight: float) -> Array:
    """Update a moving average: (1 - weight) old + weight new; returns the new value if there is no old one."""
    # an earlier version kept the full matrix of any number of outputs, and its checkpoints have it
    if average is None or average.shape != sample.shape:
        return sample
    average *= 1.0 - weight
    average += weight * sample
    return average
