r"""The summary of grouped Newton ([GN3], arXiv 2312.03885): derivatives of the objective along a direction's groups.

With the direction u cut into groups of variables, u = sum_s u_s,

.. math:: \bar g_s = u_s^T g, \qquad \bar H_{st} = u_s^T H u_t, \qquad
    D_s = \frac{d^3}{dt^3} f(\theta + t u_s) \Big|_{t=0}

with the true Hessian H. The authors differentiate reverse on reverse, 1 + 2 S passes for S groups. Here one forward
pass carries the first two derivatives along every group, S_s and S_ss of pre-activations and Z_s and Z_ss of
activations; all groups ride in the same messages:

.. math:: S_s = Z_s W + Z V_s + v_{b,s}, \quad S_{ss} = Z_{ss} W + 2 Z_s V_s, \quad
    Z_s = a' * S_s, \quad Z_{ss} = a' * S_{ss} + a'' * S_s^2

What it leaves out of the second and third derivatives of the outputs, namely the Z_st with s != t and all of third
order, enters linearly from the layer where it arises, so the cotangents delta of the gradient's own backward pass
collect it there. With c = delta a''/a' and e = delta a'''/a', sums over samples, layers and neurons, and B the
Hessian of the loss in the outputs z,

.. math:: n \bar H_{st} &= \langle z_s, B z_t \rangle + \langle \delta, Z_s V_t + Z_t V_s \rangle
        + \langle c, S_s * S_t \rangle \\
    n D_s &= \ell'''[z_s, z_s, z_s] + 3 \langle B z_s, z_{ss} \rangle + 3 \langle \delta, Z_{ss} V_s \rangle
        + 3 \langle c, S_s * S_{ss} \rangle + \langle e, S_s^3 \rangle

The regularisation adds theta^T u_s / C and u_s^T u_s / C to the first two.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distnewton.backend import Array, scalar, to_host, vecdot
from distnewton.network.layers import add_bias
from distnewton.network.layout import ParameterLayout
from distnewton.network.losses import Loss
from distnewton.network.network import Activations, PartitionedNetwork
from distnewton.parallel.partition import Partition, bounds

GROUPS = ("tensor", "kind", "rank", "all")
_MAX_CURVES = 1 << 26
"""Numbers of a boundary that live at a time: more samples are taken in several rounds."""
_CHUNK_SIZE = 1 << 16
"""Numbers that are widened to float64 at a time: they stay in cache."""


class ParameterGroups:
    """A partition of the variables into groups; a block's weights, and its bias, each belong to one.

    Parameters
    ----------
    kind : str
        ``tensor``: the weights and the bias of each layer; ``kind``: all weights, all biases; ``rank``: what each
        rank owns; ``all``: one group.
    partition : Partition
        Who owns what.
    rank : int
        This rank.

    Attributes
    ----------
    n_groups : int
        S, groups without variables included.
    weights, biases : dict of int to int
        Groups of this rank's own weights and biases that are not empty, by layer.
    first_layers : list of int
        By group, the lowest layer in which it has variables; beyond the last where it has none.
    """

    def __init__(self, kind: str, partition: Partition, rank: int) -> None:
        if kind not in GROUPS:
            raise ValueError(f"groups must be one of {', '.join(GROUPS)}, got {kind!r}")
        self._kind, self._n_ranks, L = kind, partition.n_ranks, partition.n_layers
        self.n_groups = {"tensor": 2 * L, "kind": 2, "rank": self._n_ranks, "all": 1}[kind]
        self.weights: dict[int, int] = {}
        self.biases: dict[int, int] = {}
        self.first_layers = [L + 1] * self.n_groups
        for owner in range(self._n_ranks):
            for block in partition.blocks(owner):
                n_in, n_out = block.shape
                sizes = n_in * n_out, n_out if block.owns_bias else 0
                for own, size, is_bias in zip((self.weights, self.biases), sizes, (False, True), strict=True):
                    if not size:
                        continue
                    group = self._group(block.layer, is_bias, owner)
                    self.first_layers[group] = min(self.first_layers[group], block.layer)
                    if owner == rank:
                        own[block.layer] = group

    def _group(self, layer: int, is_bias: bool, owner: int) -> int:
        """Group of the weights or the bias of a block."""
        return {"tensor": 2 * (layer - 1) + is_bias, "kind": int(is_bias), "rank": owner, "all": 0}[self._kind]

    def scaled(self, layout: ParameterLayout, factors: Array, v: Array) -> Array:
        """A vector with each group multiplied by its own factor.

        Parameters
        ----------
        layout : ParameterLayout
            Where the blocks lie.
        factors : Array of shape (n_groups,)
            By group.
        v : Array of shape (n_params_local,)
            CachedSource.

        Returns
        -------
        Array of shape (n_params_local,)
        """
        made = v.copy()
        for m, view in layout.views(made).items():
            if m in self.weights:
                view.W[...] *= float(factors[self.weights[m]])
            if view.b is not None and m in self.biases:
                view.b[...] *= float(factors[self.biases[m]])
        return made


@dataclass(frozen=True)
class Summary:
    """Derivatives of the objective along the groups of a direction, replicated, in float64.

    Attributes
    ----------
    gradient : Array of shape (n_groups,)
        gbar.
    hessian : Array of shape (n_groups, n_groups)
        Hbar; rows of groups without variables are zero, as everywhere.
    third : Array of shape (n_groups,)
        The third derivatives, with their signs.
    """

    gradient: Array
    hessian: Array
    third: Array


def summarise(
    network: PartitionedNetwork,
    params: Array,
    activations: Activations,
    loss: Loss,
    targets: Array,
    deltas: dict[int, Array],
    direction: Array,
    groups: ParameterGroups,
    regularization: float,
    n_samples: int,
) -> Summary:
    """Derivatives of the mean loss of some samples, plus regularisation, along the groups of a direction.

    Parameters
    ----------
    network : PartitionedNetwork
        The network.
    params : Array of shape (n_params_local,)
        The point.
    activations : Activations
        Of the point on these samples.
    loss : Loss
        Loss of a sample.
    targets : Array
        Targets of these samples, replicated.
    deltas : dict of int to Array of shape (n, n_out_local)
        Cotangents of the own output groups for the gradients of the samples' losses.
    direction : Array of shape (n_params_local,)
        This rank's block of u.
    groups : ParameterGroups
        What belongs together.
    regularization : float
        1/C.
    n_samples : int
        Over which the mean is taken: those of all replicas.

    Returns
    -------
    Summary

    Notes
    -----
    Collective: a forward pass with 2 S_m times the numbers, where S_m counts the groups with variables up to layer m,
    and a sum of S_L (S_L + 2) numbers. A boundary holds 2 S_m numbers for each of its values and of the samples taken
    at a time.
    """
    sums = _Sums(network, params, direction, groups)
    n = len(activations.output)
    step = max(1, _MAX_CURVES // (2 * groups.n_groups * _widest(network)))
    for start in range(0, n, step):
        rows = slice(start, min(start + step, n))
        part = {m: delta[rows] for m, delta in deltas.items()}
        here = activations if step >= n else activations.rows(rows.start, rows.stop)
        curves = _Curves(sums, here, part)
        for m in range(1, network.n_layers):
            curves.pass_layer(m)
        curves.finish(loss, targets[rows])
    return sums.summary(n_samples, regularization)


class _Sums:
    """This rank's share of all sums over samples, of groups in the order of their first layers.

    Those that matter at a layer then come first.
    """

    def __init__(
        self, network: PartitionedNetwork, params: Array, direction: Array, groups: ParameterGroups
    ) -> None:
        self.network, self.groups = network, groups
        self.weights, self.changes = network.layout.views(params), network.layout.views(direction)
        first, L = groups.first_layers, network.n_layers
        self.order = sorted((s for s in range(groups.n_groups) if first[s] <= L), key=lambda s: first[s])
        position = {s: a for a, s in enumerate(self.order)}
        self.of_weights = {m: position[s] for m, s in groups.weights.items()}
        self.of_biases = {m: position[s] for m, s in groups.biases.items()}
        self.n_active = [sum(first[s] <= m for s in self.order) for m in range(L + 1)]
        size = len(self.order)
        self.slopes, self.third = np.zeros(size), np.zeros(size)
        self.hessian, self.mixed = np.zeros((size, size)), np.zeros((size, size))

    def summary(self, n: int, regularization: float) -> Summary:
        """Mean over n samples with the regularisation, summed over all ranks, in the order of the groups."""
        for sums in (self.slopes, self.hessian, self.mixed, self.third):
            sums /= n
        if self.network.grid.replica == 0:
            self._regularize(regularization)
        size, order = len(self.order), np.array(self.order, dtype=np.intp)
        hessian = 0.5 * (self.hessian + self.hessian.T) + self.mixed + self.mixed.T
        message = self.network.grid.world.sum_inplace(np.concatenate([self.slopes, self.third, hessian.ravel()]))
        n_groups = self.groups.n_groups
        made = Summary(np.zeros(n_groups), np.zeros((n_groups, n_groups)), np.zeros(n_groups))
        made.gradient[order], made.third[order] = message[:size], message[size : 2 * size]
        made.hessian[np.ix_(order, order)] = message[2 * size :].reshape(size, size)
        return made

    def _regularize(self, regularization: float) -> None:
        """Add the derivatives of theta^T theta / (2 C), of this rank's own variables."""
        dot = self.network.backend.dot
        for m, U in self.changes.items():
            params = self.weights[m]
            pairs = [(self.of_weights.get(m), U.W, params.W), (self.of_biases.get(m), U.b, params.b)]
            for s, change, value in pairs:
                if s is None or change is None or value is None:
                    continue
                self.slopes[s] += regularization * dot(change.ravel(), value.ravel())
                self.hessian[s, s] += regularization * dot(change.ravel(), change.ravel())


