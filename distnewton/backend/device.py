"""Backend operations on arrays in device memory, by functions that numpy and cupy share."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np

from distnewton.backend.arrays import Array, Library, is_sparse, on_device
from distnewton.backend.cpu import FACTOR_ADVICE, SYSTEM_ADVICE, Backend
from distnewton.errors import NumericalError

_MORE_AT_ONCE = 64
"""Numbers that a device processes at a time, relative to a processor's cache: each operation is a launch."""


class DeviceBackend(Backend):
    """Arrays of one floating-point type on a device; see :class:`~distnewton.backend.Backend` for the methods."""

    @property
    @abstractmethod
    def library(self) -> Library:
        """Library of the arrays."""

    def empty(self, *shape: int) -> Array:
        """Allocate an uninitialised array."""
        result: Array = self.xp.empty(shape, self.dtype)
        return result

    def zeros(self, *shape: int) -> Array:
        """Make an array of zeros."""
        result: Array = self.xp.zeros(shape, self.dtype)
        return result

    def small_integers(self, *shape: int) -> Array:
        """Allocate an uninitialised array of numbers from 0 to 255."""
        result: Array = self.xp.empty(shape, np.uint8)
        return result

    def asarray(self, values: Any) -> Array:
        """Convert values to an array of this backend's dtype on the device."""
        if on_device(values):
            result: Array = values.astype(self.dtype, copy=False)
            return result
        moved: Array = self.library.to_device(np.asarray(values, self.dtype))
        return moved

    @abstractmethod
    def features(self, X: Any) -> Any:
        """Move dense or sparse features of numpy and scipy to the device; device arrays stay there."""

    def at_once(self, n_numbers: int) -> int:
        """Return how many numbers to process at a time, given a number that stays in a processor's cache."""
        return n_numbers * _MORE_AT_ONCE

    def dot(self, x: Array, y: Array) -> float:
        """Compute the inner product of two vectors, accumulated in float64."""
        return self.library.dot(x, y)

    def product(self, Z: Any, W: Array, out: Array) -> Array:
        """Compute ``Z @ W`` into ``out``; Z may be sparse."""
        if is_sparse(Z):
            out[...] = Z @ W
            return out
        return self._matmul(Z, W, out)

    def transposed_product(self, Z: Any, T: Array, out: Array) -> Array:
        """Compute ``Z.T @ T`` into ``out``; Z may be sparse."""
        if is_sparse(Z):
            out[...] = Z.T @ T
            return out
        return self._matmul(Z.T, T, out)

    def _matmul(self, A: Array, B: Array, out: Array) -> Array:
        result: Array = self.xp.matmul(A, B, out=out)
        return result

    def stacked_matvec(self, A: Array, x: Array) -> Array:
        """Multiply each matrix of a stack by its vector, (..., k, m) times (..., m); a new array."""
        result: Array = self.xp.matmul(A, x[..., None])[..., 0]
        return result

    def batched_matvec(self, D: Array, P: Array, out: Array) -> Array:
        """Multiply a matrix by a vector for each sample: (n, k, m) times (n, m) into (n, k)."""
        out[...] = self.stacked_matvec(D, P)
        return out

    def batched_vecmat(self, U: Array, D: Array, out: Array) -> Array:
        """Multiply a vector by a matrix for each sample: (n, k) times (n, k, m) into (n, m)."""
        out[...] = self.xp.matmul(U[:, None, :], D)[:, 0, :]
        return out

    def windows(self, images: Array, size: tuple[int, int], stride: tuple[int, int]) -> Array:
        """View the sliding windows of images, without a copy; do not write to it."""
        result: Array = self.xp.lib.stride_tricks.as_strided(images, *self.window_layout(images, size, stride))
        return result

    def inverse(self, A: Array) -> Array:
        """Invert a symmetric positive definite matrix by Cholesky, in float64 if float32 fails."""
        root = self._triangular_inverse(self._factor_of(A, FACTOR_ADVICE))
        return self.asarray(root.T @ root)

    def inverses(self, A: Array) -> Array:
        """Invert many small symmetric positive definite matrices by Cholesky, in float64."""
        if not self.library.scalar(self.xp.isfinite(A).all()):
            result: Array = self.xp.full_like(A, np.nan)
            return result
        factors = self._cholesky_of(A.astype(np.float64))
        if factors is None:
            raise NumericalError(FACTOR_ADVICE)
        roots = self.xp.linalg.inv(factors)
        return self.asarray(self.xp.swapaxes(roots, -1, -2) @ roots)

    def cholesky(self, A: Array) -> Array:
        """Compute the lower Cholesky factor, in float64 if this dtype fails."""
        return self._factor_of(A, SYSTEM_ADVICE)

    def solve(self, factor: Array, b: Array) -> Array:
        """Solve L L^T x = b."""
        y = self.solve_triangular(factor, b.astype(factor.dtype, copy=False), transposed=False)
        return self.asarray(self.solve_triangular(factor, y, transposed=True))

    def _factor_of(self, A: Array, advice: str) -> Array:
        """Compute the lower Cholesky factor, in float64 if this dtype fails."""
        for dtype in dict.fromkeys((self.dtype, np.dtype(np.float64))):
            factor = self._cholesky_of(A.astype(dtype, copy=False))
            if factor is not None:
                return factor
        raise NumericalError(advice)

    def _cholesky_of(self, A: Array) -> Array | None:
        """Compute lower Cholesky factors of one matrix or many; None if one is not positive definite."""
        try:
            factor: Array = self.xp.linalg.cholesky(A)
        except np.linalg.LinAlgError:
            return None
        return factor

    def _triangular_inverse(self, L: Array) -> Array:
        """Invert a lower triangular matrix."""
        result: Array = self.xp.linalg.inv(L)
        return result

    def solve_triangular(self, L: Array, b: Array, *, transposed: bool) -> Array:
        """Solve L x = b, or L^T x = b."""
        result: Array = self.xp.linalg.solve(L.T if transposed else L, b)
        return result
