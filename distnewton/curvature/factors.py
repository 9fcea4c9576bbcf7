r"""Jacobian factors D^m = dz^L / dS^m of a rank's own output group, stored as compactly as each layer allows.

With a linear output D^L = I, and D^{L-1}[s, k, t] = W^L[t, k] act'(S^{L-1}[s, t]) is a product of two small arrays, so
neither is stored in full. In the layers below, D has shape (|S|, n_out, n_group), where n_group counts the activated
values: for images with max pooling only the chosen ones. If average pooling follows, D is stored for the averages. All
factors provide the two contractions that give J v and J^T u of a block (Khatri-Rao structure; the explicit Jacobian of
[DNM] without forming it).
"""

from __future__ import annotations

from typing import Protocol

from distnewton.backend import Array, Backend, namespace
from distnewton.network.pooling import AveragePooling

ALL = slice(None)


class JacobianFactor(Protocol):
    """D of one layer and output group, for a set of samples."""

    def contract(self, P: Array, out: Array) -> None:
        """Add D . P to ``out``: the change of the outputs for a change P of the pre-activations.

        Parameters
        ----------
        P : Array of shape (n, n_group)
            May be overwritten.
        out : Array of shape (n, n_out)
            Array to add to.
        """
        ...

    def expand(self, U: Array, out: Array) -> None:
        """Write U . D into ``out``: the adjoint of :meth:`contract`.

        Parameters
        ----------
        U : Array of shape (n, n_out)
            Cotangents of the outputs.
        out : Array of shape (n, n_group)
            Overwritten.
        """
        ...

    def dense(self, rows: slice = ALL) -> Array:
        """Compute the full factor of some samples, of shape (n, n_out, n_group)."""
        ...

    def arrays(self) -> list[Array]:
        """Return the stored arrays; the samples are the first axis."""
        ...

    def of_units(self, units: slice, n_units: int) -> JacobianFactor:
        """Restrict the factor to some of the group's ``n_units`` units; a view if each unit has one value."""
        ...