class _Curves:
    """The outputs on some samples as curves along each group: the forward pass, and what it adds to the sums."""

    def __init__(self, sums: _Sums, activations: Activations, deltas: dict[int, Array]) -> None:
        network = sums.network
        self._sums, self._network, self._grid, self._backend = sums, network, network.grid, network.backend
        self._activations, self._deltas = activations, deltas
        self._n = len(activations.output)
        # derivatives of the activations of the layer below, by group of neurons, each (2, n_active, n, width)
        self._below: dict[int, Array] = {}

    def pass_layer(self, m: int) -> None:
        """Carry both derivatives through a hidden layer, on all boundaries where this rank stands."""
        grid, activation = self._grid, self._network.activation
        block = grid.blocks.get(m)
        here: dict[int, Array] = {}
        for j in grid.groups(m):
            T = self._backend.zeros(2, self._sums.n_active[m], self._n, self._network.n_elements(m, j))
            own = block is not None and block.j == j
            if own:
                self._add_partial(m, T)
            grid.sum_boundary(m, j, T)
            activated = self._activations.elements(m, j)
            second, third = activation.derivative_ratios(activated)
            if own:
                self._collect(m, T, second, third)
            T[1] += second * (T[0] * T[0])
            here[j] = self._network.average(m, j, activation.multiply_derivative(T, activated))
        self._below = here

    def _add_partial(self, m: int, T: Array) -> None:
        """Write this rank's part of S_s and S_ss into zeros, and collect what its own weights contribute."""
        sums, block, layer = self._sums, self._grid.blocks[m], self._network.layers[m]
        U, W, n_below = sums.changes[m], sums.weights[m].W, sums.n_active[m - 1]
        winners = self._activations.winners.get((m, block.j))
        below = self._below.get(block.i) if n_below else None
        if below is not None:
            for order in range(2):
                for s in range(n_below):
                    layer.elements(below[order, s], W, None, winners, T[order, s])
        if m in sums.of_weights:
            s = sums.of_weights[m]
            inputs, change = self._activations.groups[m - 1, block.i], self._backend.empty(*T.shape[2:])
            layer.elements(inputs, U.W, None, winners, change)
            T[0, s] += change
            if below is not None:
                Q = self._backend.empty(*below.shape[2:])
                layer.input_cotangent(self._deltas[m], U.W, winners, Q)
                self._collect_mixed(s, below, Q)
                if s < n_below:
                    layer.elements(below[0, s], U.W, None, winners, change)
                    T[1, s] += 2.0 * change
        if U.b is not None and m in sums.of_biases:
            add_bias(T[0, sums.of_biases[m]], U.b)

    def _collect_mixed(self, t: int, below: Array, Q: Array) -> None:
        """Add <delta, Z_s V_t> for all s, and 3 <delta, Z_tt V_t>, with Q = delta V_t^T."""
        q = Q.ravel()
        for s in range(below.shape[1]):
            self._sums.mixed[s, t] += self._backend.dot(below[0, s].ravel(), q)
        if t < below.shape[1]:
            self._sums.third[t] += 3.0 * self._backend.dot(below[1, t].ravel(), q)

    def _collect(self, m: int, T: Array, second: Array, third: Array) -> None:
        """Add the terms of the activations' higher derivatives; owners of blocks above one another share the samples.

        Parameters
        ----------
        m : int
            A hidden layer of which this rank owns a block.
        T : Array of shape (2, n_active, n, n_elements of the group)
            S_s and S_ss of its output group.
        second, third : Array of shape (n, n_elements of the group)
            a''/a' and a'''/a'.
        """
        start, stop = bounds(self._n, self._grid.partition.grid_shape(m)[0], self._grid.blocks[m].i)
        n_active = T.shape[1]
        n_rows = max(1, self._backend.at_once(_CHUNK_SIZE) // max(1, 2 * n_active * T.shape[3]))
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

    def finish(self, loss: Loss, targets: Array) -> None:
        """Sum the derivatives of the outputs, and add the terms of the loss; ranks share the samples."""
        L, grid = self._network.n_layers, self._grid
        sums, n_groups = self._sums, len(self._sums.order)
        outputs = self._backend.zeros(2, n_groups, self._n, self._network.n_out)
        block = grid.blocks.get(L)
        if block is not None:
            T = self._backend.zeros(2, n_groups, self._n, block.shape[1])
            self._add_partial(L, T)
            outputs[..., slice(*block.outputs)] = T
        grid.sum_all(outputs)
        rows = slice(*bounds(self._n, grid.size, grid.rank))
        Z, y = self._activations.output[rows].astype(np.float64), targets[rows]
        curves, xp = outputs[:, :, rows].astype(np.float64), self._backend.xp
        first, second = curves[0], curves[1]
        gradient, hessian = loss.gradient(Z, y), loss.hessian(Z, y)
        for s in range(n_groups):
            z = first[s]
            Bz = hessian.matvec(z)
            sums.slopes[s] += scalar(xp.vdot(gradient, z))
            sums.hessian[s] += to_host(xp.tensordot(first, Bz, axes=2))
            sums.third[s] += 3.0 * scalar(xp.vdot(Bz, second[s])) + loss.third(Z, y, z)


def _widest(network: PartitionedNetwork) -> int:
    """Most values a sample of any group, the same on all ranks."""
    partition = network.grid.partition
    return max(
        max(layer.n_elements, layer.n_values) * -(-layer.n_out // n_groups)
        for layer, n_groups in zip(network.shape.layers, partition.splits[1:], strict=True)
    )
