r"""An estimate of the diagonal of G + lambda I (Jacobi's preconditioner), the same on every grid.

.. math:: \lambda + 1/C + E\Big[|S|^{-1} \sum_{i \in S} (J_i^T c_i)_a^2\Big], \qquad E[c_i c_i^T] = B_i

With one random cotangent c a sample the square of weight (a, t) is z_a^2 delta_t^2, so that all of them are one matrix
product of squares, without communication where there is a Jacobian.
"""

from __future__ import annotations

import numpy as np

from distnewton.backend import Array, Backend
from distnewton.curvature.linearization import Linearization
from distnewton.preconditioners.base import FactorOptions, Preconditioner
from distnewton.preconditioners.moments import blend


class Diagonal(Preconditioner):
    """Division by the diagonal of the damped matrix.

    Parameters
    ----------
    options : FactorOptions
        Averages and periods.
    """

    def __init__(self, options: FactorOptions) -> None:
        super().__init__(options)
        self._averages: dict[int, Array] = {}
        self._inverses: dict[int, Array] = {}

    def _accumulate(self, problem: Linearization, weight: float) -> None:
        deltas = problem.sample.random_cotangents()
        for m, Z in problem.sample.inputs.items():
            squares = deltas[m] * deltas[m]
            owns_bias = problem.layout.blocks[m].owns_bias
            n_in = Z.shape[1]
            fresh = problem.backend.empty(n_in + owns_bias, squares.shape[1])
            fresh[:n_in] = Z.T**2 @ squares if isinstance(Z, np.ndarray) else Z.multiply(Z).T @ squares
            if owns_bias:
                fresh[n_in] = squares.sum(axis=0)
            fresh /= problem.n_samples
            self._averages[m] = blend(self._averages.get(m), fresh, weight)

    def _invert(self, backend: Backend, shift: float) -> None:
        self._inverses = {m: 1.0 / (average + shift) for m, average in self._averages.items()}

    def _apply_layer(self, layer: int, V: Array, out: Array) -> None:
        np.multiply(V, self._inverses[layer], out=out)
