"""One Newton step: linearise, find a direction, combine it with the last one, search along it, adapt the damping."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np

from distnewton.backend import Array
from distnewton.checkpoint.state import State
from distnewton.curvature.linearization import Linearization
from distnewton.directions.direction import Direction, DirectionResult
from distnewton.frozen import frozen
from distnewton.method.combination import Combination, combine
from distnewton.method.linearizer import Linearizer
from distnewton.method.nonfinite import Retries, solve
from distnewton.method.objective import Evaluation, Objective
from distnewton.method.records import DirectionRecord, IterationRecord, gather_direction
from distnewton.network.layout import ParameterLayout
from distnewton.parallel.grid import ProcessGrid
from distnewton.parallel.termination import NEVER, EarlyTermination
from distnewton.solvers.damping import LevenbergMarquardt, penalised_part, reduction_ratio
from distnewton.solvers.line_search import LineSearchResult, backtrack


@frozen
class StepOptions:
    """Settings of a Newton step.

    Attributes
    ----------
    combine : str
        ``previous``: the step combines this direction with the last one; ``scale``: it scales this direction;
        ``none``: neither.
    sufficient_decrease : float
        Coefficient eta of sufficient decrease in the line search.
    line_search_max : int
        Largest number of trials in the line search.
    sketch : int
        Number of random output cotangents of a sample in place of all outputs; 0 uses all outputs.
    seed : int
        Seed of random cotangents.
    stage : int
        Number of the stage; each stage draws different numbers.
    """

    combine: str = "previous"
    sufficient_decrease: float = 1e-4
    line_search_max: int = 20
    sketch: int = 0
    seed: int = 0
    stage: int = 0


class NewtonStep:
    """Steps of the Newton method on an objective, which may change (to another mini-batch) at each step.

    Parameters
    ----------
    direction : Direction
        Method for the direction.
    damping : LevenbergMarquardt
        Damping whose value is the first lambda, or NaN to choose it by the first point's curvature.
    options : StepOptions
        Settings.
    termination : EarlyTermination
        Decides when a direction phase may end early.

    Attributes
    ----------
    n_rejected : int
        Number of directions rejected in a row.
    converged : bool
        Whether the predicted decrease along the last direction was less than the rounding error of the objective.
    """

    def __init__(
        self,
        direction: Direction,
        damping: LevenbergMarquardt,
        options: StepOptions,
        termination: EarlyTermination = NEVER,
    ) -> None:
        self._direction = direction
        self._damping, self._options, self._termination = damping, options, termination
        self._previous: Array | None = None
        self._linearizer = Linearizer(direction, options.sketch, options.seed, options.stage)
        self._n_directions = self.n_rejected = 0
        self.converged = False

    def step(
        self,
        objective: Objective,
        evaluation: Evaluation,
        value: float,
        curvature: tuple[int, int] | Array | None,
        record: IterationRecord,
    ) -> tuple[Evaluation, float] | None:
        """Take one step from a point.

        Parameters
        ----------
        objective : Objective
            Objective that is minimised.
        evaluation : Evaluation
            Evaluation of the point on the objective's samples.
        value : float
            Objective at the point, regularisation included.
        curvature : tuple of int, Array or None
            Samples of the next point's curvature, as :meth:`Objective.evaluate` takes them.
        record : IterationRecord
            Record that is filled in.

        Returns
        -------
        tuple of (Evaluation, float), or None
            The accepted point and the objective there; None if the direction was rejected.

        Notes
        -----
        Collective over the grid.
        """
        if not self._damping.begun:
            self._begin_damping(objective, evaluation)
        retries, phases = Retries(self._damping), []
        while True:
            record.damping = self._damping.value
            record.gradient_norm, problem = self._linearizer.model(objective, evaluation, self._damping.value)
            found, record.direction = self._find_direction(objective.network.grid, problem)
            if self._termination.stops_ranks:
                phases.append(record.direction.inner_iterations)
                record.direction.phases = phases
            if not record.direction.failed_ranks:
                combined = self._combine(objective.network.grid, problem, evaluation.params, found.direction)
                if math.isfinite(combined.slope + combined.curvature):
                    break
            record.note = retries.retry(objective, evaluation, problem, found, record.direction)
        record.note = "; ".join(filter(None, [record.note, found.note]))
        if found.acceleration is not None:
            combined = replace(combined, curve=combined.betas[0] ** 2 * found.acceleration)
        search = self._search(objective, evaluation.params, value, curvature, combined)
        record.betas = list(combined.betas)
        record.line_search_trials, record.step_size = search.trials, search.step_size
        return self._accept(search, value, combined, record)

    def state(self, evaluation: Evaluation) -> State:
        """Return what the next step needs, even at a point whose directions have all been rejected so far.

        Parameters
        ----------
        evaluation : Evaluation
            Evaluation of the point at which the next step starts.

        Returns
        -------
        State
        """
        damping = {"damping": self._damping.value if self._damping.begun else None, "growth": self._damping.growth}
        numbers = {**damping, "n_rejected": self.n_rejected, **self._linearizer.state(evaluation)}
        previous = {} if self._previous is None else {"previous": self._previous}
        return State(numbers, previous, parts={"direction": self._direction.state()})

    def restore(self, state: State, layout: ParameterLayout) -> None:
        """Restore a state from :meth:`state`, for this rank's blocks."""
        damping = state.numbers["damping"]
        self._damping.value = math.nan if damping is None else damping
        self._damping.growth = state.numbers["growth"]
        self.n_rejected, self._previous = state.numbers["n_rejected"], state.vectors.get("previous")
        self._linearizer.restore(state.numbers)
        self._direction.restore(state.parts["direction"], layout)

    def forget(self) -> None:
        """Forget the last direction and the model of the last point: the next step starts elsewhere."""
        self._previous = None
        self._linearizer.forget()

    def _begin_damping(self, objective: Objective, evaluation: Evaluation) -> None:
        """Choose the first lambda by the curvature along the gradient, for one product."""
        _, problem = self._linearizer.model(objective, evaluation, 0.0)
        with objective.network.grid.ledger.phase("combination"):
            along = combine(problem, evaluation.params, [problem.gradient], scale=False)
            damped = along.squared_norm
            if problem.damping_matrix is not None:
                g = problem.gradient
                (damped,) = problem.grid.sum_of_variables(problem.backend.dot(g, problem.damping_matrix * g))
        self._damping.begin(along.curvature / damped if damped else 0.0)

    def _find_direction(self, grid: ProcessGrid, problem: Linearization) -> tuple[DirectionResult, DirectionRecord]:
        """Solve for the direction; record which ranks finished and which were stopped."""
        self._n_directions += 1
        self._termination.begin(self._n_directions)
        with grid.ledger.phase("direction"):
            start = time.perf_counter()
            result = solve(self._direction, problem, self._termination)
            seconds = time.perf_counter() - start
            self._termination.leave()
        with grid.ledger.phase("combination"):
            record = gather_direction(grid.world, self._direction.title, result, seconds)
            self._termination.end(record.finished_ranks)
            if self._direction.apart and grid.n_replicas > 1 and not record.failed_ranks:
                result = replace(result, direction=grid.mean_over_replicas(result.direction))
                self._direction.set_mean_direction(result.direction)
        return result, record

    def _combine(self, grid: ProcessGrid, problem: Linearization, params: Array, direction: Array) -> Combination:
        """Scale the direction and combine it with the last one, as the options say."""
        with grid.ledger.phase("combination"):
            directions = [direction]
            if self._options.combine == "previous" and self._previous is not None:
                directions.append(self._previous)
            return combine(problem, params, directions, scale=self._options.combine != "none")

    def _search(
        self, objective: Objective, params: Array, value: float, curvature: tuple[int, int] | Array | None,
        combined: Combination,
    ) -> LineSearchResult[Evaluation]:  # fmt: skip
        """Backtrack along the direction, or along a parabola; an accepted trial is the next point's evaluation."""
        ledger = objective.network.grid.ledger
        with ledger.phase("line_search"):
            start = regularizer(objective, params)

            def evaluate(alpha: float) -> tuple[float, Evaluation]:
                if combined.curve is not None:
                    step = combined.direction + alpha * combined.curve
                    trial = objective.evaluate(params + alpha * step, curvature)
                    return trial.loss + regularizer(objective, trial.params), trial
                trial = objective.evaluate(params + alpha * combined.direction, curvature)
                change = alpha * combined.params_dot + 0.5 * alpha**2 * combined.penalised_norm
                return trial.loss + start + objective.regularization * change, trial

            return backtrack(
                evaluate,
                value,
                combined.slope,
                sufficient_decrease=self._options.sufficient_decrease,
                max_trials=self._options.line_search_max,
            )

    def _accept(
        self, search: LineSearchResult[Evaluation], value: float, combined: Combination, record: IterationRecord
    ) -> tuple[Evaluation, float] | None:
        """Adapt the damping to an accepted step, or raise it and forget the last direction."""
        rounding = float(np.finfo(combined.direction.dtype).eps) * abs(value)
        self.converged = 0.0 < -combined.slope <= rounding
        if search.state is None:
            record.note = "no descent direction" if search.trials == 0 else "no decrease along the direction"
            self._damping.reject()
            self._direction.step_taken(combined.direction, 0.0)
            self._previous = None
            self.n_rejected += 1
            return None
        rho = reduction_ratio(search.value - value, combined.slope, combined.curvature, search.step_size)
        record.reduction_ratio = rho if math.isfinite(rho) else None
        self._damping.update(rho)
        # free the model of the old point before the new point is evaluated, for example on test data
        self._linearizer.forget()
        direction, curve = combined.direction, combined.curve
        self._previous = direction if curve is None else direction + search.step_size * curve
        self._direction.step_taken(self._previous, search.step_size)
        self.n_rejected = 0
        return search.state, search.value


def regularizer(objective: Objective, params: Array) -> float:
    """Compute theta^T P theta / (2C) (collective: a sum of one number)."""
    penalised = penalised_part(params, objective.penalised)
    (squared,) = objective.network.grid.sum_of_variables(objective.network.backend.dot(penalised, penalised))
    return 0.5 * objective.regularization * squared
