"""What a direction is: a method that turns the linearised objective into this rank's block of a direction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

from distnewton.backend import Array
from distnewton.checkpoint.state import State
from distnewton.curvature.linearization import Linearization
from distnewton.directions.preconditioner import Preconditioner
from distnewton.network.layout import ParameterLayout
from distnewton.parallel.termination import EarlyTermination

Curvature = Literal["none", "cotangents", "jacobian", "roots"]


@dataclass(frozen=True)
class DirectionResult:
    """A direction and what happened on this rank while it was sought.

    Attributes
    ----------
    direction : Array of shape (n_params_local,)
        This rank's block.
    inner_iterations : int
        CG steps this rank did.
    finished : bool
        Whether this rank met its own stopping rule; False when it was stopped because enough others had.
    residual : float
        Relative residual of the system this rank solved; over its blocks the largest.
    note : str
        What went wrong and was mended, the same on all ranks; else empty.
    failure : str
        Why this rank has no direction; else empty.
    step_sizes : tuple of float
        Step sizes of the groups, the same on all ranks, of directions that have some.
    """

    direction: Array
    inner_iterations: int = 0
    finished: bool = True
    residual: float = 0.0
    note: str = ""
    failure: str = ""
    step_sizes: tuple[float, ...] = ()


class Direction(Protocol):
    """A method for the direction. To add one, write a file with such a class and name it in the registry.

    Attributes
    ----------
    stops_early : bool
        Whether ranks solve apart from each other, so that early termination applies.
    apart : bool
        Whether each replica of the grid finds a direction of its own, with its own samples.
    curvature : str
        What it reads of the curvature sample: ``none`` (the gradient only), ``cotangents`` (of single outputs or of
        the loss), ``jacobian`` (of all outputs, or of a sketch), ``roots`` (the same with B = I).
    averages_gradient : bool
        Whether momentum, in steps of a learning rate, averages the gradient before the direction is taken rather than
        the directions.
    """

    stops_early: bool
    apart: bool
    curvature: Curvature
    averages_gradient: bool

    def solve(self, problem: Linearization, termination: EarlyTermination) -> DirectionResult:
        """Find this rank's block of a direction.

        Parameters
        ----------
        problem : Linearization
            The model around the current point.
        termination : EarlyTermination
            Where a rank says that it has finished and asks whether enough have; methods in which all ranks do the
            same steps leave it alone.

        Returns
        -------
        DirectionResult
        """
        ...

    def set_mean_direction(self, direction: Array) -> None:
        """Learn the mean over replicas of what :meth:`solve` has returned, where each found a direction of its own.

        Parameters
        ----------
        direction : Array of shape (n_params_local,)
            The step's direction.
        """
        ...

    def state(self) -> State:
        """What it carries from one call to the next; no copies are made."""
        ...

    def restore(self, state: State, layout: ParameterLayout) -> None:
        """Take over a state of a new object with the same options, perhaps from another grid.

        Parameters
        ----------
        state : State
            As of :meth:`state`; without factors where they belong to other blocks.
        layout : ParameterLayout
            This rank's blocks.
        """
        ...


class SharedDirection:
    """What directions have in common that learn nothing from the mean over replicas, as a rule because all find it."""

    apart = False

    def set_mean_direction(self, direction: Array) -> None:
        """Nothing to learn."""


class Stateless:
    """What directions have in common that carry nothing from one call to the next."""

    def state(self) -> State:
        """Nothing."""
        return State()

    def restore(self, state: State, layout: ParameterLayout) -> None:
        """Nothing to take over."""


@dataclass(frozen=True)
class DirectionOptions:
    """Settings that directions share; each reads its own.

    Attributes
    ----------
    cg_tolerance : float
        Relative residual at which CG stops.
    cg_max, cg_min : int
        Limits of CG steps.
    blocks : str
        ``rank``: a rank's block couples the layers it holds; ``layer``: cut by layer, [DNM]'s own diagonalisation.
    cg_stop : str
        ``residual``, or ``progress``: Martens' rule, too.
    warm_start : float
        CG starts from this multiple of the last solution.
    jacobian : str
        ``stored``, or ``recomputed`` at each CG step of the full system.
    preconditioner : str
        Name of the preconditioner of CG.
    statistics_decay : float
        Decay of the moving averages of curvature factors.
    statistics_period, inverse_period : int
        Steps from one update of the factors, and from one factorisation, to the next.
    mini_blocks : str
        ``layer`` or ``neuron``: what a mini-block of the Fisher matrix covers.
    beta1, beta2, epsilon : float
        Adam's.
    groups, proposal : str
        Grouped Newton: what shares a step length, and whose direction is scaled.
    internal_damping, rate_momentum : float
        Grouped Newton: cubic damping, and share of the last step lengths kept.
    rate_period : int
        Grouped Newton: steps from one set of step lengths to the next.
    negative_rates : bool
        Grouped Newton: whether negative step lengths are kept.
    """

    cg_tolerance: float = 0.1
    cg_max: int = 30
    cg_min: int = 3
    blocks: str = "rank"
    cg_stop: str = "residual"
    warm_start: float = 0.0
    jacobian: str = "stored"
    preconditioner: str = "none"
    statistics_decay: float = 0.95
    statistics_period: int = 1
    inverse_period: int = 1
    mini_blocks: str = "layer"
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    groups: str = "tensor"
    proposal: str = "sgd"
    internal_damping: float = 10.0
    rate_momentum: float = 0.5
    rate_period: int = 10
    negative_rates: bool = False

    @property
    def cg_progress(self) -> float:
        """Relative progress a step at which CG stops, 0 for the residual's rule alone."""
        return 5e-4 if self.cg_stop == "progress" else 0.0


def relative(residual_norm: float, b_norm: float) -> float:
    """Residual over right-hand side, 0 where that is zero."""
    return residual_norm / b_norm if b_norm else 0.0


def norm(squared: float) -> float:
    """Root of a squared norm that rounding may have made negative."""
    return math.sqrt(max(squared, 0.0))


def state_of_cg(last: Array | None, preconditioner: Preconditioner | None) -> State:
    """What directions by CG carry on: their last solution and their preconditioner."""
    return State(
        vectors={} if last is None else {"last": last},
        parts={} if preconditioner is None else {"preconditioner": preconditioner.state()},
    )


def restore_cg_state(state: State, layout: ParameterLayout, preconditioner: Preconditioner | None) -> Array | None:
    """Undo :func:`state_of_cg`; returns the last solution."""
    if preconditioner is not None:
        preconditioner.restore(state.parts["preconditioner"], layout)
    return state.vectors.get("last")
