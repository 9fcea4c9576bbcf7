"""Backtracking line search with Armijo's sufficient decrease."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Generic, TypeVar

from distnewton.frozen import frozen

T = TypeVar("T")


@frozen
class LineSearchResult(Generic[T]):
    """The result of a line search.

    Attributes
    ----------
    step_size : float
        Accepted alpha; 0 if no trial decreased the objective enough.
    value : float
        Objective at that alpha; for alpha = 0 the starting value.
    trials : int
        Number of evaluations of the objective.
    state : object or None
        State of the accepted evaluation, for its gradient; None without an accepted trial.
    """

    step_size: float
    value: float
    trials: int
    state: T | None


def backtrack(
    evaluate: Callable[[float], tuple[float, T]],
    value: float,
    slope: float,
    *,
    sufficient_decrease: float = 1e-4,
    shrink: float = 0.5,
    max_trials: int = 20,
) -> LineSearchResult[T]:
    r"""Try alpha = 1, 1/2, 1/4, ... until f(theta + alpha d) <= f(theta) + eta alpha g^T d.

    Parameters
    ----------
    evaluate : callable
        alpha -> (objective, state of the evaluation); the same on all ranks.
    value : float
        Objective at alpha = 0.
    slope : float
        g^T d, negative.
    sufficient_decrease : float
        eta.
    shrink : float
        Factor from one trial to the next.
    max_trials : int
        Maximum number of evaluations.

    Returns
    -------
    LineSearchResult

    Notes
    -----
    A non-finite trial counts as no decrease. If the slope is not negative, the search ends before its first trial.
    """
    if not slope < 0.0:
        return LineSearchResult(0.0, value, 0, None)
    step_size = 1.0
    for trial in range(1, max_trials + 1):
        trial_value, state = evaluate(step_size)
        if math.isfinite(trial_value) and trial_value <= value + sufficient_decrease * step_size * slope:
            return LineSearchResult(step_size, trial_value, trial, state)
        step_size *= shrink
        del state  # as large as the point's own state: never keep two trials at once
    return LineSearchResult(0.0, value, max_trials, None)
