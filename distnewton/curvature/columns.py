"""The curvature sample as seen by methods that solve blocks separately: for a rank's variables, or for one block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

from distnewton.backend import Array, Backend, is_sparse
from distnewton.curvature.factors import values_of
from distnewton.curvature.jacobian import Jacobian
from distnewton.curvature.point import Point
from distnewton.network.layers import Layer, Unfolded, square_sums
from distnewton.network.layout import LogicalBlock, ParameterLayout
from distnewton.network.losses import LossHessian
from distnewton.network.shapes import LayerShape
from distnewton.network.weighted import weights_of
from distnewton.parallel.replicas import SampleShare

Cotangents = dict[int, Array]
"""Cotangents of own output groups, by layer, each of shape (n, n_elements of the group)."""


class SampleColumns(ABC):
    """Inputs and cotangents of some variables on the curvature sample.

    Attributes
    ----------
    point : Point
        The samples at the current point.
    share : SampleShare
        This replica's share of all samples.
    n_samples : int
        Number of samples over all replicas, at least 1.
    """

    point: Point
    share: SampleShare
    n_samples: int

    @property
    @abstractmethod
    def layout(self) -> ParameterLayout:
        """Layout of the blocks in a flat vector."""

    @property
    @abstractmethod
    def inputs(self) -> Mapping[int, Any]:
        """Z^{m-1} of the input group of each own block, by layer."""

    @abstractmethod
    def winners(self, m: int) -> Array | None:
        """Choices of max pooling in the own output group of a layer, if it has max pooling."""

    @property
    @abstractmethod
    def jacobian(self) -> Jacobian:
        """Own columns of J, or of R J if there are roots R."""

    @property
    @abstractmethod
    def loss_hessian(self) -> LossHessian:
        """B for the rows of the Jacobian: the identity with roots; for all outputs if there is no Jacobian."""

    @abstractmethod
    def loss_cotangents(self) -> Cotangents:
        """Compute the cotangents of the own output groups for the gradient of each sample's weighted loss."""

    @abstractmethod
    def random_cotangents(self) -> Cotangents:
        """Compute cotangents of the own groups for random outputs c with E[c c^T] = B; new ones at each call."""

    @property
    def backend(self) -> Backend:
        """Array library and dtype."""
        return self.point.network.backend

    @property
    def weights(self) -> Array | None:
        """Weights of the samples, of shape (n,) and mean 1 over all samples of the run; None for equal weights."""
        return weights_of(self.point.targets)

    def shape(self, m: int) -> LayerShape:
        """Return the units, kernel and pooling of a layer."""
        return self.point.network.shape.layers[m - 1]

    def layer(self, m: int) -> Layer:
        """Return an own layer, for the own output units."""
        return self.point.network.layers[m].of_outputs(self.layout.blocks[m].outputs)

    def unfold(self, m: int, delta: Array) -> Iterator[Unfolded]:
        """Yield inputs and cotangents of an own layer by places, some samples at a time.

        Parameters
        ----------
        m : int
            An own layer.
        delta : Array of shape (n, n_elements of the own output group)
            Cotangents of the activated values.

        Yields
        ------
        Unfolded
        """
        yield from self.layer(m).unfold(self.inputs[m], delta, self.winners(m))

    def add_squares(self, m: int, delta: Array, out: Array) -> None:
        """Add the squares of each sample's gradient in the variables of an own layer.

        Parameters
        ----------
        m : int
            An own layer.
        delta : Array of shape (n, n_elements of the own output group)
            Cotangents of the activated values.
        out : Array of shape (n_in_local + owns_bias, n_out_local)
            Array to add to.
        """
        n_in, _ = self.layout.blocks[m].shape
        layer = self.layer(m)
        for part in self.unfold(m, delta):
            out[:n_in] += square_sums(part)
            if len(out) > n_in:
                out[n_in] += (layer.bias_cotangents(part) ** 2).sum(axis=0)

    def fisher_cotangents(self) -> Cotangents:
        """Compute cotangents of the own groups whose squares sum to those of the empirical Fisher matrix."""
        # cotangents of each sample's loss times the root of its weight: a sample of weight 2 counts twice
        deltas, weights = self.loss_cotangents(), self.weights
        if weights is None:
            return deltas
        # the gradient of the weighted loss contains the weight, so it is 0 for weight 0
        xp = self.backend.xp
        roots = xp.sqrt(xp.where(weights > 0, weights, 1.0))[:, None]
        return {m: delta / roots.astype(delta.dtype) for m, delta in deltas.items()}


