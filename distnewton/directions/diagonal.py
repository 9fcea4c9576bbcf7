r"""An estimate of the diagonal of G + lambda I (Jacobi's preconditioner), the same on every grid.

.. math:: \lambda + 1/C + E\Big[|S|^{-1} \sum_{i \in S} (J_i^T c_i)_a^2\Big], \qquad E[c_i c_i^T] = B_i

With one random cotangent c per sample the square for weight (a, t) is z_a^2 delta_t^2, so one matrix product of squares
gives all of them; it needs no communication if there is a Jacobian. For a kernel the sum over its places is squared.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from distnewton.backend import Array, Backend, namespace
from distnewton.checkpoint.state import State
from distnewton.curvature.linearization import BlockModel
from distnewton.directions.moments import blend
from distnewton.directions.preconditioner import Preconditioner
from distnewton.network.layout import ParameterLayout


class Diagonal(Preconditioner):
    """Division by the diagonal of the damped matrix."""

    name = "diagonal"
    help = "an estimate of the diagonal of G, the same on every grid"
    n_vectors = 2

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self._averages: dict[int, Array] = {}
        self._inverses: dict[int, Array] = {}

    def _save(self, state: State) -> None:
        # one number per variable: the same on every grid
        state.vectors |= {"averages": _flat(self._averages), "inverses": _flat(self._inverses)}

    def _load(self, state: State, layout: ParameterLayout) -> bool:
        self._averages = layout.matrices(state.vectors["averages"])
        self._inverses = layout.matrices(state.vectors["inverses"])
        return True

    def _accumulate(self, problem: BlockModel, weight: float) -> None:
        deltas = problem.sample.random_cotangents()
        for m in problem.sample.inputs:
            block = problem.layout.blocks[m]
            n_in, n_out = block.shape
            fresh = problem.backend.zeros(n_in + block.owns_bias, n_out)
            problem.sample.add_squares(m, deltas[m], fresh)
            problem.grid.sum_over_replicas(fresh)
            fresh /= problem.n_samples
            self._averages[m] = blend(self._averages.get(m), fresh, weight)

    def _invert(self, backend: Backend, shift: float) -> None:
        self._inverses = {m: 1.0 / (average + shift) for m, average in self._averages.items()}

    def _apply_layer(self, layer: int, V: Array, out: Array) -> None:
        namespace(V).multiply(V, self._inverses[layer], out=out)


def _flat(by_layer: dict[int, Array]) -> Array:
    """Join the blocks of all own layers into one vector."""
    parts = [A.ravel() for A in by_layer.values()]
    flat: Array = namespace(parts[0]).concatenate(parts) if parts else np.zeros(0)
    return flat
