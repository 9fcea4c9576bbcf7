"""What a direction is: a method that turns the linearised objective into this rank's block of a direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from distnewton.backend import Array
from distnewton.curvature.linearization import Linearization
from distnewton.parallel.termination import EarlyTermination


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
    """

    direction: Array
    inner_iterations: int
    finished: bool
    residual: float


class Direction(Protocol):
    """A method for the direction. To add one, write a file with such a class and name it in the registry.

    Attributes
    ----------
    stops_early : bool
        Whether ranks solve apart from each other, so that early termination applies.
    """

    stops_early: bool

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


@dataclass(frozen=True)
class DirectionOptions:
    """Settings that directions share.

    Attributes
    ----------
    cg_tolerance : float
        Relative residual at which CG stops.
    cg_max, cg_min : int
        Limits of CG steps.
    blocks : str
        ``rank``: a rank's block couples the layers it holds; ``layer``: cut by layer, [DNM]'s own diagonalisation.
    """

    cg_tolerance: float
    cg_max: int
    cg_min: int
    blocks: str = "rank"
