"""Handle numbers that are not finite: decisions that are the same on all ranks, retries, and messages.

Each decision uses a sum that is computed anyway: the loss, the gradient's norm, or the gathered results of the
direction. The line search handles a trial point that overflows, since it is no decrease.
"""

from __future__ import annotations

import numpy as np

from distnewton.backend import Array
from distnewton.curvature.linearization import Linearization
from distnewton.directions.direction import Direction, DirectionResult
from distnewton.errors import NumericalError
from distnewton.guards.failures import failures
from distnewton.guards.hangs import ranges
from distnewton.method.objective import Evaluation, Objective
from distnewton.method.records import DirectionRecord
from distnewton.network.diagnosis import first_finding
from distnewton.parallel.termination import EarlyTermination
from distnewton.solvers.damping import LevenbergMarquardt

MAX_RETRIES = 3
RETRY_BOOST = 10.0
"""Factor on the damping between tries; the factors of ordinary steps are too small to escape rounding errors."""
_ADVICE = (
    "scale the data ([data] scale = standard), use float64 ([run] dtype), a smaller method.C or more method.damping"
)


def not_finite(
    what: str,
    objective: Objective,
    evaluation: Evaluation,
    gradient: Array | None = None,
    direction: Array | None = None,
    problem: Linearization | None = None,
) -> NumericalError:
    """Make the error for a result that is not finite, with the first place where a number is not finite.

    Parameters
    ----------
    what : str
        Name of the result.
    objective : Objective
        Objective, with data and network.
    evaluation : Evaluation
        Evaluation of the objective at the point.
    gradient, direction : Array of shape (n_params_local,) or None
        Gradient and direction at the point, if they have been computed.
    problem : Linearization or None
        Model that holds the Jacobian, if there is one.

    Returns
    -------
    NumericalError
        Collective: the same on all ranks.

    Notes
    -----
    Collective: two gathers of short texts.
    """
    when = f"in iteration {failures.current_iteration}" if failures.current_iteration else "at the start"
    told = objective.loss.not_finite(evaluation.outputs, evaluation.targets)
    by_loss = next(filter(None, objective.network.grid.world.allgather_json(told)), "")
    if by_loss:
        return NumericalError(f"{what} is not finite {when}: {by_loss}", collective=True)
    factors = {}
    if problem is not None and problem.sample.has_jacobian:
        factors = {m: part.factor.arrays() for m, part in problem.jacobian.parts.items()}
    kept = [activations for _, activations in evaluation.chunks if activations is not None]
    vectors = {"the gradient": gradient, "the direction": direction}
    given = {name: vector for name, vector in vectors.items() if vector is not None}
    place = first_finding(objective.network, evaluation.params, objective.X, kept, factors, given)
    place = place or "in none of the arrays that are kept"
    return NumericalError(
        f"{what} is not finite {when}. First found: {place}. Try to {_ADVICE}",
        collective=True,
    )


def solve(direction: Direction, problem: Linearization, termination: EarlyTermination) -> DirectionResult:
    """Find a direction; where ranks work independently, a failure is reported in the result instead of raised.

    Parameters
    ----------
    direction : Direction
        The method.
    problem : Linearization
        The model.
    termination : EarlyTermination
        Decides when the rank may stop early.

    Returns
    -------
    DirectionResult
    """
    try:
        # the collective decision reports it once; warnings would come from every rank
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            return direction.solve(problem, termination)
    except NumericalError as error:
        if not (error.collective or direction.stops_early):
            raise
        zeros = problem.backend.zeros(problem.layout.n_params)
        return DirectionResult(zeros, finished=False, failure=str(error))


class Retries:
    """Retries of a direction at one point, each with more damping.

    Parameters
    ----------
    damping : LevenbergMarquardt
        Damping that is raised before each retry.
    """

    def __init__(self, damping: LevenbergMarquardt) -> None:
        self._damping, self._first, self._n = damping, damping.value, 0

    def retry(
        self,
        objective: Objective,
        evaluation: Evaluation,
        problem: Linearization,
        found: DirectionResult,
        record: DirectionRecord,
    ) -> str:
        """Raise the damping for another try.

        Parameters
        ----------
        objective, evaluation, problem : Objective, Evaluation, Linearization
            Objective, point and model for which the direction was computed.
        found : DirectionResult
            Result on this rank.
        record : DirectionRecord
            Results on all ranks.

        Returns
        -------
        str
            A note for the record.

        Raises
        ------
        NumericalError
            After the last retry, on every rank alike.

        Notes
        -----
        Collective when it raises.
        """
        failed = f"rank {ranges(record.failed_ranks)}" if record.failed_ranks else ""
        if self._n == MAX_RETRIES:
            texts = objective.network.grid.world.allgather_json(found.failure)
            causes = "".join(f"\n  {text}" for text in dict.fromkeys(filter(None, texts)))
            what = f"the direction of {failed}" if failed else "the direction"
            error = not_finite(what, objective, evaluation, problem.gradient, found.direction, problem)
            tries = f"{MAX_RETRIES} times with damping raised from {self._first:.2g} to {self._damping.value:.2g}"
            raise NumericalError(f"{error}; tried again {tries}{causes}", collective=True)
        self._n += 1
        self._damping.value = max(self._damping.value, 1e-8) * RETRY_BOOST
        who = failed or "the model along it"
        return f"direction not finite ({who}), damping {self._first:.2g} raised to {self._damping.value:.2g}"
