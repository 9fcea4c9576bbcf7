r"""The empirical Fisher matrix in mini-blocks ([MBF], arXiv 2202.04124), on the blocks of this rank.

A mini-block covers the inputs of one output neuron j:

.. math:: F_j = E[\delta_j^2\, \bar z \bar z^T], \qquad \bar F = E[(\|\delta\|^2 / n_{out})\, \bar z \bar z^T]

with z the block's inputs (and a 1 where it owns the bias) and delta the gradient of a sample's own loss in the
pre-activations: true labels, none drawn. ``neuron`` keeps F_j for each neuron; ``layer`` shares their mean, which
stands for all neurons of a block at the price of one matrix.
"""

from __future__ import annotations

import numpy as np

from distnewton.backend import Array, Backend
from distnewton.curvature.linearization import Linearization
from distnewton.preconditioners.base import FactorOptions, Preconditioner
from distnewton.preconditioners.moments import apply_left, blend, inverted, second_moments, shifted


class MiniBlockFisher(Preconditioner):
    """Mini-blocks over the inputs of each output neuron, or one shared by the neurons of a block.

    Parameters
    ----------
    options : FactorOptions
        Averages, periods and the kind of mini-blocks.
    """

    def __init__(self, options: FactorOptions) -> None:
        super().__init__(options)
        self._averages: dict[int, list[Array]] = {}
        self._inverses: dict[int, list[Array]] = {}
        self._backend: Backend | None = None

    def _accumulate(self, problem: Linearization, weight: float) -> None:
        self._backend = problem.backend
        deltas = problem.sample.loss_cotangents()
        for m, Z in problem.sample.inputs.items():
            squares = deltas[m] * deltas[m]
            owns_bias = problem.layout.blocks[m].owns_bias
            if self._options.mini_blocks == "layer":
                columns = [squares.mean(axis=1)] if squares.shape[1] else []
            else:
                columns = list(np.ascontiguousarray(squares.T))
            fresh = [second_moments(problem.backend, Z, owns_bias, column) for column in columns]
            old: list[Array] | list[None] = self._averages.get(m) or [None] * len(fresh)
            self._averages[m] = [blend(a, f, weight) for a, f in zip(old, fresh, strict=True)]

    def _invert(self, shift: float) -> None:
        assert self._backend is not None  # noqa: S101  (statistics come before inverses)
        for m, averages in self._averages.items():
            self._inverses[m] = [inverted(self._backend, shifted(F, shift)) for F in averages if F.size]

    def _apply_layer(self, layer: int, V: Array, out: Array) -> None:
        inverses = self._inverses[layer]
        if self._options.mini_blocks == "layer":
            out[...] = apply_left(inverses[0], V)
            return
        for j, inverse in enumerate(inverses):
            out[:, j] = inverse * V[:, j] if inverse.ndim == 1 else inverse @ V[:, j]
