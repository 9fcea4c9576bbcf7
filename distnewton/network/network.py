"""A network cut into blocks: forward and backward passes and their communication.

A rank at layer m computes with its block (i, j): forward the partial pre-activation Z_i W_ij, summed over boundary
(m, j), and backward the partial cotangent delta_j W_ij^T, summed over boundary (m - 1, i). The two sums are adjoint and
are the only communication of function, gradient and Jacobian ([DNM]). Convolutions are cut by channels in the same way;
activation, pooling and flattening work within a channel and send nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnewton.backend import Array, Backend, namespace, take_rows
from distnewton.network.activations import ACTIVATIONS
from distnewton.network.initialization import initial_params
from distnewton.network.jets import Jet, JetActivation
from distnewton.network.layers import Layer, make_layer
from distnewton.network.layout import BlockView, layout_of
from distnewton.network.shapes import NetworkShape, dense_shape
from distnewton.parallel.collectives import PendingSum
from distnewton.parallel.cuts import bounds
from distnewton.parallel.grid import ProcessGrid


@dataclass
class Activations:
    """The results of a forward pass over some samples that a rank keeps.

    Attributes
    ----------
    groups : dict of (int, int) to Array
        Outputs of layers by (layer, group), each of shape (n, values of the group): this rank's features at (0, i)
        (dense or sparse) and the hidden groups on whose boundary it stands. Images have their channels last.
    activated : dict of (int, int) to Array
        Activations before average pooling, if there is average pooling. If derivatives are carried along, the activated
        values with the pre-activations' derivatives. Otherwise absent: they are the outputs.
    winners : dict of (int, int) to Array of uint8
        Choices of max pooling, if there is max pooling.
    output : Array of shape (n, n_out)
        Outputs of the whole network, replicated.
    """

    groups: dict[tuple[int, int], Any] = field(default_factory=dict)
    activated: dict[tuple[int, int], Array] = field(default_factory=dict)
    winners: dict[tuple[int, int], Array] = field(default_factory=dict)
    output: Any = None

    def rows(self, start: int, stop: int) -> Activations:
        """Select some of the samples, as views."""
        groups, activated, winners = (
            {key: Z[start:stop] for key, Z in whole.items()} for whole in (self.groups, self.activated, self.winners)
        )
        return Activations(groups, activated, winners, self.output[start:stop])

    @classmethod
    def gathered(cls, parts: Sequence[tuple[Activations, Array]], X: Any) -> Activations:
        """Collect copies of some rows.

        Parameters
        ----------
        parts : sequence of (Activations, Array of int)
            Activations, at least one, and the rows to take from each.
        X : Array or csr_array
            Features of these rows, from all parts.

        Returns
        -------
        Activations
        """
        def rows_of(arrays: list[Any]) -> Any:
            taken = [take_rows(array, rows) for array, (_, rows) in zip(arrays, parts, strict=True)]
            return taken[0] if len(taken) == 1 else namespace(taken[0]).concatenate(taken)

        first = parts[0][0]
        groups = {
            key: rows_of([part.groups[key] for part, _ in parts]) if key[0] else X for key in first.groups
        }
        activated = {key: rows_of([part.activated[key] for part, _ in parts]) for key in first.activated}
        winners = {key: rows_of([part.winners[key] for part, _ in parts]) for key in first.winners}
        return cls(groups, activated, winners, rows_of([part.output for part, _ in parts]))

    def elements(self, m: int, j: int) -> Array:
        """Values of a group directly after the activation, of shape (n, n_elements of the group)."""
        return self.activated[m, j] if (m, j) in self.activated else self.groups[m, j]


class PartitionedNetwork:
    """Layers on a process grid; weights are passed in, as one flat vector per rank.

    Parameters
    ----------
    grid : ProcessGrid
        Process grid with the partition of the network.
    activation : str
        Name of the hidden activation; the output is linear.
    backend : Backend
        Array library and dtype.
    shape : NetworkShape or None
        Layers of the grid's partition; fully connected by default.
    n_pieces : int
        Number of pieces into which the samples of a pass are split, so that one piece's sums travel while the next is
        multiplied. Networks on images always use one.
    """

    def __init__(
        self,
        grid: ProcessGrid,
        activation: str,
        backend: Backend,
        shape: NetworkShape | None = None,
        n_pieces: int = 1,
    ) -> None:
        self.grid = grid
        self.backend = backend
        self.activation = ACTIVATIONS[activation]
        self.shape = shape or dense_shape(grid.partition.widths)
        if (self.shape.widths, self.shape.rows_per_unit) != (grid.partition.widths, grid.partition.all_rows_per_unit):
            raise ValueError(f"the layers of the grid are not those of {self.shape}")
        outputs = {m: block.outputs for m, block in grid.blocks.items()}
        self.layers: dict[int, Layer] = {
            m: make_layer(s, backend, outputs.get(m, (0, 0))) for m, s in enumerate(self.shape.layers, start=1)
        }
        self.layout = layout_of(grid.partition, grid.rank)
        self.n_layers = grid.partition.n_layers
        jet = self.shape.jet
        self.jets = None if jet is None else JetActivation(self.activation, jet)
        self.n_out = grid.partition.widths[-1] * self.shape.layers[-1].n_values
        simple = self.shape.image_shape is None and jet is None
        self.n_pieces = n_pieces if simple and grid.size > 1 else 1

    def with_jet(self, jet: Jet) -> PartitionedNetwork:
        """The same network, with the same variables, on samples that carry derivatives in the inputs."""
        return PartitionedNetwork(self.grid, self.activation.name, self.backend, self.shape.with_jet(jet))

    def initial_params(self, seed: int, scheme: str) -> Array:
        """Initialise this rank's variables, the same on every grid; shape (n_params_local,)."""
        return initial_params(self.layout, self.shape, self.backend, seed, scheme, self.input_rows)

    def input_rows(self, m: int) -> NDArray[np.int64]:
        """Global rows of this rank's block of a layer's weights; in the first layer of tables, the features."""
        return self.grid.blocks[m].rows

    def choose(self, X: Any) -> Any:
        """Select from all features those for which the network has weights; a csr_array (n, n_features_local)."""
        return X

    def on(self, whole: PartitionedNetwork) -> PartitionedNetwork:
        """Return this network as part of another one, which is the whole network on another partition."""
        return whole

    def expanded(self, params: Array, out: Array | None = None) -> Array:
        """Add to a point the weights for which :class:`~distnewton.network.active.ActiveNetwork` has no variables."""
        return params

    def reduced(self, params: Array) -> Array:
        """Return the variables of a point whose weights are those of :meth:`expanded`."""
        return params

    def n_values(self, m: int, j: int) -> int:
        """Number of values of a group in a layer's output."""
        return self.shape.layers[m - 1].n_values * self.grid.group_width(m, j)

    def n_elements(self, m: int, j: int) -> int:
        """Number of values of a group to which a layer's activation is applied."""
        return self.shape.layers[m - 1].n_elements * self.grid.group_width(m, j)

    @property
    def n_kept(self) -> float:
        """Numbers per sample that the activations of a forward pass keep on this rank, without the features."""
        total = float(self.n_out)
        for m in range(1, self.n_layers):
            layer = self.layers[m]
            for j in self.grid.groups(m):
                total += self.n_values(m, j)
                total += self.n_elements(m, j) if layer.average_pooling is not None or self.jets else 0
                total += self.n_values(m, j) / self.backend.dtype.itemsize if layer.max_pooling is not None else 0
        return total

    def arrange(self, X: Any) -> Any:
        """Reorder the pixels of images in place as this package expects them: channels last.

        Parameters
        ----------
        X : Array or csr_array of shape (n, n_features_local)
            Features in the data's order: channel, row, column. Tables stay unchanged.

        Returns
        -------
        Array or csr_array
        """
        n_pixels = self.shape.features_per_unit
        n_channels = X.shape[1] // n_pixels
        if n_pixels > 1 and n_channels > 1:
            for start in range(0, len(X), _ROWS_AT_ONCE):
                part = X[start : start + _ROWS_AT_ONCE]
                part[...] = part.reshape(-1, n_channels, n_pixels).transpose(0, 2, 1).reshape(len(part), -1)
        return X

    def forward(self, params: Array, X: Any) -> Activations:
        """Compute the activations and outputs of some samples.

        Parameters
        ----------
        params : Array of shape (n_params_local,)
            This rank's variables.
        X : Array or csr_array of shape (n, n_features_local)
            This rank's features, with images arranged; n is the same on all ranks.

        Returns
        -------
        Activations

        Notes
        -----
        Collective: a sum of (n, pre-activations of a group) numbers over the boundary of each hidden group (for images
        some samples at a time), and a sum of (n, n_out) numbers over all ranks, or of the output weights if those are
        fewer.
        """
        views = self.layout.views(params)
        n = X.shape[0]
        result = Activations()
        if 1 in self.grid.blocks:
            result.groups[0, self.grid.blocks[1].i] = X
        if self.n_pieces > 1:
            self._forward_in_turns(views, result, n)
            return result
        for m in range(1, self.n_layers):
            for j in self.grid.groups(m):
                self._forward_group(m, j, views, result, n)
        if self._repeats_output(n):
            result.output = self._all_outputs(self.output_weights(views, 0), result.groups[self.n_layers - 1, 0])
            return result
        result.output = self._output(n, lambda j, S: self._partial_forward(self.n_layers, j, views, result, None, S))
        return result

    def _repeats_output(self, n: int) -> bool:
        """Whether each rank computes all outputs of some of the samples."""
        return self.shape.repeats_output(n, self.grid.partition)

    def output_weights(self, views: dict[int, BlockView], i: int) -> Array:
        """Gather all weights between a group of the last hidden layer and the outputs, followed by the biases.

        Parameters
        ----------
        views : dict of int to BlockView
            Weights of this rank's blocks, or changes of them.
        i : int
            A group on whose boundary this rank stands.

        Returns
        -------
        Array of shape (values of the group + 1, n_out)
            Biases come from the blocks that own some: those of group 0; they are zero for other groups.

        Notes
        -----
        Collective over the group's boundary: a sum of these numbers.
        """
        weights = self.backend.zeros(self.n_values(self.n_layers - 1, i) + 1, self.n_out)
        block = self.grid.blocks.get(self.n_layers)
        if block is not None and block.i == i:
            columns, view = slice(*block.outputs), views[self.n_layers]
            weights[:-1, columns] = view.W
            if view.b is not None:
                weights[-1, columns] = view.b
        return self.grid.collect(self.n_layers - 1, i, weights)

    def _all_outputs(self, weights: Array, Z: Array, out: Array | None = None) -> Array:
        """Compute the outputs of some samples from the last hidden layer, all of which this rank holds."""
        output = self.backend.product(Z, weights[:-1], self.backend.empty(len(Z), self.n_out) if out is None else out)
        output += weights[-1]
        return output

    def _forward_in_turns(self, views: dict[int, BlockView], result: Activations, n: int) -> None:
        """Compute the outputs of all layers; pieces of the samples take turns."""
        for m in range(1, self.n_layers):
            for j in self.grid.groups(m):
                result.groups[m, j] = self.backend.empty(n, self.n_values(m, j))
        result.output = self.backend.zeros(n, self.n_out)
        weights = self.output_weights(views, 0) if self._repeats_output(n) else None
        take_turns([self._forward_piece(views, result, rows, weights) for rows in pieces(n, self.n_pieces)])

    def _forward_piece(
        self, views: dict[int, BlockView], result: Activations, rows: slice, weights: Array | None
    ) -> Iterator[None]:
        """Compute the outputs of some samples, layer by layer; other pieces compute during the sums."""
        for m in range(1, self.n_layers):
            begun = []
            for j in self.grid.groups(m):
                S = result.groups[m, j][rows]
                self._partial_forward(m, j, views, result, rows, S)
                begun.append((S, self.grid.start_boundary(m, j, S)))
            yield
            for S, pending in begun:
                pending.wait()
                self.activation.apply(S)
        if weights is not None:
            self._all_outputs(weights, result.groups[self.n_layers - 1, 0][rows], result.output[rows])
            return
        block = self.grid.blocks.get(self.n_layers)
        if block is not None:
            S = self.backend.empty(rows.stop - rows.start, block.shape[1])
            self._partial_forward(self.n_layers, block.j, views, result, rows, S)
            result.output[rows, slice(*block.outputs)] = S
        last = self.grid.start_all(result.output[rows])
        yield
        last.wait()

    def _forward_group(self, m: int, j: int, views: dict[int, BlockView], result: Activations, n: int) -> None:
        """Compute the output of a hidden group, and what pooling has to remember."""
        layer, n_units = self.layers[m], self.grid.group_width(m, j)
        Z = result.groups[m, j] = self.backend.empty(n, self.n_values(m, j))
        if layer.max_pooling is not None:
            result.winners[m, j] = self.backend.small_integers(*Z.shape)
        elif layer.average_pooling is not None or self.jets is not None:
            result.activated[m, j] = self.backend.empty(n, self.n_elements(m, j))
        chunks = layer.sample_chunks(n, n_units)
        for rows in chunks:
            if layer.max_pooling is not None:
                S = self.backend.empty(rows.stop - rows.start, layer.shape.n_linear * n_units)
            else:
                S = result.elements(m, j)[rows]
            self._partial_forward(m, j, views, result, rows if len(chunks) > 1 else None, S)
            self.grid.sum_boundary(m, j, S)
            if layer.max_pooling is not None:
                layer.max_pooling.choose(S, Z[rows], result.winners[m, j][rows])
                S = Z[rows]
            if self.jets is not None:
                self.jets.apply(S, Z[rows])
                continue
            self.activation.apply(S)
            if layer.average_pooling is not None:
                layer.average_pooling.average(S, Z[rows])

    def _partial_forward(
        self,
        m: int,
        j: int,
        views: dict[int, BlockView],
        activations: Activations,
        rows: slice | None,
        S: Array,
    ) -> None:
        """Write this rank's part of the pre-activations of group j of layer m; zero if it owns none."""
        block = self.grid.blocks.get(m)
        if block is None or block.j != j:
            S[...] = 0
            return
        Z = activations.groups[m - 1, block.i]
        self.layers[m].linear(Z if rows is None else Z[rows], views[m].W, S)
        bias = views[m].b
        if bias is not None:
            self.layers[m].add_bias(S, bias)

    def _output(self, n: int, write_partial: Callable[[int, Array], None]) -> Array:
        """Sum the partial outputs, or their changes, over all ranks; every rank gets the result."""
        output = self.backend.zeros(n, self.n_out)
        block = self.grid.blocks.get(self.n_layers)
        if block is not None:
            S = self.backend.empty(n, block.shape[1] * self.layers[self.n_layers].shape.n_values)
            write_partial(block.j, S)
            own = self.own_outputs(output)
            own[...] = S.reshape(own.shape)
        return self.grid.sum_all(output)

    def own_outputs(self, A: Array) -> Array:
        """View the outputs of the own block of the last layer, which must exist.

        Parameters
        ----------
        A : Array of shape (..., n_out)
            Outputs, or their cotangents.

        Returns
        -------
        Array of shape (..., units of the block), or (..., channels, units) if derivatives are carried along
        """
        columns = slice(*self.grid.blocks[self.n_layers].outputs)
        if self.jets is None:
            return A[..., columns]
        size = self.layers[self.n_layers].shape.n_values
        return A.reshape(*A.shape[:-1], size, self.n_out // size)[..., columns]

    def add_gradient(self, params: Array, activations: Activations, cotangent: Array, out: Array) -> None:
        r"""Add J^T times a cotangent of the outputs, the gradient of some samples, to this rank's block.

        .. math:: dW^m_{ij} = (Z^{m-1}_i)^T \delta^m_j, \qquad
            \delta^{m-1}_i = \Big(\sum_j \delta^m_j (W^m_{ij})^T\Big) * act'(S^{m-1}_i)

        Parameters
        ----------
        params : Array of shape (n_params_local,)
            This rank's variables.
        activations : Activations
            Activations at the same variables.
        cotangent : Array of shape (n, n_out)
            Cotangent of the outputs, such as the gradient of the loss; replicated.
        out : Array of shape (n_params_local,)
            Array to add to.

        Notes
        -----
        Collective: a sum of (n, values of the group) numbers over the boundary of each hidden group.
        """
        self.add_products(activations, self.backpropagate(params, activations, cotangent), out)

    def backpropagate(self, params: Array, activations: Activations, cotangent: Array) -> dict[int, Array]:
        """Compute the cotangents of the activated values of this rank's own output groups.

        The activated values are the pre-activations; in a convolution with max pooling only the chosen ones.

        Parameters
        ----------
        params : Array of shape (n_params_local,)
            This rank's variables.
        activations : Activations
            Activations at the same variables.
        cotangent : Array of shape (n, n_out)
            Cotangent of the outputs, replicated.

        Returns
        -------
        dict of int to Array
            delta^m_j of each own layer, of shape (n, n_elements of the group).

        Notes
        -----
        Collective: a sum of (n, values of the group) numbers over the boundary of each hidden group; for the last
        hidden layer the sum of :meth:`output_weights` if that is smaller.
        """
        views, n = self.layout.views(params), len(cotangent)
        deltas = {
            (m, j): self.backend.empty(n, self.n_elements(m, j))
            for m in range(1, self.n_layers) for j in self.grid.groups(m)
        }  # fmt: skip
        own = {
            m: self._own_cotangents(cotangent) if m == self.n_layers else deltas[m, block.j]
            for m, block in self.grid.blocks.items()
        }
        top = self.n_layers
        if self.collects_output(n):
            top -= 1
            for i in self.grid.groups(top):
                self.pass_down_all(views, i, cotangent, deltas[top, i])
                self.pull_back(deltas[top, i], activations.elements(top, i))
        works = [
            self._backward_piece(views, activations, own, deltas, rows, top) for rows in pieces(n, self.n_pieces)
        ]
        take_turns(works)
        return own

    def collects_output(self, n_rows: int) -> bool:
        """Whether this many cotangents pass down from the outputs through all output weights (`pass_down_all`)."""
        return self.n_layers > 1 and self.shape.collects_output(n_rows, self.grid.partition.splits[-1])

    def pass_down_all(self, views: dict[int, BlockView], i: int, cotangents: Array, out: Array) -> None:
        """Write the cotangents after the activation of a group of the last hidden layer without summing them.

        Parameters
        ----------
        views : dict of int to BlockView
            Weights.
        i : int
            The group.
        cotangents : Array of shape (n, n_out)
            Cotangents of the outputs, replicated.
        out : Array of shape (n, n_elements of the group)
            Overwritten.

        Notes
        -----
        Collective, like :meth:`output_weights`.
        """
        m = self.n_layers - 1
        weights, pooling = self.output_weights(views, i)[:-1], self.layers[m].average_pooling
        if pooling is None:
            self.backend.product(cotangents, weights.T, out)
        else:
            pooling.spread(self.backend.product(cotangents, weights.T, self.backend.empty(len(out), len(weights))), out)

    def _own_cotangents(self, cotangent: Array) -> Array:
        """Cotangents of the outputs of the own block, one row per sample."""
        own = self.own_outputs(cotangent)
        return own if self.jets is None else own.reshape(len(own), own.shape[1] * own.shape[2])

    def _backward_piece(
        self,
        views: dict[int, BlockView],
        activations: Activations,
        own: dict[int, Array],
        deltas: dict[tuple[int, int], Array],
        rows: slice,
        top: int,
    ) -> Iterator[None]:
        """Compute cotangents of some samples from a layer down; other pieces compute during the sums."""
        for m in range(top, 1, -1):
            block, begun = self.grid.blocks.get(m), []
            for i in self.grid.groups(m - 1):
                delta, pooling = deltas[m - 1, i][rows], self.layers[m - 1].average_pooling
                E = delta if pooling is None else self.backend.empty(len(delta), self.n_values(m - 1, i))
                if block is not None and block.i == i:
                    winners = activations.winners.get((m, block.j))
                    winners = None if winners is None else winners[rows]
                    self.layers[m].input_cotangent(own[m][rows], views[m].W, winners, E)
                else:
                    E[...] = 0
                begun.append((i, E, delta, self.begin_sum(m - 1, i, E)))
            yield
            for i, E, delta, pending in begun:
                pending.wait()
                pooling = self.layers[m - 1].average_pooling
                if pooling is not None:
                    pooling.spread(E, delta)
                self.pull_back(delta, activations.elements(m - 1, i)[rows])

    def pull_back(self, E: Array, elements: Array) -> None:
        """Convert cotangents of activations to those of the activated values, in place.

        Parameters
        ----------
        E : Array of shape (n, ..., n_elements of a group)
            Cotangents.
        elements : Array of shape (n, n_elements of the group)
            Values from :meth:`Activations.elements`.
        """
        if self.jets is not None:
            self.jets.pull_back(E, elements)
        else:
            self.activation.multiply_derivative(E, elements if E.ndim == 2 else elements[:, None, :])

    def begin_sum(self, m: int, j: int, array: Array) -> PendingSum:
        """Sum over a boundary: start the sum if passes run in pieces and others follow, else complete it.

        Parameters
        ----------
        m, j : int
            Hidden layer and group.
        array : Array
            Array to sum in place.

        Returns
        -------
        PendingSum
        """
        if self.n_pieces > 1:
            return self.grid.start_boundary(m, j, array)
        self.grid.sum_boundary(m, j, array)
        return PendingSum()

    def spread(self, m: int, j: int, E: Array) -> Array:
        """Cotangents directly after the activation from those of a group's output: the adjoint of average pooling."""
        pooling = self.layers[m].average_pooling
        if pooling is None:
            return E
        out = self.backend.empty(*E.shape[:-1], self.n_elements(m, j))
        pooling.spread(_as_matrix(E), _as_matrix(out))
        return out

    def average(self, m: int, j: int, A: Array) -> Array:
        """Values of a group's output, or their changes, from those directly after the activation."""
        pooling = self.layers[m].average_pooling
        if pooling is None:
            return A
        out = self.backend.empty(*A.shape[:-1], self.n_values(m, j))
        pooling.average(_as_matrix(A), _as_matrix(out))
        return out

    def add_products(self, activations: Activations, deltas: dict[int, Array], out: Array) -> None:
        """Add Z^T delta of each own block to a flat vector: the gradient from its two factors; no communication.

        Parameters
        ----------
        activations : Activations
            Activations of some samples.
        deltas : dict of int to Array
            Cotangents of their own output groups, from :meth:`backpropagate`.
        out : Array of shape (n_params_local,)
            Array to add to.
        """
        sums = self.layout.views(out)
        for m, delta in deltas.items():
            block = self.grid.blocks[m]
            winners = activations.winners.get((m, block.j))
            self.layers[m].add_weight_product(activations.groups[m - 1, block.i], delta, winners, sums[m].W)
            bias = sums[m].b
            if bias is not None:
                total = self.backend.empty(len(bias))
                self.layers[m].sum_units(delta, total)
                bias += total

    def tangent(self, params: Array, activations: Activations, direction: Array) -> Array:
        r"""Compute the change of the outputs along a direction, J v, by forward differentiation (the R-operator).

        .. math:: \dot S^m = \dot Z^{m-1} W^m + Z^{m-1} V^m + v_b, \qquad \dot Z^m = \dot S^m * act'(S^m)

        It needs no Jacobian, but a forward pass with its messages.

        Parameters
        ----------
        params : Array of shape (n_params_local,)
            This rank's variables.
        activations : Activations
            Activations at the same variables.
        direction : Array of shape (n_params_local,)
            This rank's block of v.

        Returns
        -------
        Array of shape (n, n_out)
            J v, summed over all ranks, replicated.

        Notes
        -----
        Collective, like :meth:`forward`.
        """
        views, changes = self.layout.views(params), self.layout.views(direction)
        n = len(activations.output)
        tangents: dict[tuple[int, int], Array] = {}
        for m in range(1, self.n_layers):
            for j in self.grid.groups(m):
                P = self.backend.empty(n, self.n_elements(m, j))
                self._partial_tangent(m, j, views, changes, activations, tangents, P)
                self.grid.sum_boundary(m, j, P)
                if self.jets is not None:
                    self.jets.push_forward(P, activations.elements(m, j))
                else:
                    self.activation.multiply_derivative(P, activations.elements(m, j))
                tangents[m, j] = self.average(m, j, P)
        if self._repeats_output(n):
            change = self._all_outputs(self.output_weights(changes, 0), activations.groups[self.n_layers - 1, 0])
            change += tangents[self.n_layers - 1, 0] @ self.output_weights(views, 0)[:-1]
            return change
        return self._output(
            n, lambda j, S: self._partial_tangent(self.n_layers, j, views, changes, activations, tangents, S)
        )

    def _partial_tangent(
        self,
        m: int,
        j: int,
        views: dict[int, BlockView],
        changes: dict[int, BlockView],
        activations: Activations,
        tangents: dict[tuple[int, int], Array],
        P: Array,
    ) -> None:
        """Write this rank's part of the change of the activated values in group j of layer m; zero if it has none."""
        block = self.grid.blocks.get(m)
        if block is None or block.j != j:
            P[...] = 0
            return
        layer, winners = self.layers[m], activations.winners.get((m, j))
        layer.elements(activations.groups[m - 1, block.i], changes[m].W, changes[m].b, winners, P)
        below = tangents.get((m - 1, block.i))
        if below is not None:
            moved = self.backend.empty(*P.shape)
            layer.elements(below, views[m].W, None, winners, moved)
            P += moved


def pieces(n: int, n_pieces: int) -> list[slice]:
    """Split samples into pieces of nearly equal size, none empty unless there are no samples."""
    limits = [bounds(n, n_pieces, i) for i in range(n_pieces)]
    return [slice(*limit) for limit in limits if limit[0] < limit[1]] or [slice(0, 0)]


def take_turns(works: Sequence[Iterator[None]]) -> None:
    """Advance each piece of work to its next pause, in turn, until all have ended."""
    left = list(works)
    while left:
        left = [work for work in left if next(work, _ENDED) is not _ENDED]


_ENDED = object()
_ROWS_AT_ONCE = 1024
"""Number of samples whose pixels are reordered at a time."""


def _as_matrix(A: Array) -> Array:
    """View an array with all axes but the last merged."""
    n_rows = 1
    for n in A.shape[:-1]:
        n_rows *= n
    return A.reshape(n_rows, A.shape[-1])
