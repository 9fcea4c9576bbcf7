"""The array library behind one object, so that the numerical code names no library.

:class:`Backend` is numpy on the CPU. What the method needs beyond the common array functions (products with sparse
features, inner products in float64, batched matrix-vector products) is gathered here, because these are the
operations in which array libraries differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from distnewton.errors import NumericalError

Array = NDArray[Any]


@dataclass(frozen=True)
class Backend:
    """Arrays of one floating-point type.

    Attributes
    ----------
    dtype : numpy.dtype
        float32 or float64; inner products and sums of losses are accumulated in float64 in both.
    """

    dtype: np.dtype[Any]

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

    def asarray(self, values: Any) -> Array:
        """Array of this backend's dtype with the given values."""
        return np.asarray(values, self.dtype)

    def dot(self, x: Array, y: Array) -> float:
        """Inner product of two vectors, accumulated in float64."""
        if x.dtype == np.float64:
            return float(np.vdot(x, y))
        return float(np.einsum("i,i->", x, y, dtype=np.float64))

    def product(self, Z: Any, W: Array, out: Array) -> Array:
        """Product ``Z @ W`` into ``out``; Z may be sparse."""
        if isinstance(Z, np.ndarray):
            return np.matmul(Z, W, out=out)
        out[...] = Z @ W
        return out

    def transposed_product(self, Z: Any, T: Array, out: Array) -> Array:
        """Product ``Z.T @ T`` into ``out``; Z may be sparse."""
        if isinstance(Z, np.ndarray):
            return np.matmul(Z.T, T, out=out)
        out[...] = Z.T @ T
        return out

    def batched_matvec(self, D: Array, P: Array, out: Array) -> Array:
        """Products of a matrix and a vector a sample: (n, k, m) times (n, m) into (n, k)."""
        return np.matvec(D, P, out=out)

    def batched_vecmat(self, U: Array, D: Array, out: Array) -> Array:
        """Products of a vector and a matrix a sample: (n, k) times (n, k, m) into (n, m)."""
        return np.vecmat(U, D, out=out)

    def inverse(self, A: Array) -> Array:
        """Inverse of a symmetric positive definite matrix by Cholesky; what float32 cannot factorise, float64 may.

        Parameters
        ----------
        A : Array of shape (n, n)
            Kept.

        Returns
        -------
        Array of shape (n, n)

        Raises
        ------
        NumericalError
            If the matrix is not positive definite in float64 either.
        """
        factor = self._cholesky(
            A,
            "a damped curvature factor is not positive definite: the statistics overflowed, or the damping is too "
            "small for the precision; raise method.damping or scale the data ([data] scale)",
        )
        # a Cholesky factor has no zero on its diagonal, so that this cannot fail
        lower, _ = _lapack("potri", factor.dtype)(factor, lower=True, overwrite_c=True)
        inverse = np.tril(lower)
        inverse += np.tril(lower, -1).T
        return self.asarray(inverse)

    def solve(self, A: Array, b: Array) -> Array:
        """Solution of A x = b for a symmetric positive definite matrix, by Cholesky as in :meth:`inverse`.

        Parameters
        ----------
        A : Array of shape (n, n)
            Kept.
        b : Array of shape (n,)
            Right-hand side.

        Returns
        -------
        Array of shape (n,)

        Raises
        ------
        NumericalError
            If the matrix is not positive definite in float64 either.
        """
        factor = self._cholesky(
            A,
            "the damped matrix in sample space is not positive definite: a value overflowed, or the damping is too "
            "small for the precision; raise method.damping or use float64 ([run] dtype)",
        )
        x, _ = _lapack("potrs", factor.dtype)(factor, b.astype(factor.dtype), lower=True)
        return self.asarray(x)

    def _cholesky(self, A: Array, advice: str) -> Array:
        """Lower Cholesky factor, in the first of this dtype and float64 that can; the upper triangle is not cleared."""
        for dtype in dict.fromkeys((self.dtype, np.dtype(np.float64))):
            factor, failed = _lapack("potrf", dtype)(A.astype(dtype), lower=True, overwrite_a=True, clean=False)
            if not failed:
                lower: Array = factor
                return lower
        raise NumericalError(advice)


def _lapack(name: str, dtype: np.dtype[Any]) -> Any:
    """LAPACK's function of a name and real dtype."""
    return getattr(lapack, ("s" if dtype == np.float32 else "d") + name)
