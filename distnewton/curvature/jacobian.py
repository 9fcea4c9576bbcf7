r"""The Jacobian of the outputs on the curvature subsample: one backward pass, then no communication.

.. math:: D^L = I, \qquad
    D^{m-1}_i = \Big(\sum_j D^m_j (W^m_{ij})^T\Big) * act'(S^{m-1}_i)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from distnewton.backend import Array, Backend
from distnewton.curvature.factors import IdentityFactor, JacobianFactor, ScaledFactor, StoredFactor
from distnewton.network.layout import BlockView, ParameterLayout
from distnewton.network.network import Activations, PartitionedNetwork

_CHUNK_SIZE = 1 << 20
"""Numbers of D that the backward recursion expands at a time."""


class Jacobian:
    """This rank's columns of J on a set of samples, as Z^{m-1} and D^m of each own block.

    Parameters
    ----------
    inputs : dict of int to Array or csr_array
        Z^{m-1} of the own block's input group, by layer, each of shape (n, n_in_local).
    factors : dict of int to JacobianFactor
        D^m of the own block's output group, by layer.
    layout : ParameterLayout
        Where the blocks lie in a flat vector.
    n_samples, n_out : int
        Shape of J v; with roots their number stands for that of the outputs.
    backend : Backend
        Array library and dtype.
    """

    def __init__(
        self,
        inputs: dict[int, Any],
        factors: dict[int, JacobianFactor],
        layout: ParameterLayout,
        n_samples: int,
        n_out: int,
        backend: Backend,
    ) -> None:
        self.inputs, self.factors = inputs, factors
        self.layout, self.backend = layout, backend
        self.n_samples, self.n_out = n_samples, n_out
        # one work array a layer, reused by every product: fresh ones would cost page faults at each CG step
        self._work = {layer: backend.empty(n_samples, layout.blocks[layer].shape[1]) for layer in factors}

    @property
    def layers(self) -> list[int]:
        """Layers of which this rank owns a block."""
        return list(self.factors)

    def matvec(self, v: Array, layers: Iterable[int] | None = None) -> Array:
        """This rank's part of J v.

        Parameters
        ----------
        v : Array of shape (n_params_local,)
            A direction of this rank's variables.
        layers : iterable of int or None
            Own layers that take part; all by default.

        Returns
        -------
        Array of shape (n, n_out)
            Summed over ranks, this is J v.
        """
        views = self.layout.views(v)
        q = self.backend.zeros(self.n_samples, self.n_out)
        for layer in self.layers if layers is None else layers:
            P = self.backend.product(self.inputs[layer], views[layer].W, self._work[layer])
            bias = views[layer].b
            if bias is not None:
                P += bias
            self.factors[layer].contract(P, q)
        return q

    def rmatvec(self, U: Array, out: Array, layers: Iterable[int] | None = None) -> Array:
        """This rank's block of J^T u.

        Parameters
        ----------
        U : Array of shape (n, n_out)
            Cotangents of the outputs.
        out : Array of shape (n_params_local,)
            The blocks of ``layers`` are overwritten, others are left.
        layers : iterable of int or None
            Own layers that take part; all by default.

        Returns
        -------
        Array of shape (n_params_local,)
        """
        views = self.layout.views(out)
        for layer in self.layers if layers is None else layers:
            T = self._work[layer]
            self.factors[layer].expand(U, T)
            self.backend.transposed_product(self.inputs[layer], T, views[layer].W)
            bias = views[layer].b
            if bias is not None:
                T.sum(axis=0, out=bias)
        return out


def linearize(
    network: PartitionedNetwork, params: Array, activations: Activations, roots: Array | None = None
) -> Jacobian:
    """Jacobian of this rank at the point and samples of a forward pass, or some combinations of its rows.

    Parameters
    ----------
    network : PartitionedNetwork
        The network.
    params : Array of shape (n_params_local,)
        This rank's variables.
    activations : Activations
        Of these variables on the curvature subsample.
    roots : Array of shape (n, k, n_out) or None
        Cotangents of the outputs, replicated: the result is then their products R J with J, of k rows a sample, all of
        whose factors are stored. With roots of the loss Hessian, sum_a c_a c_a^T = B, the Gauss-Newton matrix is
        (R J)^T (R J); random ones make the output sketch.

    Returns
    -------
    Jacobian

    Notes
    -----
    Collective. Without roots, for the last hidden layer a sum of (group width, n_out) numbers over its boundaries;
    for each layer below it, and with roots for that one, too, one of (n, k, group width), where k is n_out without.
    """
    blocks, L = network.grid.blocks, network.n_layers
    views = network.layout.views(params)
    n_rows = network.n_out if roots is None else roots.shape[1]
    factors: dict[int, JacobianFactor] = {}
    for m in range(L, 0, -1):
        above = factors.get(m + 1)
        if m == L:
            made = _output_factor(network, activations, roots)
        elif m == L - 1 and roots is None:
            made = _last_hidden_factors(network, views, activations)
        else:
            made = _hidden_factors(network, views, activations, m, above, n_rows)
        if m in blocks:
            factors[m] = made[blocks[m].j]
    inputs = {m: activations.groups[m - 1, blocks[m].i] for m in factors}
    n = len(activations.output)
    return Jacobian(inputs, dict(sorted(factors.items())), network.layout, n, n_rows, network.backend)


def _output_factor(
    network: PartitionedNetwork, activations: Activations, roots: Array | None
) -> dict[int, JacobianFactor]:
    """D^L, which is I or the roots, on the outputs of the own block, by group."""
    block = network.grid.blocks.get(network.n_layers)
    if block is None:
        return {}
    n, n_out = activations.output.shape
    if roots is None:
        return {block.j: IdentityFactor(block.outputs, n, n_out, network.backend)}
    own = np.ascontiguousarray(network.backend.asarray(roots)[:, :, slice(*block.outputs)])
    return {block.j: StoredFactor(own, network.backend)}


def _last_hidden_factors(
    network: PartitionedNetwork, views: dict[int, BlockView], activations: Activations
) -> dict[int, JacobianFactor]:
    """D^{L-1} of the groups on whose boundary this rank stands: all output weights that leave the group, and act'."""
    grid, L = network.grid, network.n_layers
    above = grid.blocks.get(L)
    made: dict[int, JacobianFactor] = {}
    for i in grid.groups(L - 1):
        weights = network.backend.zeros(grid.group_width(L - 1, i), network.n_out)
        if above is not None and above.i == i:
            weights[:, slice(*above.outputs)] = views[L].W
        grid.sum_boundary(L - 1, i, weights)
        made[i] = ScaledFactor(_derivative(network, activations.groups[L - 1, i]), weights)
    return made


