"""numpy on the CPU, and operations beyond the common array functions.

Products with sparse features, inner products in float64, batched matrix-vector products and factorisations are defined
here, because array libraries differ in these operations.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np

from distnewton.backend.arrays import HOST, Array, Library, is_sparse
from distnewton.errors import NumericalError
from distnewton.frozen import frozen

_BEYOND_CACHES = 1 << 24
_ROW = range(256, 4096)
_SMALL = 64
"""Largest number of rows for which a triangular matrix is inverted as a general one."""

FACTOR_ADVICE = (
    "a damped curvature factor is not positive definite: the statistics overflowed, or the damping is too small for "
    "the precision; raise method.damping or scale the data ([data] scale)"
)
SYSTEM_ADVICE = (
    "the damped matrix in sample space is not positive definite: a value overflowed, or the damping is too "
    "small for the precision; raise method.damping or use float64 ([run] dtype)"
)


@frozen
class Backend:
    """Arrays of one floating-point type.

    Attributes
    ----------
    dtype : numpy.dtype
        float32 or float64; inner products and sums of losses are accumulated in float64 in both.
    """

    dtype: np.dtype[Any]

    @property
    def library(self) -> Library:
        """Library of the arrays."""
        return HOST

    @property
    def xp(self) -> Any:
        """The common array functions."""
        return self.library.xp

    @property
    def memory_limit(self) -> int | None:
        """Bytes of device memory that arrays may occupy; None if they are in host memory."""
        return None

    @property
    def description(self) -> str:
        """Description of the device, shown at the start of a run."""
        return "CPU"

    @classmethod
    def of(cls, dtype: str) -> Backend:
        """Make a backend from the name of a dtype."""
        return cls(np.dtype(dtype))

    def empty(self, *shape: int) -> Array:
        """Allocate an uninitialised array."""
        return np.empty(shape, self.dtype)

    def zeros(self, *shape: int) -> Array:
        """Make an array of zeros."""
        return np.zeros(shape, self.dtype)

    def small_integers(self, *shape: int) -> Array:
        """Allocate an uninitialised array of numbers from 0 to 255."""
        return np.empty(shape, np.uint8)

    def asarray(self, values: Any) -> Array:
        """Convert values to an array of this backend's dtype, on the device if there is one."""
        return np.asarray(values, self.dtype)

    def features(self, X: Any) -> Any:
        """Move dense or sparse features of numpy and scipy to the device; without one, return them."""
        return X

    def at_once(self, n_numbers: int) -> int:
        """Return how many numbers to process at a time, given a number that stays in a processor's cache."""
        return n_numbers

    def dot(self, x: Array, y: Array) -> float:
        """Compute the inner product of two vectors, accumulated in float64."""
        return HOST.dot(x, y)

    def product(self, Z: Any, W: Array, out: Array) -> Array:
        """Compute ``Z @ W`` into ``out``; Z may be sparse."""
        if not is_sparse(Z):
            return np.matmul(Z, W, out=out)
        out[...] = getattr(Z, "by_columns", Z) @ W
        return out

    def transposed_product(self, Z: Any, T: Array, out: Array) -> Array:
        """Compute ``Z.T @ T`` into ``out``; Z may be sparse."""
        if not is_sparse(Z):
            return np.matmul(Z.T, T, out=out)
        out[...] = getattr(Z, "by_columns", Z).T @ T
        return out

    def stacked_matvec(self, A: Array, x: Array) -> Array:
        """Multiply each matrix of a stack by its vector, (..., k, m) times (..., m); a new array."""
        result: Array = np.matvec(A, x)
        return result

    def batched_matvec(self, D: Array, P: Array, out: Array) -> Array:
        """Multiply a matrix by a vector for each sample: (n, k, m) times (n, m) into (n, k)."""
        if _streams(D):
            return np.vecdot(D, P[:, None, :], out=out)
        return np.matvec(D, P, out=out)

    def batched_vecmat(self, U: Array, D: Array, out: Array) -> Array:
        """Multiply a vector by a matrix for each sample: (n, k) times (n, k, m) into (n, m)."""
        if D.shape[1] == 1:
            return np.multiply(U, D[:, 0], out=out)
        if _streams(D):
            return np.einsum("nk,nkm->nm", U, D, out=out)
        return np.vecmat(U, D, out=out)

    def windows(self, images: Array, size: tuple[int, int], stride: tuple[int, int]) -> Array:
        """View the sliding windows of images, without a copy.

        Parameters
        ----------
        images : Array of shape (n, height, width, channels)
            Images in any memory layout.
        size, stride : tuple of int
            Window size and stride, vertical then horizontal.

        Returns
        -------
        Array of shape (n, height_out, width_out, *size, channels)
            Read-only view.
        """
        layout = self.window_layout(images, size, stride)
        return np.lib.stride_tricks.as_strided(images, *layout, writeable=False)

    @staticmethod
    def window_layout(
        images: Array, size: tuple[int, int], stride: tuple[int, int]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return shape and strides of :meth:`windows`."""
        (kh, kw), (sh, sw) = size, stride
        n, h, w, c = images.shape
        d0, d1, d2, d3 = images.strides
        shape = n, (h - kh) // sh + 1, (w - kw) // sw + 1, kh, kw, c
        return shape, (d0, d1 * sh, d2 * sw, d1, d2, d3)

    def inverse(self, A: Array) -> Array:
        """Invert a symmetric positive definite matrix by Cholesky, in float64 if float32 fails.

        Parameters
        ----------
        A : Array of shape (n, n)
            Matrix, not changed.

        Returns
        -------
        Array of shape (n, n)

        Raises
        ------
        NumericalError
            If the matrix is not positive definite in float64 either.
        """
        for dtype in dict.fromkeys((self.dtype, np.dtype(np.float64))):
            with suppress(np.linalg.LinAlgError):
                root = _triangular_inverse(np.linalg.cholesky(A.astype(dtype, copy=False)))
                return self.asarray(root.T @ root)
        raise NumericalError(FACTOR_ADVICE)

    def inverses(self, A: Array) -> Array:
        """Invert many small symmetric positive definite matrices by Cholesky, in float64.

        Parameters
        ----------
        A : Array of shape (..., n, n)
            Matrices, not changed.

        Returns
        -------
        Array of shape (..., n, n)
            All NaN if ``A`` contains non-finite numbers: the objective reveals diverged training on all ranks.

        Raises
        ------
        NumericalError
            If one of them is not positive definite.
        """
        if not np.isfinite(A).all():
            return np.full_like(A, np.nan)
        try:
            factors = np.linalg.cholesky(A.astype(np.float64))
        except np.linalg.LinAlgError:
            raise NumericalError(FACTOR_ADVICE) from None
        roots = np.linalg.inv(factors)
        return self.asarray(np.matrix_transpose(roots) @ roots)

    def cholesky(self, A: Array) -> Array:
        """Compute the lower Cholesky factor of a symmetric positive definite matrix.

        Parameters
        ----------
        A : Array of shape (n, n)
            Matrix, not changed.

        Returns
        -------
        Array of shape (n, n)
            Factor in this dtype, or in float64 if this dtype fails; ignore entries above the diagonal.

        Raises
        ------
        NumericalError
            If the matrix is not positive definite in float64 either.
        """
        for dtype in dict.fromkeys((self.dtype, np.dtype(np.float64))):
            # the transpose of a symmetric matrix is the same matrix in LAPACK's order
            copied = A.T.astype(dtype, order="K")
            factor, failed = _lapack("potrf", dtype)(copied, lower=True, overwrite_a=True, clean=False)
            if not failed:
                lower: Array = factor
                return lower
        raise NumericalError(SYSTEM_ADVICE)

    def solve(self, factor: Array, b: Array) -> Array:
        """Solve L L^T x = b, for a lower factor from :meth:`cholesky` and b of shape (n,)."""
        x, _ = _lapack("potrs", factor.dtype)(factor, b.astype(factor.dtype, copy=False), lower=True)
        return self.asarray(x)

    def solve_triangular(self, L: Array, b: Array, *, transposed: bool) -> Array:
        """Solve L x = b, or L^T x = b, for a lower triangular matrix; b of shape (n,) or (n, k)."""
        x, _ = _lapack("trtrs", L.dtype)(L, b, lower=True, trans=int(transposed))
        solution: Array = x
        return solution


def _streams(D: Array) -> bool:
    """Whether memory limits products with a stack of matrices: one pass in its order then beats many BLAS calls."""
    # measured on rows of 64 to 30,000 numbers: a third less time from 16 MiB, up to twice as much in the caches
    return D.nbytes >= _BEYOND_CACHES and D.shape[2] in _ROW


def load_lapack() -> None:
    """Import LAPACK before the iterations, which are timed; runs without factorisations start without it."""
    import scipy.linalg  # noqa: F401


def _triangular_inverse(L: Array) -> Array:
    """Invert a lower triangular matrix by halves, with numpy only: importing SciPy takes longer than this."""
    n = len(L)
    if n <= _SMALL:
        small: Array = np.linalg.inv(L)
        return small
    half = n // 2
    inverse = np.zeros_like(L)
    inverse[:half, :half] = upper = _triangular_inverse(L[:half, :half])
    inverse[half:, half:] = lower = _triangular_inverse(L[half:, half:])
    inverse[half:, :half] = -lower @ (L[half:, :half] @ upper)
    return inverse


def _lapack(name: str, dtype: np.dtype[Any]) -> Any:
    """Return LAPACK's function for a name and real dtype."""
    from scipy.linalg import lapack

    return getattr(lapack, ("s" if dtype == np.float32 else "d") + name)
