r"""The summary for grouped Newton ([GN3], arXiv 2312.03885): derivatives of the objective along a direction's groups.

With the direction u cut into groups of variables, u = sum_s u_s,

.. math:: \bar g_s = u_s^T g, \qquad \bar H_{st} = u_s^T H u_t, \qquad
    D_s = \frac{d^3}{dt^3} f(\theta + t u_s) \Big|_{t=0}

with the true Hessian H. The authors use nested reverse differentiation, 1 + 2 S passes for S groups. Here one forward
pass carries the first two derivatives along every group (:mod:`~distnewton.curvature.curves`).

It omits some parts of the outputs' second and third derivatives: Z_st with s != t, and all of third order. These enter
linearly from the layer where they arise, so the cotangents delta of the gradient's own backward pass collect them
there. With c = delta a''/a' and e = delta a'''/a', sums over samples, layers and neurons, and B the Hessian of the loss
in the outputs z,

.. math:: n \bar H_{st} &= \langle z_s, B z_t \rangle + \langle \delta, Z_s V_t + Z_t V_s \rangle
        + \langle c, S_s * S_t \rangle \\
    n D_s &= \ell'''[z_s, z_s, z_s] + 3 \langle B z_s, z_{ss} \rangle + 3 \langle \delta, Z_{ss} V_s \rangle
        + 3 \langle c, S_s * S_{ss} \rangle + \langle e, S_s^3 \rangle

The regularisation adds theta^T P u_s / C and u_s^T P u_s / C to the first two; P excludes unpenalised variables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from distnewton.backend import Array, scalar, to_host, vecdot
from distnewton.curvature.curves import Curves
from distnewton.curvature.groups import GROUPS, ParameterGroups
from distnewton.curvature.point import Point
from distnewton.frozen import frozen
from distnewton.network.network import PartitionedNetwork
from distnewton.parallel.cuts import bounds
from distnewton.solvers.damping import penalised_part

if TYPE_CHECKING:
    from distnewton.curvature.sample import CurvatureSample

__all__ = ["GROUPS", "ParameterGroups", "Summary", "summarise"]

_MAX_CURVES = 1 << 26
"""Numbers of a boundary in memory at a time: more samples take several rounds."""
_CHUNK_SIZE = 1 << 16
"""Numbers converted to float64 at a time, few enough to stay in the cache."""


@frozen
class Summary:
    """Derivatives of the objective along the groups of a direction, replicated, in float64.

    Attributes
    ----------
    gradient : Array of shape (n_groups,)
        gbar.
    hessian : Array of shape (n_groups, n_groups)
        Hbar; rows of groups without variables are zero, as are their other entries.
    third : Array of shape (n_groups,)
        Third derivatives, with signs.
    """

    gradient: Array
    hessian: Array
    third: Array


def summarise(
    sample: CurvatureSample, direction: Array, groups: ParameterGroups, regularization: float, penalised: Array | None
) -> Summary:
    """Differentiate the mean loss of some samples, plus regularisation, along the groups of a direction.

    Parameters
    ----------
    sample : CurvatureSample
        The samples.
    direction : Array of shape (n_params_local,)
        This rank's block of u.
    groups : ParameterGroups
        Division of u into groups.
    regularization : float
        1/C.
    penalised : Array of shape (n_params_local,) or None
        1 for regularised variables, 0 for others; None if all are regularised.

    Returns
    -------
    Summary

    Notes
    -----
    Collective: passes of :class:`~distnewton.curvature.curves.Curves`, and a sum of S_L (S_L + 2) numbers. A boundary
    holds 2 S_m numbers for each of its values and of the samples taken at a time.
    """
    sums, point, deltas = _Sums(len(groups.order)), sample.point, sample.loss_cotangents()
    n, step = point.n_samples, max(1, _MAX_CURVES // (2 * groups.n_groups * _widest(point.network)))
    for start in range(0, n, step):
        stop = min(start + step, n)
        part = point if step >= n else point.rows(start, stop)
        _SummedCurves(part, direction, groups, sums, {m: d[start:stop] for m, d in deltas.items()}).add_loss()
    for array in (sums.slopes, sums.hessian, sums.mixed, sums.third):
        array /= sample.n_samples
    if point.network.grid.replica == 0:
        _regularize(sums, point, penalised_part(direction, penalised), groups, regularization)
    return sums.summary(point.network, groups)


class _Sums:
    """This rank's part of all sums over samples, for the groups with variables in their order."""

    def __init__(self, size: int) -> None:
        self.slopes, self.third = np.zeros(size), np.zeros(size)
        self.hessian, self.mixed = np.zeros((size, size)), np.zeros((size, size))

    def summary(self, network: PartitionedNetwork, groups: ParameterGroups) -> Summary:
        """Sums over all ranks, by group."""
        n_groups, size, order = groups.n_groups, len(self.slopes), np.array(groups.order, dtype=np.intp)
        hessian = 0.5 * (self.hessian + self.hessian.T) + self.mixed + self.mixed.T
        message = network.grid.world.sum_inplace(np.concatenate([self.slopes, self.third, hessian.ravel()]))
        summary = Summary(np.zeros(n_groups), np.zeros((n_groups, n_groups)), np.zeros(n_groups))
        summary.gradient[order], summary.third[order] = message[:size], message[size : 2 * size]
        summary.hessian[np.ix_(order, order)] = message[2 * size :].reshape(size, size)
        return summary


