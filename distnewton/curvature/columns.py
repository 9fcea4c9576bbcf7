"""What methods that solve blocks apart ask about the curvature sample: of a rank's variables, or of one block."""

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
    """Inputs and cotangents of some variables on the samples whose curvature counts.

    Attributes
    ----------
    point : Point
        The samples at the current point.
    share : SampleShare
        This replica's samples among those of all.
    n_samples : int
        Number of samples over all replicas, at least 1.
    """

    point: Point
    share: SampleShare
    n_samples: int

    @property
    @abstractmethod
    def layout(self) -> ParameterLayout:
        """Where the blocks lie in a flat vector."""

    @property
    @abstractmethod
    def inputs(self) -> Mapping[int, Any]:
        """Z^{m-1} of the input group of each own block, by layer."""

    @abstractmethod
    def winners(self, m: int) -> Array | None:
        """What max pooling has chosen in the own output group of a layer, where there is one."""

    @property
    @abstractmethod
    def jacobian(self) -> Jacobian:
        """Own columns of J, or of R J with roots R."""

    @property
    @abstractmethod
    def loss_hessian(self) -> LossHessian:
        """B of the rows of the Jacobian, the identity with roots; of all outputs where there is none."""

    @abstractmethod
    def loss_cotangents(self) -> Cotangents:
        """Cotangents of the own output groups for the gradient of each sample's weighted loss."""

    @abstractmethod
    def random_cotangents(self) -> Cotangents:
        """Cotangents as of :meth:`loss_cotangents`, for random outputs c with E[c c^T] = B; other ones at each call."""

    @property
    def backend(self) -> Backend:
        """Array library and dtype."""
        return self.point.network.backend

    @property
    def weights(self) -> Array | None:
        """Weights of the samples, of shape (n,) and mean 1 over all samples of the run; None where all count alike."""
        return weights_of(self.point.targets)

    def shape(self, m: int) -> LayerShape:
        """Units, kernel and pooling of a layer."""
        return self.point.network.shape.layers[m - 1]

    def layer(self, m: int) -> Layer:
        """An own layer, for the own output units."""
        return self.point.network.layers[m].of_outputs(self.layout.blocks[m].outputs)

    def unfold(self, m: int, delta: Array) -> Iterator[Unfolded]:
        """Inputs and cotangents of an own layer by places, some samples at a time.

        Parameters
        ----------
        m : int
            An own layer.
        delta : Array of shape (n, n_elements of the own output group)
            Cotangents of what is activated there.

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
            Cotangents of what is activated there.
        out : Array of shape (n_in_local + owns_bias, n_out_local)
            Added to.
        """
        n_in, _ = self.layout.blocks[m].shape
        layer = self.layer(m)
        for part in self.unfold(m, delta):
            out[:n_in] += square_sums(part)
            if len(out) > n_in:
                out[n_in] += (layer.bias_cotangents(part) ** 2).sum(axis=0)

    def fisher_cotangents(self) -> Cotangents:
        """Cotangents as of :meth:`loss_cotangents` whose squares add up to the empirical Fisher matrix's."""
        # those of each sample's loss, times the root of its weight: a sample of weight 2 counts twice
        deltas, weights = self.loss_cotangents(), self.weights
        if weights is None:
            return deltas
        # the gradient of the weighted loss has the weight as a factor, so that it is 0 where that is
        xp = self.backend.xp
        roots = xp.sqrt(xp.where(weights > 0, weights, 1.0))[:, None]
        return {m: delta / roots.astype(delta.dtype) for m, delta in deltas.items()}


class SharedColumns:
    """What the logical blocks of a rank share of the rank's sample: each is made once.

    Parameters
    ----------
    sample : SampleColumns
        The rank's.
    """

    def __init__(self, sample: SampleColumns) -> None:
        self.sample = sample
        self._drawn: list[Cotangents] = []
        self._inputs: dict[tuple[int, int, int], Any] = {}

    def drawn(self, k: int) -> Cotangents:
        """Random cotangents of the k-th call of any block: the same for all blocks."""
        while len(self._drawn) <= k:
            self._drawn.append(self.sample.random_cotangents())
        return self._drawn[k]

    def inputs(self, m: int, units: slice) -> Any:
        """Inputs of some units of a layer's input group."""
        key = m, units.start, units.stop
        if key not in self._inputs:
            Z, block = self.sample.inputs[m], self.sample.layout.blocks[m]
            n_units = block.inputs[1] - block.inputs[0]
            self._inputs[key] = Z[:, units] if is_sparse(Z) else values_of(Z, units, n_units)
        return self._inputs[key]


class BlockSample(SampleColumns):
    """Inputs and cotangents of one of a rank's logical blocks; no communication but for the first random cotangents.

    Parameters
    ----------
    shared : SharedColumns
        The rank's sample.
    block : LogicalBlock
        Which variables.
    """

    def __init__(self, shared: SharedColumns, block: LogicalBlock) -> None:
        sample = shared.sample
        self.point, self.share, self.n_samples = sample.point, sample.share, sample.n_samples
        self._shared, self._block, self._n_draws = shared, block, 0
        self._jacobian: Jacobian | None = None

    @property
    def layout(self) -> ParameterLayout:
        """Where the block's part of each layer lies in its flat vector."""
        return self._block.layout

    @property
    def inputs(self) -> Mapping[int, Any]:
        """Z^{m-1} of the block's input units, by layer."""
        return {m: self._shared.inputs(m, self._block.units(m)[0]) for m in self.layout.blocks}

    def winners(self, m: int) -> Array | None:
        """What max pooling has chosen in the block's output units of a layer."""
        winners = self._shared.sample.winners(m)
        return None if winners is None else self._of_outputs(m, winners)

    @property
    def jacobian(self) -> Jacobian:
        """The block's columns of J, or of R J with roots R."""
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
