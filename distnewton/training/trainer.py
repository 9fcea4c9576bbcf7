"""The outer loop: linearise, find a direction, combine it with the last, search along it, adapt the damping."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from distnewton.backend import Array
from distnewton.curvature.jacobian import Jacobian, linearize
from distnewton.curvature.linearization import Linearization
from distnewton.directions.base import Direction, DirectionResult
from distnewton.errors import NumericalError
from distnewton.network.losses import LossHessian
from distnewton.parallel.faults import faults
from distnewton.parallel.termination import NEVER, EarlyTermination
from distnewton.solvers.damping import LevenbergMarquardt, reduction_ratio
from distnewton.solvers.line_search import LineSearchResult, backtrack
from distnewton.training.combination import Combination, combine
from distnewton.training.objective import Evaluation, Objective, subsample_range, subsample_size
from distnewton.training.records import DirectionRecord, IterationRecord, gather_costs, gather_direction

MAX_REJECTIONS = 30
"""Directions rejected in a row before training ends: by then lambda has grown 190,000 times."""

Metrics = Callable[[Array, Evaluation], tuple[dict[str, float], dict[str, float]]]
"""(params, evaluation) -> metrics of the training and of the test set; collective."""


@dataclass(frozen=True)
class StepOptions:
    """Settings of the outer loop.

    Attributes
    ----------
    subsample : float
        Share of the samples whose curvature an iteration uses.
    subsample_min : int
        At least so many samples.
    combine : str
        ``previous``: the step mixes this direction with the last; ``scale``: it only scales it; ``none``: neither.
    sufficient_decrease : float
        eta of the line search.
    line_search_max : int
        At most so many trials.
    seed : int
        Of the subsamples.
    """

    subsample: float
    subsample_min: int
    combine: str
    sufficient_decrease: float
    line_search_max: int
    seed: int


class Trainer:
    """Newton iterations from a starting point.

    Parameters
    ----------
    objective : Objective
        What is minimised.
    params : Array of shape (n_params_local,)
        Starting point.
    direction : Direction
        Method for the direction.
    method : str
        Its name, for the record.
    damping : LevenbergMarquardt
        Its value is the first lambda.
    options : StepOptions
        Settings of the outer loop.
    metrics : callable
        What to measure after each iteration.
    termination : EarlyTermination
        When a direction phase may end early.
    """

    def __init__(
        self,
        objective: Objective,
        params: Array,
        direction: Direction,
        method: str,
        damping: LevenbergMarquardt,
        options: StepOptions,
        metrics: Metrics,
        termination: EarlyTermination = NEVER,
    ) -> None:
        self.objective, self.params = objective, params
        self._direction, self._method = direction, method
        self._damping, self._options = damping, options
        self._metrics, self._termination = metrics, termination
        self._grid = objective.network.grid
        self._ledger = self._grid.ledger
        self._previous: Array | None = None
        self._n_directions = self._n_accepted = self._n_rejected = 0

    def iterations(self, n_iterations: int) -> Iterator[IterationRecord]:
        """Train; each iteration yields its record.

        Parameters
        ----------
        n_iterations : int
            At most so many; fewer when no direction leads down any more.

        Yields
        ------
        IterationRecord
            First of the start (iteration 0), then of each iteration; the same on all ranks.

        Notes
        -----
        Collective over the grid.
        """
        self._ledger.take()
        start = time.perf_counter()
        self._evaluation = self.objective.evaluate(self.params, self._subsample(0))
        self._value = self._evaluation.loss + self._regularizer()
        self._linearized: tuple[Array, float, Jacobian, LossHessian] | None = None
        if not math.isfinite(self._value):
            raise NumericalError(
                f"the objective is {self._value} at the start: the data or the initial weights overflow; scale the "
                "data ([data] scale) or use float64 ([run] dtype)",
                agreed=True,
            )
        yield self._finish(IterationRecord(0, 0.0, self._value, self._evaluation.loss), start)
        for k in range(1, n_iterations + 1):
            yield self._finish(self._iterate(k), start)
            if self._n_rejected >= MAX_REJECTIONS:
                return

    def _iterate(self, k: int) -> IterationRecord:
        """One iteration: the method's steps in their order."""
        gradient_norm, problem = self._linearize()
        found, direction_record = self._find_direction(problem)
        combined = self._combine(problem, found)
        search = self._search(combined)
        record = IterationRecord(k, 0.0, search.value, 0.0, gradient_norm, self._damping.value)
        record.direction = direction_record
        record.betas = list(combined.betas)
        record.line_search_trials, record.step_size = search.trials, search.step_size
        self._accept(search, combined, record)
        record.loss = self._evaluation.loss
        return record

    def _linearize(self) -> tuple[float, Linearization]:
        """Gradient, Jacobian and loss Hessian here; computed once a point, however many directions are tried."""
        network = self.objective.network
        if self._linearized is None:
            faults.at("gradient")
            with self._ledger.phase("gradient"):
                gradient = self.objective.gradient(self._evaluation)
                (squared,) = self._grid.comm.sum_scalars(network.backend.dot(gradient, gradient))
            if not math.isfinite(squared):
                raise NumericalError(
                    "the gradient is not finite: scale the data ([data] scale) or use float64 ([run] dtype)",
                    agreed=True,
                )
            with self._ledger.phase("jacobian"):
                samples, activations = self._evaluation.subsample
                jacobian = linearize(network, self.params, activations)
                hessian = self.objective.loss.hessian(activations.output, self.objective.targets[slice(*samples)])
            self._linearized = gradient, math.sqrt(squared), jacobian, hessian
        gradient, norm, jacobian, hessian = self._linearized
        regularization = self.objective.regularization
        return norm, Linearization(gradient, jacobian, hessian, regularization, self._damping.value, self._grid)

    def _find_direction(self, problem: Linearization) -> tuple[Array, DirectionRecord]:
        """Solve for the direction; ranks that finished, and those that were stopped, are recorded."""
        self._n_directions += 1
        self._termination.begin(self._n_directions)
        with self._ledger.phase("direction"):
            start = time.perf_counter()
            result: DirectionResult = self._direction.solve(problem, self._termination)
            seconds = time.perf_counter() - start
        with self._ledger.phase("combination"):
            record = gather_direction(self._grid.comm, self._method, result, seconds)
        self._termination.end(record.finished_ranks)
        return result.direction, record

    def _combine(self, problem: Linearization, direction: Array) -> Combination:
        """Scale the direction and mix in the last one, where that is asked for."""
        with self._ledger.phase("combination"):
            directions = [direction]
            if self._options.combine == "previous" and self._previous is not None:
                directions.append(self._previous)
            return combine(problem, self.params, directions, scale=self._options.combine != "none")

    def _search(self, combined: Combination) -> LineSearchResult[Evaluation]:
        """Backtrack along the direction; an accepted trial is the next iteration's evaluation."""
        faults.at("line_search")
        last = self._subsample(self._n_accepted + 1)
        regularizer = self._regularizer()

        def evaluate(alpha: float) -> tuple[float, Evaluation]:
            trial = self.objective.evaluate(self.params + alpha * combined.direction, last)
            change = alpha * combined.params_dot + 0.5 * alpha**2 * combined.squared_norm
            return trial.loss + regularizer + self.objective.regularization * change, trial

        with self._ledger.phase("line_search"):
            return backtrack(
                evaluate,
                self._value,
                combined.slope,
                sufficient_decrease=self._options.sufficient_decrease,
                max_trials=self._options.line_search_max,
            )

    def _accept(
        self, search: LineSearchResult[Evaluation], combined: Combination, record: IterationRecord
    ) -> None:
        """Move to the accepted point and adapt the damping, or raise the damping and stay."""
        if search.state is None:
            record.note = "no descent direction" if search.trials == 0 else "no decrease along the direction"
            self._damping.reject()
            self._previous = None
            self._n_rejected += 1
            return
        rho = reduction_ratio(search.value - self._value, combined.slope, combined.curvature, search.step_size)
        record.reduction_ratio = rho if math.isfinite(rho) else None
        self._damping.update(rho)
        self._previous = combined.direction
        self._evaluation, self._value = search.state, search.value
        self.params = search.state.params
        self._linearized = None
        self._n_accepted += 1
        self._n_rejected = 0

    def _regularizer(self) -> float:
        """theta^T theta / (2C) here (collective, one number)."""
        dot = self.objective.network.backend.dot
        (squared,) = self._grid.comm.sum_scalars(dot(self.params, self.params))
        return 0.5 * self.objective.regularization * squared

    def _subsample(self, i: int) -> tuple[int, int]:
        """Sample range of the i-th subsample."""
        n = self.objective.n_samples
        size = subsample_size(n, self._options.subsample, self._options.subsample_min)
        return subsample_range(n, size, self._options.seed, i)

    def _finish(self, record: IterationRecord, start: float) -> IterationRecord:
        """Measure the metrics and gather what the iteration cost on all ranks."""
        with self._ledger.phase("evaluation"):
            record.train, record.test = self._metrics(self.params, self._evaluation)
        record.elapsed_seconds = time.perf_counter() - start
        record.seconds, record.wait_seconds, record.sent_bytes = gather_costs(self._grid.comm, self._ledger.take())
        return record
