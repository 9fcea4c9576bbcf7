"""Stochastic Gauss-Newton ([SGN], arXiv 2006.02409): gradient and curvature of the same mini-batch, few CG steps."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from distnewton.backend import Array
from distnewton.checkpoint.state import State
from distnewton.curvature.linearization import Linearization
from distnewton.directions.delegating import DelegatingDirection
from distnewton.directions.direction import BATCH_NEWTON, Direction, DirectionResult, Presets
from distnewton.network.layout import ParameterLayout
from distnewton.options import Options
from distnewton.parallel.termination import EarlyTermination


class StochasticOptions(Options):
    """Option for the solver of each mini-batch's direction."""

    solver: str = Field("block_diagonal", description="direction of each mini-batch")


class StochasticGaussNewton(DelegatingDirection):
    """Another direction on mini-batches: all but the family comes from the solver.

    Parameters
    ----------
    options : StochasticOptions
        Options of the stage.
    solver : Direction
        Direction used for each mini-batch.
    """

    name = "sgn"
    help = "Newton steps on mini-batches, without a learning rate"
    family = BATCH_NEWTON
    own_options = StochasticOptions
    presets: ClassVar[Presets] = {
        "direction": {
            "batch": 512, "sketch": 2, "cg_max": 2, "cg_min": 1, "damping": 0.01, "damping_min": 1e-4,
            "drop": 2.0 / 3.0, "preconditioner": "kfac", "statistics_period": 2, "inverse_period": 5,
        }
    }  # fmt: skip
    slots = ("solver",)

    def __init__(self, options: Any, solver: Direction) -> None:
        super().__init__(options, solver)
        self.stops_early, self.apart = solver.stops_early, solver.apart

    @property
    def title(self) -> str:
        """Name of this direction and of its solver."""
        return f"{self.name}/{self._inner.name}"

    def solve(self, problem: Linearization, termination: EarlyTermination) -> DirectionResult:
        """Solve with the solver."""
        return self._inner.solve(problem, termination)

    def set_mean_direction(self, direction: Array) -> None:
        """Notify the solver."""
        self._inner.set_mean_direction(direction)

    def state(self) -> State:
        """Return the solver's state."""
        return self._inner.state()

    def restore(self, state: State, layout: ParameterLayout) -> None:
        """Restore the solver's state."""
        self._inner.restore(state, layout)
