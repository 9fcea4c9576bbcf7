"""First-order baselines on the partitioned network: the negative gradient, and Adam. Nothing is communicated."""

from __future__ import annotations

from distnewton.backend import Array, namespace
from distnewton.checkpoint.state import State
from distnewton.curvature.linearization import Linearization
from distnewton.directions.direction import Curvature, DirectionResult, SharedDirection, Stateless
from distnewton.network.layout import ParameterLayout
from distnewton.parallel.termination import EarlyTermination


class SteepestDescent(Stateless, SharedDirection):
    """d = -g; momentum is the step rule's."""

    stops_early = False
    curvature: Curvature = "none"
    averages_gradient = False

    def solve(self, problem: Linearization, termination: EarlyTermination) -> DirectionResult:
        """Return the negative gradient."""
        return DirectionResult(-problem.gradient)


class Adam(SharedDirection):
    r"""Adam (arXiv 1412.6980, algorithm 1), with the bias corrections of the step count.

    .. math:: m = \beta_1 m + (1 - \beta_1) g, \quad v = \beta_2 v + (1 - \beta_2) g^2, \quad
        d = -\frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    Weight decay is that of the objective (theta / C in the gradient), as for all other directions.

    Parameters
    ----------
    beta1, beta2, epsilon : float
        Constants of the formula.
    """

    stops_early = False
    curvature: Curvature = "none"
    averages_gradient = False

    def __init__(self, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8) -> None:
        self._beta1, self._beta2, self._epsilon = beta1, beta2, epsilon
        self._mean: Array | None = None
        self._square: Array | None = None
        self._n_steps = 0

    def solve(self, problem: Linearization, termination: EarlyTermination) -> DirectionResult:
        """Update both averages and return their quotient."""
        g = problem.gradient
        xp = namespace(g)
        if self._mean is None or self._square is None:
            self._mean, self._square = xp.zeros_like(g), xp.zeros_like(g)
        self._n_steps += 1
        self._mean *= self._beta1
        self._mean += (1.0 - self._beta1) * g
        work = g * g
        work *= 1.0 - self._beta2
        self._square *= self._beta2
        self._square += work
        xp.sqrt(self._square, out=work)
        # both corrections in two numbers, so that no array is scaled twice
        root = (1.0 - self._beta2**self._n_steps) ** 0.5
        work += self._epsilon * root
        xp.divide(self._mean, work, out=work)
        work *= -root / (1.0 - self._beta1**self._n_steps)
        return DirectionResult(work)

    def state(self) -> State:
        """Both averages and the number of steps in them."""
        if self._mean is None or self._square is None:
            return State()
        return State({"n_steps": self._n_steps}, {"mean": self._mean, "square": self._square})

    def restore(self, state: State, layout: ParameterLayout) -> None:
        """Take over the averages."""
        if state.vectors:
            self._n_steps = state.numbers["n_steps"]
            self._mean, self._square = state.vectors["mean"], state.vectors["square"]
