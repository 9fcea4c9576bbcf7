r"""The gradient times an inverse that is cheap to apply: ``kfac`` and ``mini_block_fisher`` as directions.

.. math:: d = -P^{-1} g
"""

from __future__ import annotations

from distnewton.checkpoint.state import State
from distnewton.curvature.linearization import Linearization
from distnewton.directions.direction import Curvature, DirectionResult, SharedDirection
from distnewton.directions.preconditioner import Preconditioner
from distnewton.network.layout import ParameterLayout
from distnewton.parallel.termination import EarlyTermination


class PreconditionedGradient(SharedDirection):
    """The preconditioned gradient; each rank with its own blocks, no communication but for statistics.

    Parameters
    ----------
    preconditioner : Preconditioner
        P.
    averages_gradient : bool
        Whether momentum averages the gradient ([MBF]) rather than the direction (K-FAC).
    """

    stops_early = False
    curvature: Curvature = "cotangents"

    def __init__(self, preconditioner: Preconditioner, *, averages_gradient: bool = False) -> None:
        self._preconditioner = preconditioner
        self.averages_gradient = averages_gradient

    def solve(self, problem: Linearization, termination: EarlyTermination) -> DirectionResult:
        """Update the preconditioner as its periods say, and apply it."""
        self._preconditioner.update(problem)
        direction = self._preconditioner.apply(problem.gradient)
        direction *= -1
        return DirectionResult(direction)

    def state(self) -> State:
        """The preconditioner's."""
        return State(parts={"preconditioner": self._preconditioner.state()})

    def restore(self, state: State, layout: ParameterLayout) -> None:
        """Take over the preconditioner's."""
        self._preconditioner.restore(state.parts["preconditioner"], layout)
