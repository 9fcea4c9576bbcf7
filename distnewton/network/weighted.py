r"""Samples of different weight: a loss times the weight of its sample.

.. math:: \frac1l \sum_i \tilde w_i \xi(z^{L,i}; y^i), \qquad \tilde w_i = \frac{l\, w_i}{\sum_k w_k}

so the mean over the l samples is sum w xi / sum w. The weights have mean 1 over all samples, not over each mini-batch
or subsample: their means then have the right expectation, and a part in which all weights are 0 is no special case. For
whole-number weights all sums over samples equal those with repeated samples.

Weights travel with the targets, as records, so that any selection or permutation of the targets includes the weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from distnewton.backend import Array, Backend, namespace, take_rows
from distnewton.network.losses import Loss, LossHessian
from distnewton.parallel.replicas import Draws

_TARGET, _WEIGHT = "target", "weight"


def with_weights(targets: Array, weights: Array | None) -> Array:
    """Combine targets with the weights of their samples.

    Parameters
    ----------
    targets : Array of shape (n,) or (n, n_out)
        Targets as a loss takes them.
    weights : Array of shape (n,) or None
        Finite and not negative; None leaves the targets unchanged.

    Returns
    -------
    Array of records of shape (n,), or of numbers
    """
    if weights is None:
        return targets
    records = np.empty(len(targets), [(_TARGET, targets.dtype, targets.shape[1:]), (_WEIGHT, np.float64)])
    records[_TARGET], records[_WEIGHT] = targets, weights
    return records


class DeviceRecords:
    """Targets with weights on a device, whose libraries lack records: one array per field.

    Parameters
    ----------
    dtype : numpy.dtype
        Type of the records on the host.
    fields : dict of str to Array
        Arrays by name, each of shape (n, ...).
    """

    def __init__(self, dtype: np.dtype[Any], fields: dict[str, Array]) -> None:
        self.dtype, self._fields = dtype, fields

    def __len__(self) -> int:
        return len(self._fields[_TARGET])

    def __getitem__(self, key: Any) -> Any:
        """Return a field by name, or records of some samples."""
        if isinstance(key, str):
            return self._fields[key]
        return DeviceRecords(self.dtype, {name: take_rows(values, key) for name, values in self._fields.items()})


def targets_on(backend: Backend, targets: Array) -> Any:
    """Move targets, with or without weights, to the device of a backend's arrays."""
    library = backend.library
    if library.host or targets.dtype.names is None:
        return library.to_device(targets)
    fields = {name: library.to_device(np.ascontiguousarray(targets[name])) for name in targets.dtype.names}
    return DeviceRecords(targets.dtype, fields)


def normalised(targets: Array) -> tuple[Array, float]:
    """Scale the weights of targets to mean 1, and return the number of samples that they count as.

    Parameters
    ----------
    targets : Array
        Targets of all training samples, with or without weights.

    Returns
    -------
    Array
        Replacement for the targets.
    float
        Sum of the given weights; without weights the number of samples. If it is 0, the weights stay unchanged.
    """
    weights = weights_of(targets)
    if weights is None:
        return targets, float(len(targets))
    total = float(weights.sum())
    if total > 0:
        # divide by the largest first, so that no factor is out of range
        weights /= weights.max()
        weights /= weights.mean()
    return targets, total


def weighted(loss: Loss, targets: Array) -> Loss:
    """Return the loss for targets with or without weights."""
    return loss if weights_of(targets) is None else Weighted(loss)


def plain_targets(targets: Array) -> Array:
    """Return targets without their weights, if they have some."""
    return targets if targets.dtype.names is None else targets[_TARGET]


def weights_of(targets: Array) -> Array | None:
    """Return the weights of samples, float64 of shape (n,); None for equal weights."""
    return None if targets.dtype.names is None else targets[_WEIGHT]


class WeightedHessian:
    """The matrix w B for each sample.

    Parameters
    ----------
    hessian : LossHessian
        B of the samples.
    weights : Array of shape (n,)
        w, not negative.
    """

    def __init__(self, hessian: LossHessian, weights: Array) -> None:
        self._hessian, self._weights = hessian, weights

    def matvec(self, V: Array) -> Array:
        """Multiply w B of each sample with a vector of outputs."""
        product = self._hessian.matvec(V)
        scaled: Array = self._weights.astype(product.dtype)[:, None] * product
        return scaled

    def roots(self, n_roots: int, generator: Draws | None) -> Array:
        """Cotangents whose squares add up to w B, of shape (n, k, n_out)."""
        roots = self._hessian.roots(n_roots, generator)
        scaled: Array = namespace(roots).sqrt(self._weights).astype(roots.dtype)[:, None, None] * roots
        return scaled


class Weighted(Loss):
    """A loss times the weight of its sample; targets are those of :func:`with_weights`.

    Parameters
    ----------
    loss : Loss
        Loss of a sample of weight 1.
    """

    def __init__(self, loss: Loss) -> None:
        self._loss = loss

    def values(self, Z: Array, targets: Array) -> Array:
        """Weighted loss of each sample, in float64."""
        scaled: Array = targets[_WEIGHT] * self._loss.values(Z, targets[_TARGET])
        return scaled

    def gradient(self, Z: Array, targets: Array) -> Array:
        """Gradient of each sample's weighted loss in its outputs, of shape (n, n_out)."""
        gradient = self._loss.gradient(Z, targets[_TARGET])
        gradient *= targets[_WEIGHT][:, None]
        return gradient

    def hessian(self, Z: Array, targets: Array) -> LossHessian:
        """Hessians of the samples' weighted losses in their outputs."""
        return WeightedHessian(self._loss.hessian(Z, targets[_TARGET]), targets[_WEIGHT])

    def residuals(self, Z: Array, targets: Array) -> Array | None:
        """Return each sample's residuals times the root of its weight; None if the loss has no residuals."""
        residuals = self._loss.residuals(Z, targets[_TARGET])
        if residuals is not None:
            residuals *= namespace(residuals).sqrt(targets[_WEIGHT]).astype(residuals.dtype)[:, None]
        return residuals

    def third(self, Z: Array, targets: Array, V: Array) -> float:
        """Third derivative of the sum of the samples' weighted losses along a change of the outputs."""
        # the derivative is cubic in the change, so the cube root of the weight scales the change
        return self._loss.third(Z, targets[_TARGET], namespace(V).cbrt(targets[_WEIGHT])[:, None] * V)
