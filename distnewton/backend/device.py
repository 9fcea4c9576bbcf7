"""What a backend does with arrays that lie in the memory of a device, in functions that numpy and cupy both have."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np

from distnewton.backend.arrays import Array, Library, is_sparse, on_device
from distnewton.backend.cpu import FACTOR_ADVICE, SYSTEM_ADVICE, Backend
from distnewton.errors import NumericalError

_MORE_AT_ONCE = 64
"""A device wants so many more numbers at a time than the cache of a processor holds: each operation is a launch."""


class DeviceBackend(Backend):
    """Arrays of one floating-point type on a device; methods as of :class:`~distnewton.backend.Backend`."""

    @property
    @abstractmethod
    def library(self) -> Library:
        """Whose arrays these are."""

    def empty(self, *shape: int) -> Array:
        """Uninitialised array."""
        result: Array = self.xp.empty(shape, self.dtype)
        return result

    def zeros(self, *shape: int) -> Array:
        """Array of zeros."""
        result: Array = self.xp.zeros(shape, self.dtype)
        return result

    def small_integers(self, *shape: int) -> Array:
        """Uninitialised array of numbers from 0 to 255."""
        result: Array = self.xp.empty(shape, np.uint8)
        return result

    def asarray(self, values: Any) -> Array:
        """Array of this backend's dtype with the given values, moved to the device where they are not there yet."""
        if on_device(values):
            result: Array = values.astype(self.dtype, copy=False)
            return result
        moved: Array = self.library.to_device(np.asarray(values, self.dtype))
        return moved

    @abstractmethod
    def features(self, X: Any) -> Any:
        """Dense or sparse features of numpy and scipy, moved to the device; what is there already stays."""

    def at_once(self, n_numbers: int) -> int:
        """Numbers to work on at a time where so many stay in the cache of a processor."""
        return n_numbers * _MORE_AT_ONCE

    def dot(self, x: Array, y: Array) -> float:
        """Inner product of two vectors, accumulated in float64."""
        return self.library.dot(x, y)

    def product(self, Z: Any, W: Array, out: Array) -> Array:
        """Product ``Z @ W`` into ``out``; Z may be sparse."""
        if is_sparse(Z):
            out[...] = Z @ W
            return out
        return self._matmul(Z, W, out)

    def transposed_product(self, Z: Any, T: Array, out: Array) -> Array:
        """Product ``Z.T @ T`` into ``out``; Z may be sparse."""
        if is_sparse(Z):
            out[...] = Z.T @ T
            return out
        return self._matmul(Z.T, T, out)

    def _matmul(self, A: Array, B: Array, out: Array) -> Array:
        result: Array = self.xp.matmul(A, B, out=out)
        return result

    def stacked_matvec(self, A: Array, x: Array) -> Array:
        """Products of each matrix of a stack and its vector, (..., k, m) times (..., m); a new array."""
        result: Array = self.xp.matmul(A, x[..., None])[..., 0]
        return result

    def batched_matvec(self, D: Array, P: Array, out: Array) -> Array:
        """Products of a matrix and a vector a sample: (n, k, m) times (n, m) into (n, k)."""
        out[...] = self.stacked_matvec(D, P)
        return out

    def batched_vecmat(self, U: Array, D: Array, out: Array) -> Array:
        """Products of a vector and a matrix a sample: (n, k) times (n, k, m) into (n, m)."""
        out[...] = self.xp.matmul(U[:, None, :], D)[:, 0, :]
        return out

    def windows(self, images: Array, size: tuple[int, int], stride: tuple[int, int]) -> Array:
        """View of the windows that slide over images, without a copy; not to be written to."""
        result: Array = self.xp.lib.stride_tricks.as_strided(images, *self.window_layout(images, size, stride))
        return result

    def inverse(self, A: Array) -> Array:
        """Inverse of a symmetric positive definite matrix by Cholesky; what float32 cannot factorise, float64 may."""
        root = self._triangular_inverse(self._factor_of(A, FACTOR_ADVICE))
        return self.asarray(root.T @ root)

    def inverses(self, A: Array) -> Array:
        """Inverses of many small symmetric positive definite matrices by Cholesky, in float64."""
        if not self.library.scalar(self.xp.isfinite(A).all()):
            result: Array = self.xp.full_like(A, np.nan)
            return result
        factors = self._cholesky_of(A.astype(np.float64))
        if factors is None:
            raise NumericalError(FACTOR_ADVICE)
        roots = self.xp.linalg.inv(factors)
        return self.asarray(self.xp.swapaxes(roots, -1, -2) @ roots)

    def cholesky(self, A: Array) -> Array:
        """Lower Cholesky factor, in the first of this dtype and float64 that can."""
        return self._factor_of(A, SYSTEM_ADVICE)

    def solve(self, factor: Array, b: Array) -> Array:
        """Solution of L L^T x = b."""
        y = self.solve_triangular(factor, b.astype(factor.dtype, copy=False), transposed=False)
        return self.asarray(self.solve_triangular(factor, y, transposed=True))

    def _factor_of(self, A: Array, advice: str) -> Array:
        """Lower Cholesky factor, in the first of this dtype and float64 that can."""
        for dtype in dict.fromkeys((self.dtype, np.dtype(np.float64))):
            factor = self._cholesky_of(A.astype(dtype, copy=False))
            if factor is not None:
                return factor
        raise NumericalError(advice)

    def _cholesky_of(self, A: Array) -> Array | None:
        """Lower Cholesky factors of one matrix or many; None where one of them is not positive definite."""
        try:
            factor: Array = self.xp.linalg.cholesky(A)
        except np.linalg.LinAlgError:
            return None
        return factor

    def _triangular_inverse(self, L: Array) -> Array:
        """Inverse of a lower triangular matrix."""
        result: Array = self.xp.linalg.inv(L)
        return result

    def solve_triangular(self, L: Array, b: Array, *, transposed: bool) -> Array:
        """Solution of L x = b, or of its transpose."""
        result: Array = self.xp.linalg.solve(L.T if transposed else L, b)
        return result
