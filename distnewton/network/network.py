"""A fully connected network cut into blocks: forward, backward and their two communications.

A rank at layer m computes with its block (i, j): the partial pre-activation Z_i W_ij, summed over boundary (m, j),
and backward the partial cotangent delta_j W_ij^T, summed over boundary (m - 1, i). The two sums are adjoint and are
the only communication of function, gradient and Jacobian ([DNM]).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from distnewton.backend import Array, Backend
from distnewton.network.activations import ACTIVATIONS
from distnewton.network.initialization import initial_params
from distnewton.network.layout import BlockView, ParameterLayout
from distnewton.parallel.grid import ProcessGrid


@dataclass
class Activations:
    """What a forward pass over some samples leaves on a rank.

    Attributes
    ----------
    groups : dict of (int, int) to Array
        Activations by (layer, group), each of shape (n, group width): the features of this rank at (0, i) (dense or
        sparse) and the hidden groups on whose boundary it stands.
    output : Array of shape (n, n_out)
        Outputs of the whole network, replicated.
    """

    groups: dict[tuple[int, int], Any] = field(default_factory=dict)
    output: Any = None

    def rows(self, start: int, stop: int) -> Activations:
        """Views of some of the samples."""
        groups = {key: Z[start:stop] for key, Z in self.groups.items()}
        return Activations(groups, self.output[start:stop])


class PartitionedNetwork:
    """Fully connected layers on a process grid; weights are passed in, as one flat vector a rank.

    Parameters
    ----------
    grid : ProcessGrid
        Who owns what.
    activation : str
        Name of the hidden activation; the output is linear.
    backend : Backend
        Array library and dtype.
    """

    def __init__(self, grid: ProcessGrid, activation: str, backend: Backend) -> None:
        self.grid = grid
        self.backend = backend
        self.activation = ACTIVATIONS[activation]
        self.layout = ParameterLayout(grid.blocks)
        self.n_layers = grid.partition.n_layers
        self.n_out = grid.partition.widths[-1]

    def initial_params(self, seed: int, scheme: str) -> Array:
        """Initial variables of this rank, the same on every grid; shape (n_params_local,)."""
        return initial_params(self.layout, self.grid.partition, self.backend, seed, scheme)

    def forward(self, params: Array, X: Any) -> Activations:
        """Activations and outputs of some samples.

        Parameters
        ----------
        params : Array of shape (n_params_local,)
            This rank's variables.
        X : Array or csr_array of shape (n, n_features_local)
            This rank's features; n is the same on all ranks.

        Returns
        -------
        Activations

        Notes
        -----
        Collective: a sum of (n, group width) numbers over the boundary of each hidden group, one of (n, n_out) over
        all ranks.
        """
        views = self.layout.views(params)
        n = X.shape[0]
        result = Activations()
        if 1 in self.grid.blocks:
            result.groups[0, self.grid.blocks[1].i] = X
        for m in range(1, self.n_layers):
            for j in self.grid.groups(m):
                S = self.backend.empty(n, self.grid.group_width(m, j))
                self._partial_forward(m, j, views, result, S)
                self.grid.sum_boundary(m, j, S)
                result.groups[m, j] = self.activation.apply(S)
        result.output = self._output(n, lambda m, j, S: self._partial_forward(m, j, views, result, S))
        return result

    def _partial_forward(
        self, m: int, j: int, views: dict[int, BlockView], activations: Activations, S: Array
    ) -> None:
        """Write this rank's part of the pre-activations of group j of layer m, zero where it owns none."""
        block = self.grid.blocks.get(m)
        if block is None or block.j != j:
            S[...] = 0
            return
        self.backend.product(activations.groups[m - 1, block.i], views[m].W, S)
        bias = views[m].b
        if bias is not None:
            S += bias

    def _output(self, n: int, write_partial: Callable[[int, int, Array], None]) -> Array:
        """Sum the partial outputs, or their changes, over all ranks: everyone holds them."""
        output = self.backend.zeros(n, self.n_out)
        block = self.grid.blocks.get(self.n_layers)
        if block is not None:
            S = self.backend.empty(n, block.shape[1])
            write_partial(self.n_layers, block.j, S)
            output[:, slice(*block.outputs)] = S
        return self.grid.sum_all(output)

    def add_gradient(self, params: Array, activations: Activations, cotangent: Array, out: Array) -> None:
        r"""Add the gradient of some samples to this rank's block of it: J^T applied to a cotangent of the outputs.

        .. math:: dW^m_{ij} = (Z^{m-1}_i)^T \delta^m_j, \qquad
            \delta^{m-1}_i = \Big(\sum_j \delta^m_j (W^m_{ij})^T\Big) * act'(S^{m-1}_i)

        Parameters
        ----------
        params : Array of shape (n_params_local,)
            This rank's variables.
        activations : Activations
            Of the same variables.
        cotangent : Array of shape (n, n_out)
            Replicated; the gradient of the loss in the outputs, say.
        out : Array of shape (n_params_local,)
            Added to.

        Notes
        -----
        Collective: a sum of (n, group width) numbers over the boundary of each hidden group.
        """
        self.add_products(activations, self.backpropagate(params, activations, cotangent), out)

    def backpropagate(self, params: Array, activations: Activations, cotangent: Array) -> dict[int, Array]:
        """Cotangents of the pre-activations of this rank's own output groups.

        Parameters
        ----------
        params : Array of shape (n_params_local,)
            This rank's variables.
        activations : Activations
            Of the same variables.
        cotangent : Array of shape (n, n_out)
            Cotangent of the outputs, replicated.

        Returns
        -------
        dict of int to Array
            delta^m_j of each own layer, of shape (n, n_out_local).

        Notes
        -----
        Collective: a sum of (n, group width) numbers over the boundary of each hidden group.
        """
        views = self.layout.views(params)
        deltas: dict[tuple[int, int], Array] = {}
        own: dict[int, Array] = {}
        for m in range(self.n_layers, 0, -1):
            block = self.grid.blocks.get(m)
            if block is not None:
                own[m] = cotangent[:, slice(*block.outputs)] if m == self.n_layers else deltas[m, block.j]
            for i in self.grid.groups(m - 1) if m > 1 else ():
                E = self.backend.empty(len(cotangent), self.grid.group_width(m - 1, i))
                if block is not None and block.i == i:
                    self.backend.product(own[m], views[m].W.T, E)
                else:
                    E[...] = 0
                self.grid.sum_boundary(m - 1, i, E)
                deltas[m - 1, i] = self.activation.multiply_derivative(E, activations.groups[m - 1, i])
        return own

    def add_products(self, activations: Activations, deltas: dict[int, Array], out: Array) -> None:
        """Add Z^T delta of each own block to a flat vector: the gradient from its two factors; no communication.

        Parameters
        ----------
        activations : Activations
            Of some samples.
        deltas : dict of int to Array
            Cotangents of the own output groups there, as of :meth:`backpropagate`.
        out : Array of shape (n_params_local,)
            Added to.
        """
        sums = self.layout.views(out)
        for m, delta in deltas.items():
            block = self.grid.blocks[m]
            product = self.backend.empty(*block.shape)
            sums[m].W[...] += self.backend.transposed_product(activations.groups[m - 1, block.i], delta, product)
            bias = sums[m].b
            if bias is not None:
                bias += delta.sum(axis=0)

    def tangent(self, params: Array, activations: Activations, direction: Array) -> Array:
        r"""Change of the outputs along a direction, J v, by forward differentiation (the R-operator).

        .. math:: \dot S^m = \dot Z^{m-1} W^m + Z^{m-1} V^m + v_b, \qquad \dot Z^m = \dot S^m * act'(S^m)

        It needs no Jacobian, at the price of a forward pass with its messages.

        Parameters
        ----------
        params : Array of shape (n_params_local,)
            This rank's variables.
        activations : Activations
            Of the same variables.
        direction : Array of shape (n_params_local,)
            This rank's block of v.

        Returns
        -------
        Array of shape (n, n_out)
            J v, summed over all ranks, replicated.

        Notes
        -----
        Collective, as :meth:`forward`.
        """
        views, changes = self.layout.views(params), self.layout.views(direction)
        n = len(activations.output)
        tangents: dict[tuple[int, int], Array] = {}
        for m in range(1, self.n_layers):
            for j in self.grid.groups(m):
                S = self.backend.empty(n, self.grid.group_width(m, j))
                self._partial_tangent(m, j, views, changes, activations, tangents, S)
                self.grid.sum_boundary(m, j, S)
                tangents[m, j] = self.activation.multiply_derivative(S, activations.groups[m, j])
        return self._output(
            n, lambda m, j, S: self._partial_tangent(m, j, views, changes, activations, tangents, S)
        )

    def _partial_tangent(
        self,
        m: int,
        j: int,
        views: dict[int, BlockView],
        changes: dict[int, BlockView],
        activations: Activations,
        tangents: dict[tuple[int, int], Array],
        S: Array,
    ) -> None:
        """Write this rank's part of the change of the pre-activations of group j of layer m, zero without one."""
        self._partial_forward(m, j, changes, activations, S)
        block = self.grid.blocks.get(m)
        below = tangents.get((m - 1, block.i)) if block is not None and block.j == j else None
        if below is not None:
            S += self.backend.product(below, views[m].W, self.backend.empty(*S.shape))
