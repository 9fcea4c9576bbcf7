r"""The gradient, divided by an estimate of the diagonal of G + lambda I; no message but for the estimate's cotangents.

.. math:: d_a = -\frac{g_a}{\lambda + 1/C + |S|^{-1} \sum_{i \in S} (J_i^T c_i)_a^2}, \qquad E[c_i c_i^T] = B_i
"""

from __future__ import annotations

from distnewton.curvature.linearization import Linearization
from distnewton.directions.direction import Direction, DirectionResult
from distnewton.directions.options import DampingOptions
from distnewton.parallel.termination import EarlyTermination


class DiagonalNewton(Direction):
    """Each rank divides its own block; it carries nothing from one iteration to the next."""

    name = "diagonal_newton"
    help = "the gradient divided by an estimate of the diagonal of G"
    own_options = DampingOptions
    planned_as = "block_diagonal"
    roles = frozenset({"solver", "proposal"})  # of sgn and grouped_newton, too
    curvature = "cotangents"

    def solve(self, problem: Linearization, termination: EarlyTermination) -> DirectionResult:
        """Divide the negative gradient by the diagonal."""
        diagonal = problem.backend.zeros(problem.layout.n_params)
        deltas = problem.sample.random_cotangents()
        for m, block in problem.layout.matrices(diagonal).items():
            problem.sample.add_squares(m, deltas[m], block)
        return DirectionResult(-problem.gradient / (diagonal / problem.n_samples + problem.shift))
