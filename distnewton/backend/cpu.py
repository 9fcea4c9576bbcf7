"""numpy on the CPU, and what the method needs beyond the common array functions.

Products with sparse features, inner products in float64, batched matrix-vector products and factorisations are gathered
here, because these are the operations in which array libraries differ.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from distnewton.backend.arrays import HOST, Array, Library, is_sparse
from distnewton.errors import NumericalError

_BEYOND_CACHES = 1 << 24
_ROW = range(256, 4096)
_SMALL = 64
"""Triangular matrices of at most so many rows are inverted as any matrix."""

FACTOR_ADVICE = (
    "a damped curvature factor is not positive definite: the statistics overflowed, or the damping is too small for "
    "the precision; raise method.damping or scale the data ([data] scale)"
)
SYSTEM_ADVICE = (
    "the damped matrix in sample space is not positive definite: a value overflowed, or the damping is too "
    "small for the precision; raise method.damping or use float64 ([run] dtype)"
)


@dataclass(frozen=True)
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
        """Whose arrays these are."""
        return HOST

    @property
    def xp(self) -> Any:
        """The common array functions."""
        return self.library.xp

    @property
    def memory_limit(self) -> int | None:
        """Bytes of a device's own memory that arrays may take; None where they take the host's."""
        return None

    @property
    def description(self) -> str:
        """The device in words, for the head of a run."""
        return "CPU"

    @classmethod
    def of(cls, dtype: str) -> Backend:
        """Backend of a dtype given by name."""
        return cls(np.dtype(dtype))

    def empty(self, *shape: int) -> Array:
        """Uninitialised array."""
        return np.empty(shape, self.dtype)

    def zeros(self, *shape: int) -> Array:
        """Array of zeros."""
        return np.zeros(shape, self.dtype)

    def small_integers(self, *shape: int) -> Array:
        """Uninitialised array of numbers from 0 to 255."""
        return np.empty(shape, np.uint8)

    def asarray(self, values: Any) -> Array:
        """Array of this backend's dtype with the given values, moved to the device where there is one."""
        return np.asarray(values, self.dtype)

    def features(self, X: Any) -> Any:
        """Dense or sparse features of numpy and scipy, moved to the device where there is one; else themselves."""
        return X

    def at_once(self, n_numbers: int) -> int:
        """Numbers to work on at a time where so many stay in the cache of a processor."""
        return n_numbers

    def dot(self, x: Array, y: Array) -> float:
        """Inner product of two vectors, accumulated in float64."""
        return HOST.dot(x, y)

    def product(self, Z: Any, W: Array, out: Array) -> Array:
        """Product ``Z @ W`` into ``out``; Z may be sparse."""
        if not is_sparse(Z):
            return np.matmul(Z, W, out=out)
        out[...] = getattr(Z, "by_columns", Z) @ W
        return out

    def transposed_product(self, Z: Any, T: Array, out: Array) -> Array:
        """Product ``Z.T @ T`` into ``out``; Z may be sparse."""
        if not is_sparse(Z):
            return np.matmul(Z.T, T, out=out)
        out[...] = getattr(Z, "by_columns", Z).T @ T
        return out

    def stacked_matvec(self, A: Array, x: Array) -> Array:
        """Products of each matrix of a stack and its vector, (..., k, m) times (..., m); a new array."""
        result: Array = np.matvec(A, x)
        return result

    def batched_matvec(self, D: Array, P: Array, out: Array) -> Array:
        """Products of a matrix and a vector a sample: (n, k, m) times (n, m) into (n, k)."""
        if _streams(D):
            return np.vecdot(D, P[:, None, :], out=out)
        return np.matvec(D, P, out=out)

    def batched_vecmat(self, U: Array, D: Array, out: Array) -> Array:
        """Products of a vector and a matrix a sample: (n, k) times (n, k, m) into (n, m)."""
        if D.shape[1] == 1:
            return np.multiply(U, D[:, 0], out=out)
        if _streams(D):
            return np.einsum("nk,nkm->nm", U, D, out=out)
        return np.vecmat(U, D, out=out)

    def windows(self, images: Array, size: tuple[int, int], stride: tuple[int, int]) -> Array:
        """View of the windows that slide over images, without a copy.

        Parameters
        ----------
        images : Array of shape (n, height, width, channels)
            Any memory layout.
        size, stride : tuple of int
            Vertical, then horizontal.

        Returns
        -------
        Array of shape (n, height_out, width_out, *size, channels)
            Read-only.
        """
        layout = self.window_layout(images, size, stride)
        return np.lib.stride_tricks.as_strided(images, *layout, writeable=False)

    @staticmethod
    def window_layout(
        images: Array, size: tuple[int, int], stride: tuple[int, int]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shape and strides of :meth:`windows`."""
        (kh, kw), (sh, sw) = size, stride
        n, h, w, c = images.shape
        d0, d1, d2, d3 = images.strides
        shape = n, (h - kh) // sh + 1, (w - kw) // sw + 1, kh, kw, c
        return shape, (d0, d1 * sh, d2 * sw, d1, d2, d3)

    def inverse(self, A: Array) -> Array:
        """Inverse of a symmetric positive definite matrix by Cholesky; what float32 cannot factorise, float64 may.

        Parameters
        ----------
        A : Array of shape (n, n)
            CachedSource.

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
        """Inverses of many small symmetric positive definite matrices by Cholesky, in float64.

        Parameters
        ----------
        A : Array of shape (..., n, n)
            CachedSource.

        Returns
        -------
        Array of shape (..., n, n)
            NaN where numbers have overflowed: training that diverges is told by its objective, on all ranks alike.

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
        """Lower Cholesky factor of a symmetric positive definite matrix.

        Parameters
        ----------
        A : Array of shape (n, n)
            Kept.

        Returns
        -------
        Array of shape (n, n)
            In the first of this dtype and float64 that can; what is above the diagonal means nothing.

        Raises
        ------
        NumericalError
            If the matrix is not positive definite in float64 either.
        """
        for dtype in dict.fromkeys((self.dtype, np.dtype(np.float64))):
            # the transpose of a symmetric matrix is the matrix, in the order that LAPACK wants
            copied = A.T.astype(dtype, order="K")
            factor, failed = _lapack("potrf", dtype)(copied, lower=True, overwrite_a=True, clean=False)
            if not failed:
                lower: Array = factor
                return lower
        raise NumericalError(SYSTEM_ADVICE)

    def solve(self, factor: Array, b: Array) -> Array:
        """Solution of L L^T x = b, for a lower factor as of :meth:`cholesky` and b of shape (n,)."""
        x, _ = _lapack("potrs", factor.dtype)(factor, b.astype(factor.dtype, copy=False), lower=True)
        return self.asarray(x)

    def solve_triangular(self, L: Array, b: Array, *, transposed: bool) -> Array:
        """Solution of L x = b, or of L^T x = b, for a lower triangular matrix; b of shape (n,) or (n, k)."""
        x, _ = _lapack("trtrs", L.dtype)(L, b, lower=True, trans=int(transposed))
        solution: Array = x
        return solution


def _streams(D: Array) -> bool:
    """Whether products with a stack of matrices wait for memory: one pass in its order then beats BLAS's many calls."""
    # measured on rows of 64 to 30,000 numbers: from 16 MiB on a third less time, in the caches up to twice as much
    return D.nbytes >= _BEYOND_CACHES and D.shape[2] in _ROW


def load_lapack() -> None:
    """Import what factorises matrices, where no iteration is charged for it; what needs none starts without it."""
    import scipy.linalg  # noqa: F401


def _triangular_inverse(L: Array) -> Array:
    """Inverse of a lower triangular matrix, by halves: numpy alone, as SciPy's takes longer to import than to use."""
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
    """LAPACK's function of a name and real dtype."""
    from scipy.linalg import lapack

    return getattr(lapack, ("s" if dtype == np.float32 else "d") + name)
