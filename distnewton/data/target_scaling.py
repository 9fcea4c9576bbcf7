"""Scaling of regression targets: the network learns (y - mean) / deviation, independent of their units."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnewton.backend import Array
from distnewton.frozen import frozen


@frozen
class TargetScaling:
    """Mean and deviation of the training targets.

    Attributes
    ----------
    mean, deviation : tuple of float
        One for each target; the deviation of a constant target is 1.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @classmethod
    def fit(cls, targets: NDArray[np.float64], weights: NDArray[np.float64] | None = None) -> TargetScaling:
        """Compute mean and deviation of targets.

        Parameters
        ----------
        targets : ndarray of shape (n_samples, n_targets)
            Finite numbers.
        weights : ndarray of shape (n_samples,) or None
            Weight of each sample.

        Returns
        -------
        TargetScaling
        """
        if weights is not None and not weights.any():
            weights = None  # refused later, with a message
        # in units of the largest target, to avoid overflow of squares
        unit = np.abs(targets).max(axis=0)
        unit[unit == 0] = 1
        relative = targets / unit
        mean = np.average(relative, axis=0, weights=weights)
        deviation = np.sqrt(np.average((relative - mean) ** 2, axis=0, weights=weights))
        deviation = np.where(deviation > 2 * np.finfo(np.float64).eps, unit * deviation, 1.0)
        return cls(tuple((unit * mean).tolist()), tuple(deviation.tolist()))

    def to_network(self, targets: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scale targets for the network, shape (n, n_targets)."""
        return np.asarray((targets - np.array(self.mean)) / np.array(self.deviation), np.float64)

    def to_user(self, outputs: Array) -> Array:
        """Convert network outputs on the host to the units of the targets; float64 of shape (n, n_targets)."""
        numbers: Array = outputs.astype(np.float64) * np.array(self.deviation) + np.array(self.mean)
        return numbers

    @property
    def n_digits(self) -> int:
        """Digits that show a number as precisely as 9 digits show its deviation."""
        ratio = np.max(np.abs(self.mean) / np.array(self.deviation))
        return int(min(17, 9 + np.ceil(np.log10(max(1.0, ratio)))))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any] | None) -> TargetScaling | None:
        """Undo :meth:`to_dict`; None stays None."""
        return None if values is None else cls(tuple(values["mean"]), tuple(values["deviation"]))
