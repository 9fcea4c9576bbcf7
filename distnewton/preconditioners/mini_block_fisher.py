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
        # by layer, one mini-block after the other along the first axis
        self._averages: dict[int, Array] = {}
        self._inverses: dict[int, Array] = {}

    def _accumulate(self, problem: Linearization, weight: float) -> None:
        deltas = problem.sample.loss_cotangents()
        for m, Z in problem.sample.inputs.items():
            block = problem.layout.blocks[m]
            if not block.n_params:
                continue
            squares = deltas[m] * deltas[m]
            if self._options.mini_blocks == "layer":
                squares = squares.mean(axis=1, keepdims=True)
            columns = np.ascontiguousarray(squares.T)
            fresh = np.stack([second_moments(problem.backend, Z, block.owns_bias, column) for column in columns])
            self._averages[m] = blend(self._averages.get(m), fresh, weight)

    def _invert(self, backend: Backend, shift: float) -> None:
        for m, averages in self._averages.items():
            self._inverses[m] = np.stack([inverted(backend, shifted(F, shift)) for F in averages])

    def _apply_layer(self, layer: int, V: Array, out: Array) -> None:
        inverses = self._inverses[layer]
        if self._options.mini_blocks == "layer":
            out[...] = apply_left(inverses[0], V)
        elif inverses.ndim == 2:
            np.multiply(inverses.T, V, out=out)
        else:
            out[...] = np.matvec(inverses, V.T).T