class SharedColumns:
    """Parts of a rank's sample that its logical blocks share; each is computed once.

    Parameters
    ----------
    sample : SampleColumns
        Sample of the rank.
    """

    def __init__(self, sample: SampleColumns) -> None:
        self.sample = sample
        self._drawn: list[Cotangents] = []
        self._inputs: dict[tuple[int, int, int], Any] = {}

    def drawn(self, k: int) -> Cotangents:
        """Return the random cotangents of the k-th call of any block: the same for all blocks."""
        while len(self._drawn) <= k:
            self._drawn.append(self.sample.random_cotangents())
        return self._drawn[k]

    def inputs(self, m: int, units: slice) -> Any:
        """Return the inputs of some units of a layer's input group."""
        key = m, units.start, units.stop
        if key not in self._inputs:
            Z, block = self.sample.inputs[m], self.sample.layout.blocks[m]
            n_units = block.inputs[1] - block.inputs[0]
            self._inputs[key] = Z[:, units] if is_sparse(Z) else values_of(Z, units, n_units)
        return self._inputs[key]


class BlockSample(SampleColumns):
    """Inputs and cotangents of one of a rank's logical blocks; only the first random cotangents communicate.

    Parameters
    ----------
    shared : SharedColumns
        Sample of the rank.
    block : LogicalBlock
        Variables of the block.
    """

    def __init__(self, shared: SharedColumns, block: LogicalBlock) -> None:
        sample = shared.sample
        self.point, self.share, self.n_samples = sample.point, sample.share, sample.n_samples
        self._shared, self._block, self._n_draws = shared, block, 0
        self._jacobian: Jacobian | None = None

    @property
    def layout(self) -> ParameterLayout:
        """Layout of the block's part of each layer in its flat vector."""
        return self._block.layout

    @property
    def inputs(self) -> Mapping[int, Any]:
        """Z^{m-1} of the block's input units, by layer."""
        return {m: self._shared.inputs(m, self._block.units(m)[0]) for m in self.layout.blocks}

    def winners(self, m: int) -> Array | None:
        """Choices of max pooling in the block's output units of a layer."""
        winners = self._shared.sample.winners(m)
        return None if winners is None else self._of_outputs(m, winners)

    @property
    def jacobian(self) -> Jacobian:
        """The block's columns of J, or of R J if there are roots R."""
        if self._jacobian is None:
            self._jacobian = self._shared.sample.jacobian.of_block(self._block, self.inputs)
        return self._jacobian

    @property
    def loss_hessian(self) -> LossHessian:
        """B of the rows of the Jacobian."""
        return self._shared.sample.loss_hessian

    def loss_cotangents(self) -> Cotangents:
        """Cotangents of the block's output units for the gradient of each sample's weighted loss."""
        return self._of_block(self._shared.sample.loss_cotangents())

    def random_cotangents(self) -> Cotangents:
        """Cotangents for random outputs, the same for all blocks."""
        self._n_draws += 1
        return self._of_block(self._shared.drawn(self._n_draws - 1))

    def _of_block(self, deltas: Cotangents) -> Cotangents:
        return {m: self._of_outputs(m, deltas[m]) for m in self.layout.blocks}

    def _of_outputs(self, m: int, values: Array) -> Array:
        return values_of(values, self._block.units(m)[1], self._shared.sample.layout.blocks[m].shape[1])