def _hidden_factors(
    network: PartitionedNetwork,
    views: dict[int, BlockView],
    activations: Activations,
    m: int,
    factor_above: JacobianFactor | None,
    n_rows: int,
) -> dict[int, JacobianFactor]:
    """D^m of the groups on whose boundary this rank stands, one step of the recursion down."""
    grid = network.grid
    above = grid.blocks.get(m + 1)
    made: dict[int, JacobianFactor] = {}
    for i in grid.groups(m):
        D = network.backend.empty(len(activations.output), n_rows, grid.group_width(m, i))
        if above is not None and above.i == i and factor_above is not None:
            _propagate(factor_above, views[m + 1].W, D)
        else:
            D[...] = 0
        grid.sum_boundary(m, i, D)
        network.activation.multiply_derivative(D, activations.groups[m, i][:, None, :])
        made[i] = StoredFactor(D, network.backend)
    return made


def _derivative(network: PartitionedNetwork, Z: Array) -> Array:
    """Derivative of the activation where its value is Z."""
    ones = network.backend.empty(*Z.shape)
    ones[...] = 1
    return network.activation.multiply_derivative(ones, Z)


def _propagate(factor: JacobianFactor, W: Array, out: Array) -> None:
    """Write D W^T into ``out``, a chunk of samples at a time: D may be kept as two small parts."""
    n, n_out, n_group = out.shape
    if out.size == 0 or W.size == 0:
        out[...] = 0
        return
    n_rows = max(1, _CHUNK_SIZE // max(1, n_out * len(W.T)))
    for start in range(0, n, n_rows):
        rows = slice(start, start + n_rows)
        D = factor.dense(rows)
        np.matmul(D.reshape(-1, D.shape[2]), W.T, out=out[rows].reshape(-1, n_group))
