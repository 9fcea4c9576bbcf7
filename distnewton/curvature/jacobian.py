r"""The Jacobian of the outputs on the curvature sample: one backward pass, no further communication.

.. math:: D^L = I, \qquad
    D^{m-1}_i = \Big(\sum_j D^m_j (W^m_{ij})^T\Big) * act'(S^{m-1}_i)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from distnewton.backend import Array, Backend
from distnewton.curvature.factors import (
    AveragedFactor,
    IdentityFactor,
    JacobianFactor,
    ScaledFactor,
    StoredFactor,
    values_of,
)
from distnewton.frozen import frozen
from distnewton.network.layers import Layer
from distnewton.network.layout import LogicalBlock, ParameterLayout
from distnewton.network.network import Activations, PartitionedNetwork, take_turns

# numbers of D that the backward recursion expands at a time
_CHUNK_SIZE = 1 << 20
MESSAGE_SIZE = 1 << 22
"""Numbers of D summed over a boundary at a time."""


@frozen
class JacobianPart:
    """Parts from which the columns of a block are computed.

    Attributes
    ----------
    layer : Layer
        The weight layer.
    inputs : Array or csr_array of shape (n, n_values_below)
        Z^{m-1} of the block's input group.
    factor : JacobianFactor
        D^m of the block's output group.
    winners : Array of uint8 or None
        Choices of max pooling in the output group, if there is max pooling.
    """

    layer: Layer
    inputs: Any
    factor: JacobianFactor
    winners: Array | None = None


class Jacobian:
    """This rank's columns of J on a set of samples, as Z^{m-1} and D^m of each own block.

    Parameters
    ----------
    parts : dict of int to JacobianPart
        Parts of each own block, by layer.
    layout : ParameterLayout
        Layout of the blocks in a flat vector.
    n_samples, n_out : int
        Shape of J v; with roots, n_out is their number.
    backend : Backend
        Array library and dtype.
    work : dict of int to Array or None
        Arrays that products may overwrite, each at least as large as the output group's values; new ones by default.
    """

    def __init__(
        self,
        parts: dict[int, JacobianPart],
        layout: ParameterLayout,
        n_samples: int,
        n_out: int,
        backend: Backend,
        work: Mapping[int, Array] | None = None,
    ) -> None:
        self.parts = parts
        self.layout, self.backend = layout, backend
        self.n_samples, self.n_out = n_samples, n_out
        # one work array per layer for all products: new arrays would cost page faults at each CG step
        self._work = {}
        for m, part in parts.items():
            shape = n_samples, layout.blocks[m].shape[1] * part.layer.shape.n_elements
            self._work[m] = backend.empty(*shape) if work is None else _of_shape(work[m], shape)

    def of_block(self, block: LogicalBlock, inputs: Mapping[int, Any]) -> Jacobian:
        """Select the columns of one of the rank's logical blocks; products of several such blocks must not overlap.

        Parameters
        ----------
        block : LogicalBlock
            Block to select.
        inputs : mapping of int to Array or csr_array
            Inputs of the block, by layer.

        Returns
        -------
        Jacobian
        """
        parts = {}
        for m, own in block.layout.blocks.items():
            part, (_, units) = self.parts[m], block.units(m)
            n_units = self.layout.blocks[m].shape[1]
            winners = None if part.winners is None else values_of(part.winners, units, n_units)
            layer = part.layer.of_outputs(own.outputs)
            parts[m] = JacobianPart(layer, inputs[m], part.factor.of_units(units, n_units), winners)
        return Jacobian(parts, block.layout, self.n_samples, self.n_out, self.backend, self._work)

    def arrays(self) -> list[Array]:
        """Return the stored parts of D, layer by layer."""
        return [array for part in self.parts.values() for array in part.factor.arrays()]

    @property
    def layers(self) -> list[int]:
        """Layers of which this rank owns a block."""
        return list(self.parts)

    def matvec(self, v: Array, layers: Iterable[int] | None = None) -> Array:
        """Compute this rank's part of J v.

        Parameters
        ----------
        v : Array of shape (n_params_local,)
            A direction of this rank's variables.
        layers : iterable of int or None
            Own layers that take part; all by default.

        Returns
        -------
        Array of shape (n, n_out)
            J v after summation over the ranks.
        """
        views = self.layout.views(v)
        q = self.backend.zeros(self.n_samples, self.n_out)
        for layer in self.layers if layers is None else layers:
            part, P = self.parts[layer], self._work[layer]
            part.layer.elements(part.inputs, views[layer].W, views[layer].b, part.winners, P)
            part.factor.contract(P, q)
        return q

    def rmatvec(self, U: Array, out: Array, layers: Iterable[int] | None = None) -> Array:
        """Compute this rank's block of J^T u.

        Parameters
        ----------
        U : Array of shape (n, n_out)
            Cotangents of the outputs.
        out : Array of shape (n_params_local,)
            The blocks of ``layers`` are overwritten, others stay.
        layers : iterable of int or None
            Own layers that take part; all by default.

        Returns
        -------
        Array of shape (n_params_local,)
        """
        views = self.layout.views(out)
        for layer in self.layers if layers is None else layers:
            part, T = self.parts[layer], self._work[layer]
            part.factor.expand(U, T)
            part.layer.weight_product(part.inputs, T, part.winners, views[layer].W)
            bias = views[layer].b
            if bias is not None:
                part.layer.sum_units(T, bias)
        return out


def _of_shape(array: Array, shape: tuple[int, int]) -> Array:
    """View of an array's first numbers as a matrix."""
    matrix: Array = array.reshape(-1)[: shape[0] * shape[1]].reshape(shape)
    return matrix


