"""First-order baselines on the partitioned network: the negative gradient, and Adam; neither communicates."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from distnewton.backend import Array, namespace
from distnewton.checkpoint.state import State
from distnewton.curvature.linearization import Linearization
from distnewton.directions.direction import LEARNING_RATE, Direction, DirectionResult, Presets, Role
from distnewton.directions.options import MomentumOptions
from distnewton.network.layout import ParameterLayout
from distnewton.options import Options
from distnewton.parallel.termination import EarlyTermination


class SteepestDescent(Direction):
    """The direction d = -g; the step rule adds momentum."""

    name = "sgd"
    help = "the negative gradient, with momentum"
    family = LEARNING_RATE
    roles: ClassVar[frozenset[Role]] = frozenset({"proposal"})
    own_options = MomentumOptions
    presets: ClassVar[Presets] = {"direction": {"batch": 128}}

    def solve(self, problem: Linearization, termination: EarlyTermination) -> DirectionResult:
        """Return the negative gradient."""
        return DirectionResult(-problem.gradient)


class AdamOptions(Options):
    """Constants of Adam's formula."""

    beta1: float = Field(0.9, ge=0.0, lt=1.0, description="decay of the mean gradient")
    beta2: float = Field(0.999, ge=0.0, lt=1.0, description="decay of the mean squared gradient")
    epsilon: float = Field(1e-8, gt=0.0, description="added to the root of the mean square")


class Adam(Direction):
    r"""Adam (arXiv 1412.6980, algorithm 1), with the bias corrections of the step count.

    .. math:: m = \beta_1 m + (1 - \beta_1) g, \quad v = \beta_2 v + (1 - \beta_2) g^2, \quad
        d = -\frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    Weight decay is part of the objective (theta / C in the gradient), as for all other directions.
    """

    name = "adam"
    help = "Adam"
    family = LEARNING_RATE
    roles: ClassVar[frozenset[Role]] = frozenset({"proposal"})
    own_options = AdamOptions
    presets: ClassVar[Presets] = {"direction": {"batch": 128, "learning_rate": 1e-3}}

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self._mean: Array | None = None
        self._square: Array | None = None
        self._n_steps = 0

    def solve(self, problem: Linearization, termination: EarlyTermination) -> DirectionResult:
        """Update both averages and return their quotient."""
        g, options = problem.gradient, self.options
        xp = namespace(g)
        if self._mean is None or self._square is None:
            self._mean, self._square = xp.zeros_like(g), xp.zeros_like(g)
        self._n_steps += 1
        self._mean *= options.beta1
        self._mean += (1.0 - options.beta1) * g
        work = g * g
        work *= 1.0 - options.beta2
        self._square *= options.beta2
        self._square += work
        xp.sqrt(self._square, out=work)
        # both corrections folded into two scalars, so that no array is scaled twice
        root = (1.0 - options.beta2**self._n_steps) ** 0.5
        work += options.epsilon * root
        xp.divide(self._mean, work, out=work)
        work *= -root / (1.0 - options.beta1**self._n_steps)
        return DirectionResult(work)

    def state(self) -> State:
        """Return both averages and the number of steps in them."""
        if self._mean is None or self._square is None:
            return State()
        return State({"n_steps": self._n_steps}, {"mean": self._mean, "square": self._square})

    def restore(self, state: State, layout: ParameterLayout) -> None:
        """Restore the averages."""
        if state.vectors:
            self._n_steps = state.numbers["n_steps"]
            self._mean, self._square = state.vectors["mean"], state.vectors["square"]

    def n_vectors(self) -> int:
        """Number of vectors kept: both averages."""
        return 2