def _regularize(sums: _Sums, point: Point, direction: Array, groups: ParameterGroups, regularization: float) -> None:
    """Add this rank's part of the derivatives of theta^T P theta / (2 C); the direction passed is P u."""
    layout, dot = point.network.layout, point.network.backend.dot
    weights, changes = layout.views(point.params), layout.views(direction)
    for m, U in changes.items():
        for whole, value, biases in ((U.W, weights[m].W, False), (U.b, weights[m].b, True)):
            for group, change in groups.parts(layout, m, whole, biases=biases):
                s = groups.order.index(group)
                sums.slopes[s] += regularization * dot(change.ravel(), value.ravel())  # type: ignore[union-attr]
                sums.hessian[s, s] += regularization * dot(change.ravel(), change.ravel())


class _SummedCurves(Curves):
    """The curves of some samples, whose terms are added to the sums during the pass."""

    def __init__(
        self, point: Point, direction: Array, groups: ParameterGroups, sums: _Sums, deltas: dict[int, Array]
    ) -> None:
        super().__init__(point, direction, groups)
        self._sums, self._deltas = sums, deltas

    def meet_weights(self, m: int, s: int, change: Array, below: Array) -> None:
        """Add <delta, Z_t V_s> for all t, and 3 <delta, Z_ss V_s>."""
        network, sums = self.point.network, self._sums
        Q = network.backend.empty(*below.shape[2:])
        winners = self.point.activations.winners.get((m, network.grid.blocks[m].j))
        network.layers[m].input_cotangent(self._deltas[m], change, winners, Q)
        q = Q.ravel()
        for t in range(below.shape[1]):
            sums.mixed[t, s] += network.backend.dot(below[0, t].ravel(), q)
        if s < below.shape[1]:
            sums.third[s] += 3.0 * network.backend.dot(below[1, s].ravel(), q)

    def meet_activation(self, m: int, T: Array, second: Array, third: Array) -> None:
        """Add the terms of the activations' higher derivatives; blocks above one another share the samples."""
        grid, backend, n_active = self.point.network.grid, self.point.network.backend, T.shape[1]
        sharing = grid.partition.column(m, grid.blocks[m].j)
        start, stop = bounds(self.point.n_samples, len(sharing), sharing.index(grid.rank))
        n_rows = max(1, backend.at_once(_CHUNK_SIZE) // max(1, 2 * n_active * T.shape[3]))
        for first in range(start, stop, n_rows):
            rows = slice(first, min(first + n_rows, stop))
            delta = self._deltas[m][rows].astype(np.float64)
            c, e = (delta * second[rows]).ravel(), (delta * third[rows]).ravel()
            curves = T[:, :, rows].astype(np.float64).reshape(2, n_active, -1)
            S, SS = curves[0], curves[1]
            weighted = S * c
            self._sums.hessian[:n_active, :n_active] += to_host(weighted @ S.T)
            # 3 c S_ss + e S_s^2, in place of a third power, which would cost ten times as much
            SS *= 3.0 * c
            weighted = S * S
            weighted *= e
            SS += weighted
            self._sums.third[:n_active] += to_host(vecdot(S, SS))

    def add_loss(self) -> None:
        """Pass through all layers, and add the terms of the loss; ranks share the samples."""
        outputs, grid, sums, loss = self.outputs(), self.point.network.grid, self._sums, self.point.loss
        rows = slice(*bounds(self.point.n_samples, grid.size, grid.rank))
        Z, y = self.point.activations.output[rows].astype(np.float64), self.point.targets[rows]
        curves, xp = outputs[:, :, rows].astype(np.float64), self.point.network.backend.xp
        first, second = curves[0], curves[1]
        gradient, hessian = loss.gradient(Z, y), loss.hessian(Z, y)
        for s in range(len(first)):
            Bz = hessian.matvec(first[s])
            sums.slopes[s] += scalar(xp.vdot(gradient, first[s]))
            sums.hessian[s] += to_host(xp.tensordot(first, Bz, axes=2))
            sums.third[s] += 3.0 * scalar(xp.vdot(Bz, second[s])) + loss.third(Z, y, first[s])


def _widest(network: PartitionedNetwork) -> int:
    """Largest number of values per sample in any group, the same on all ranks."""
    partition = network.grid.partition
    return max(
        max(layer.n_elements, layer.n_values) * -(-layer.n_out // n_groups)
        for layer, n_groups in zip(network.shape.layers, partition.splits[1:], strict=True)
    )