def linearize(
    network: PartitionedNetwork, params: Array, activations: Activations, roots: Array | None = None
) -> Jacobian:
    """Compute this rank's Jacobian at the point and samples of a forward pass, or combinations of its rows.

    Parameters
    ----------
    network : PartitionedNetwork
        The network.
    params : Array of shape (n_params_local,)
        This rank's variables.
    activations : Activations
        Activations of the curvature subsample at these variables.
    roots : Array of shape (n, k, n_out) or None
        Cotangents of the outputs, replicated: the result is then the product R J, with k rows per sample, and all of
        its factors are stored. With roots of the loss Hessian, sum_a c_a c_a^T = B, the Gauss-Newton matrix is
        (R J)^T (R J); random roots give the output sketch.

    Returns
    -------
    Jacobian

    Notes
    -----
    Collective. For the last hidden layer a sum of (values of the group + 1, n_out) numbers over its boundaries. For
    each layer below it (and for it, too, with roots of many outputs) a sum of (n, k, values of the group) numbers,
    some samples at a time; without roots k is n_out.
    """
    return _Descent(network, params, activations, roots).jacobian()


class _Descent:
    """The way of the rows of J, or of R J, down through the layers."""

    def __init__(
        self, network: PartitionedNetwork, params: Array, activations: Activations, roots: Array | None
    ) -> None:
        self._network, self._activations, self._roots = network, activations, roots
        self._views = network.layout.views(params)
        self._n_rows = network.n_out if roots is None else roots.shape[1]

    def jacobian(self) -> Jacobian:
        """Compute the factors of all layers, from the outputs down (collective)."""
        network, activations = self._network, self._activations
        parts: dict[int, JacobianPart] = {}
        for m in range(network.n_layers, 0, -1):
            if m == network.n_layers:
                factors = self._output_factor()
            elif m == network.n_layers - 1 and self._roots is None:
                factors = self._last_hidden_factors()
            else:
                factors = self._hidden_factors(m, parts.get(m + 1))
            if m in network.grid.blocks:
                i, j = network.grid.blocks[m].i, network.grid.blocks[m].j
                winners = activations.winners.get((m, j))
                parts[m] = JacobianPart(network.layers[m], activations.groups[m - 1, i], factors[j], winners)
        n = len(activations.output)
        return Jacobian(dict(sorted(parts.items())), network.layout, n, self._n_rows, network.backend)

    def _output_factor(self) -> dict[int, JacobianFactor]:
        """Return D^L (I or the roots) on the outputs of the own block, by group."""
        network = self._network
        block = network.grid.blocks.get(network.n_layers)
        if block is None:
            return {}
        n, n_out = self._activations.output.shape
        if self._roots is None:
            return {block.j: IdentityFactor(block.outputs, n, n_out, network.backend)}
        own = network.backend.xp.ascontiguousarray(network.own_outputs(network.backend.asarray(self._roots)))
        width = block.shape[1] * network.layers[network.n_layers].shape.n_values
        return {block.j: StoredFactor(own.reshape(*own.shape[:2], width), network.backend)}

    def _last_hidden_factors(self) -> dict[int, JacobianFactor]:
        """Compute D^{L-1} of groups on whose boundary this rank stands: act', and all output weights of the group."""
        network, m = self._network, self._network.n_layers - 1
        factors: dict[int, JacobianFactor] = {}
        for i in network.grid.groups(m):
            weights = network.spread(m, i, network.output_weights(self._views, i)[:-1].T).T
            factors[i] = ScaledFactor(_derivative(network, self._activations.elements(m, i)), weights)
        return factors

    def _hidden_factors(self, m: int, above: JacobianPart | None) -> dict[int, JacobianFactor]:
        """Compute D^m of groups on whose boundary this rank stands: one step down the recursion, or from the roots."""
        network, n = self._network, len(self._activations.output)
        block = network.grid.blocks.get(m + 1)
        factors: dict[int, JacobianFactor] = {}
        for i in network.grid.groups(m):
            D = network.backend.empty(n, self._n_rows, network.n_values(m, i))
            elements, pooling = self._activations.elements(m, i), network.layers[m].average_pooling
            derivative = elements if pooling is None else None
            if m == network.n_layers - 1 and network.collects_output(n * self._n_rows):
                self._pass_down_all(i, D, derivative)
            else:
                self._pass_down_in_turns((m, i), above if block is not None and block.i == i else None, D, derivative)
            factor = StoredFactor(D, network.backend)
            if pooling is None:
                factors[i] = factor
            else:
                slopes = _derivative(network, elements)
                factors[i] = AveragedFactor(factor, slopes, pooling, network.n_values(m, i), network.backend)
        return factors

    def _pass_down_all(self, i: int, D: Array, elements: Array | None) -> None:
        """Compute factors of a group of the last hidden layer from roots that all ranks hold; sends only weights."""
        n, k, n_values = D.shape
        backend, weights = self._network.backend, self._network.output_weights(self._views, i)[:-1]
        backend.product(backend.asarray(self._roots).reshape(n * k, -1), weights.T, D.reshape(n * k, n_values))
        if elements is not None:
            self._network.pull_back(D, elements)

    def _pass_down_in_turns(
        self, group: tuple[int, int], own: JacobianPart | None, D: Array, elements: Array | None
    ) -> None:
        """Compute factors of a group some samples at a time: no second array of this size, here or inside MPI.

        Parameters
        ----------
        group : tuple of int
            Layer m, and the number of the group.
        own : JacobianPart or None
            The block above, if this rank owns one over the group.
        D : Array of shape (n, n_rows, n_group)
            Written to.
        elements : Array or None
            Activations whose derivative is multiplied in; None if this happens later.
        """
        n_pieces = self._network.n_pieces
        works = [self._pass_down(group, own, rows, D, elements) for rows in _sample_chunks(D, n_pieces)]
        for work in [works] if n_pieces > 1 else [[work] for work in works]:
            take_turns(work)

    def _pass_down(
        self, group: tuple[int, int], own: JacobianPart | None, rows: slice, D: Array, elements: Array | None
    ) -> Iterator[None]:
        """Compute factors of some samples; pauses once, so that other pieces compute during the sum."""
        m, i = group
        if own is None:
            D[rows] = 0
        else:
            _propagate(own, self._views[m + 1].W, rows, D[rows])
        pending = self._network.begin_sum(m, i, D[rows])
        yield
        pending.wait()
        if elements is not None:
            self._network.pull_back(D[rows], elements[rows])