def values_of(array: Array, units: slice, n_units: int) -> Array:
    """Select the values of some units of a group; the last axis holds the values of all units place by place.

    Parameters
    ----------
    array : Array of shape (..., n_places n_units)
        Values of a group.
    units : slice
        Units to select.
    n_units : int
        Number of units of the group.

    Returns
    -------
    Array of shape (..., n_places len(units))
        A view if there is one place, or if all units are selected.
    """
    if units == slice(0, n_units):
        return array
    if array.shape[-1] == n_units:
        return array[..., units]
    by_place = array.reshape(*array.shape[:-1], array.shape[-1] // max(1, n_units), n_units)[..., units]
    chosen: Array = by_place.reshape(*array.shape[:-1], by_place.shape[-2] * by_place.shape[-1])
    return chosen


class IdentityFactor:
    """D^L = I restricted to the columns of one group of outputs.

    Parameters
    ----------
    columns : tuple of int
        Half-open range of the group's outputs.
    n_samples, n_out : int
        Shape of the whole output.
    backend : Backend
        Gives the dtype of :meth:`dense`.
    """

    def __init__(self, columns: tuple[int, int], n_samples: int, n_out: int, backend: Backend) -> None:
        self._columns = slice(*columns)
        self._shape = n_samples, n_out
        self._backend = backend

    def contract(self, P: Array, out: Array) -> None:
        """Add D . P to ``out``."""
        out[:, self._columns] += P

    def expand(self, U: Array, out: Array) -> None:
        """Write U . D into ``out``."""
        out[...] = U[:, self._columns]

    def dense(self, rows: slice = ALL) -> Array:
        """The factor of some samples in full, of shape (n, n_out, n_group)."""
        n, n_out = self._shape
        xp = self._backend.xp
        unit = self._backend.asarray(xp.eye(n_out)[:, self._columns])
        full: Array = xp.broadcast_to(unit, (n, *unit.shape))[rows]
        return full

    def arrays(self) -> list[Array]:
        """What is stored, its first axis the samples'."""
        return []

    def of_units(self, units: slice, n_units: int) -> IdentityFactor:
        """The factor of some units of the group."""
        first = self._columns.start
        return IdentityFactor((first + units.start, first + units.stop), *self._shape, self._backend)


class ScaledFactor:
    """D[s, k, t] = weights[t, k] derivative[s, t], kept as its two parts.

    Parameters
    ----------
    derivative : Array of shape (n, n_group)
        act' of the group's pre-activations.
    weights : Array of shape (n_group, n_out)
        Weights of the output layer that leave this group.
    """

    def __init__(self, derivative: Array, weights: Array) -> None:
        self._derivative = derivative
        self._weights = weights

    def contract(self, P: Array, out: Array) -> None:
        """Add D . P to ``out``; overwrites P."""
        P *= self._derivative
        out += P @ self._weights

    def expand(self, U: Array, out: Array) -> None:
        """Write U . D into ``out``."""
        namespace(out).matmul(U, self._weights.T, out=out)
        out *= self._derivative

    def dense(self, rows: slice = ALL) -> Array:
        """The factor of some samples in full, of shape (n, n_out, n_group)."""
        return self._derivative[rows, None, :] * self._weights.T

    def arrays(self) -> list[Array]:
        """What is stored, its first axis the samples'."""
        return [self._derivative]

    def of_units(self, units: slice, n_units: int) -> ScaledFactor:
        """The factor of some units of the group."""
        weights = values_of(self._weights.T, units, n_units).T
        return ScaledFactor(values_of(self._derivative, units, n_units), weights)


class StoredFactor:
    """D kept in full.

    Parameters
    ----------
    D : Array of shape (n, n_out, n_group)
        The factor.
    backend : Backend
        Provides the batched products.
    """

    def __init__(self, D: Array, backend: Backend) -> None:
        self._D = D
        self._backend = backend
        self._q = backend.empty(*D.shape[:2])

    def contract(self, P: Array, out: Array) -> None:
        """Add D . P to ``out``."""
        out += self._backend.batched_matvec(self._D, P, self._q)

    def expand(self, U: Array, out: Array) -> None:
        """Write U . D into ``out``."""
        self._backend.batched_vecmat(U, self._D, out)

    def dense(self, rows: slice = ALL) -> Array:
        """The factor of some samples in full, of shape (n, n_out, n_group)."""
        return self._D[rows]

    def arrays(self) -> list[Array]:
        """What is stored, its first axis the samples'."""
        return [self._D]

    def of_units(self, units: slice, n_units: int) -> StoredFactor:
        """The factor of some units of the group."""
        return StoredFactor(values_of(self._D, units, n_units), self._backend)


class AveragedFactor:
    """D before average pooling, computed from the factor after it.

    Parameters
    ----------
    factor : JacobianFactor
        Factor of the averages.
    derivative : Array of shape (n, n_group)
        act' of the group's pre-activations.
    pooling : AveragePooling
        Pooling after these values.
    n_averages : int
        Number of averages of the group.
    backend : Backend
        Makes arrays.
    """

    def __init__(
        self, factor: JacobianFactor, derivative: Array, pooling: AveragePooling, n_averages: int, backend: Backend
    ) -> None:
        self._factor, self._derivative, self._pooling = factor, derivative, pooling
        self._averages, self._backend = backend.empty(len(derivative), n_averages), backend

    def contract(self, P: Array, out: Array) -> None:
        """Add D . P to ``out``; overwrites P."""
        P *= self._derivative
        self._pooling.average(P, self._averages)
        self._factor.contract(self._averages, out)

    def expand(self, U: Array, out: Array) -> None:
        """Write U . D into ``out``."""
        self._factor.expand(U, self._averages)
        self._pooling.spread(self._averages, out)
        out *= self._derivative

    def dense(self, rows: slice = ALL) -> Array:
        """The factor of some samples in full, of shape (n, n_out, n_group)."""
        E, derivative = self._factor.dense(rows), self._derivative[rows]
        n, n_out, n_averages = E.shape
        D = self._backend.empty(n * n_out, derivative.shape[1])
        self._pooling.spread(E.reshape(n * n_out, n_averages), D)
        D = D.reshape(n, n_out, derivative.shape[1])
        D *= derivative[:, None, :]
        return D

    def arrays(self) -> list[Array]:
        """What is stored, its first axis the samples'."""
        return [*self._factor.arrays(), self._derivative]

    def of_units(self, units: slice, n_units: int) -> AveragedFactor:
        """The factor of some units of the group."""
        n_averages = self._averages.shape[1] // max(1, n_units) * (units.stop - units.start)
        derivative = values_of(self._derivative, units, n_units)
        return AveragedFactor(
            self._factor.of_units(units, n_units), derivative, self._pooling, n_averages, self._backend
        )
