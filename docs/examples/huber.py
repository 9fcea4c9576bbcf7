r"""A smooth Huber loss, :math:`\sum_a 2 (\sqrt{1 + e_a^2} - 1)` with e = z - y: squares near 0, far away linear."""

from __future__ import annotations

import numpy as np

from distnewton.backend import Array
from distnewton.network.losses import Diagonal, Loss, LossHessian


class Huber(Loss):
    """For regression with outliers, which squares would follow."""

    name = "huber"
    help = "2 (sqrt(1 + e^2) - 1) of each output's error e"
    tasks = ("regression",)

    def _error(self, Z: Array, targets: Array) -> Array:
        return Z - targets.reshape(Z.shape)

    def values(self, Z: Array, targets: Array) -> Array:
        """Loss of each sample, in float64."""
        error = self._error(Z, targets).astype(np.float64)
        return 2.0 * (np.hypot(1.0, error) - 1.0).sum(axis=1)

    def gradient(self, Z: Array, targets: Array) -> Array:
        """Gradient of each sample's loss in its outputs, of shape (n, n_out)."""
        error = self._error(Z, targets)
        return 2.0 * error / np.hypot(1.0, error)

    def hessian(self, Z: Array, targets: Array) -> LossHessian:
        """Hessians of the samples' losses in their outputs."""
        return Diagonal(2.0 * np.hypot(1.0, self._error(Z, targets)) ** -3)

    def third(self, Z: Array, targets: Array, V: Array) -> float:
        """Sum of -6 e (1 + e^2)^(-5/2) v^3."""
        error = self._error(Z, targets).astype(np.float64)
        return float((-6.0 * error * np.hypot(1.0, error) ** -5 * V.astype(np.float64) ** 3).sum())