def _sample_chunks(D: Array, n_pieces: int) -> list[slice]:
    """Number of samples propagated and summed together, the same on all ranks of a boundary."""
    n, n_rows, n_group = D.shape
    step = rows_at_once(n, n_rows * n_group, n_pieces)
    return [slice(start, min(start + step, n)) for start in range(0, n, step)] or [slice(0, n)]


def rows_at_once(n: int, row: int, n_pieces: int) -> int:
    """Number of samples whose factors are summed together, given the numbers in a row."""
    return max(1, min(MESSAGE_SIZE // max(1, row), -(-n // n_pieces)))


def _derivative(network: PartitionedNetwork, Z: Array) -> Array:
    """Derivative of the activation at the points where its value is Z."""
    ones = network.backend.empty(*Z.shape)
    ones[...] = 1
    return network.activation.multiply_derivative(ones, Z)


def _propagate(above: JacobianPart, W: Array, rows: slice, out: Array) -> None:
    """Write D W^T of some samples to ``out``, in chunks: D may be kept as two small parts."""
    n, n_out, n_group = out.shape
    if out.size == 0 or W.size == 0:
        out[...] = 0
        return
    step = max(1, _CHUNK_SIZE // max(1, n_out * W.shape[1] * above.layer.shape.n_elements))
    for start in range(0, n, step):
        stop = min(start + step, n)
        samples = slice(rows.start + start, rows.start + stop)
        D = above.factor.dense(samples)
        winners = None if above.winners is None else above.winners[samples]
        above.layer.input_cotangent(
            D.reshape(-1, D.shape[2]), W, winners, out[start:stop].reshape((stop - start) * n_out, n_group)
        )
