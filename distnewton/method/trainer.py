"""The outer loop: stages one after the other, a record an iteration."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

from distnewton.backend import Array
from distnewton.checkpoint.state import State
from distnewton.guards.failures import failures
from distnewton.launch.deadline import Stop
from distnewton.method.best_model import BestModel
from distnewton.method.divergence import Divergence
from distnewton.method.nonfinite import not_finite
from distnewton.method.objective import Evaluation, Objective
from distnewton.method.records import IterationRecord, gather_costs
from distnewton.method.stages import Stage

Measured = dict[str, dict[str, float]]
"""Metrics by set: ``train``, ``validation``, ``test``, as far as there are any."""
Metrics = Callable[[Array, Evaluation], Measured]
"""(params, evaluation) -> metrics; collective."""


@dataclass
class Position:
    """Where a run stands, as its checkpoints say it.

    Attributes
    ----------
    iteration : int
        Number of the last iteration, of the whole run.
    stage, iterations_of_stage : int
        Current stage, and its iterations so far.
    elapsed_seconds, evaluation_seconds : float
        Seconds of the whole run, and those of them that went into evaluation.
    first_gradient_norm, gradient_norm : float or None
        Norms where the first and the last iteration began.
    """

    iteration: int = 0
    stage: int = 0
    iterations_of_stage: int = 0
    elapsed_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    first_gradient_norm: float | None = None
    gradient_norm: float | None = None

    @property
    def before_stage(self) -> int:
        """Iteration after which the current stage began."""
        return self.iteration - self.iterations_of_stage


class Trainer:
    """Iterations from a starting point.

    Parameters
    ----------
    objective : Objective
        What is minimised.
    params : Array of shape (n_params_local,)
        Starting point.
    schedule : sequence of (Stage, int)
        Stages in their order, with the most iterations of each; the last one takes all that remain. A stage hands over
        sooner where it no longer gains: no direction leads down, or the validation metric has not become better for
        ``best``'s patience, in which case the next one begins at the best point.
    metrics : callable
        What to measure after each iteration.
    best : BestModel or None
        Follows the validation metric, and ends a stage where it does not get better.

    Attributes
    ----------
    params : Array of shape (n_params_local,)
        Current point.
    stopped : Stop
        What ended the last :meth:`iterations` before its end, if anything.
    ended : str
        Why it ended before its last iteration for another reason; else empty.
    """

    def __init__(
        self,
        objective: Objective,
        params: Array,
        schedule: Sequence[tuple[Stage, int]],
        metrics: Metrics,
        best: BestModel | None = None,
    ) -> None:
        self.objective, self.params = objective, params
        self._schedule, self._metrics, self._best = list(schedule), metrics, best
        self._divergence = Divergence(objective, keeps_lowest=best is None)
        self._position, self._resumed = Position(), False
        self.stopped, self.ended = Stop.NO, ""

    @property
    def iteration(self) -> int:
        """Number of the last iteration, of the whole run."""
        return self._position.iteration

    @property
    def diverged(self) -> bool:
        """Whether training ended because it diverged."""
        return bool(self._divergence.reason)

    @property
    def chosen(self) -> tuple[int, Array]:
        """Iteration and variables of the result: by validation, where training diverged the lowest, else the last."""
        if self._best is not None and (best := self._best.point) is not None:
            return best
        if self.diverged and self._divergence.params is not None:
            return self._divergence.iteration, self._divergence.params
        return self.iteration, self.params

    @property
    def evaluation(self) -> Evaluation:
        """Evaluation of the current point."""
        return self._stage.evaluation

    @property
    def _stage(self) -> Stage:
        return self._schedule[self._position.stage][0]

    def iterations(
        self,
        n_iterations: int,
        seconds: float = math.inf,
        must_stop: Callable[[], Stop] | None = None,
        *,
        tolerance: float = 0.0,
    ) -> Iterator[IterationRecord]:
        """Train; each iteration yields its record.

        Parameters
        ----------
        n_iterations : int
            At most so many; fewer when no direction leads down any more.
        seconds : float
            Training ends with the iteration in which ``training_seconds`` reach this.
        must_stop : callable or None
            Asked on each rank after each iteration whether to stop; one rank that wants to is enough.
        tolerance : float
            Training ends with the iteration that begins with a gradient whose norm is at most this share of that with
            which the first one began; 0: it does not.

        Yields
        ------
        IterationRecord
            First of the start (iteration 0) unless the run was resumed, then of each iteration; the same on all ranks.

        Notes
        -----
        Collective over the grid.
        """
        ledger, position = self.objective.network.grid.ledger, self._position
        ledger.take()
        failures.iteration = position.iteration if self._resumed else None
        start = time.perf_counter() - position.elapsed_seconds
        if not self._resumed:
            self._stage.start(self.params, None)
            if not math.isfinite(self._stage.value):
                raise not_finite("the objective", self.objective, self._stage.evaluation)
            record = IterationRecord(0, 0.0, self._stage.value, self._stage.evaluation.loss)
            self._divergence.follow(record, self.params, "")
            yield self._finish(record, start, must_stop)
        elif self._ends(position.elapsed_seconds - position.evaluation_seconds, seconds, tolerance):
            return
        while position.iteration < n_iterations and not self.stopped:
            # what records, observers and checkpoints have sent is no cost of the method
            ledger.take()
            record = self._finish(self._iterate(), start, must_stop)
            yield record
            # the record's seconds are the same on all ranks; those of evaluation alone are not
            if self._ends(record.training_seconds, seconds, tolerance):
                return

    def _iterate(self) -> IterationRecord:
        """Do the next iteration, by the next stage where this one has done all of its own."""
        position, note = self._position, ""
        while not self._is_last:
            why = self._no_gain()
            if not why and position.iterations_of_stage < self._schedule[position.stage][1]:
                break
            note = self._next_stage(why)
        stage = self._stage
        if self.objective.renew(position.iteration + 1):
            stage.start(self.params, None)
        record = IterationRecord(position.iteration + 1, 0.0, stage.value, stage.evaluation.loss)
        stage.iterate(record)
        record.note = "; ".join(filter(None, [note, record.note]))
        position.iteration += 1
        position.iterations_of_stage += 1
        position.gradient_norm = record.gradient_norm
        if position.first_gradient_norm is None:
            position.first_gradient_norm = record.gradient_norm
        record.objective, record.loss = stage.value, stage.evaluation.loss
        self.params = stage.evaluation.params
        with self.objective.network.grid.ledger.phase("evaluation"):
            self._divergence.follow(record, self.params, stage.remedy)
        return record

    @property
    def _is_last(self) -> bool:
        return self._position.stage + 1 == len(self._schedule)

    def _no_gain(self) -> str:
        """Why the current stage does not go on; empty where it does."""
        if self._stage.exhausted:
            return self._stage.exhausted
        position = self._position
        return self._best.gives_up(position.iteration, position.before_stage) if self._best is not None else ""

    def _next_stage(self, why: str) -> str:
        """Begin the next stage here, or, where this one gains no more, at the best point; returns a note on that."""
        position, note = self._position, ""
        known: Evaluation | None = self._stage.evaluation
        if why:
            note = f"{why}: stage {position.stage + 2} begins"
            if self._best is not None and (best := self._best.point) is not None:
                iteration, params = best
                self.params, known = params.copy(), None
                note += f" at the point of iteration {iteration}"
        position.stage, position.iterations_of_stage = position.stage + 1, 0
        self._stage.start(self.params, known)
        return note

    def _ends(self, training_seconds: float, seconds: float, tolerance: float) -> bool:
        """Whether training ends here, before its last iteration; says why."""
        position = self._position
        first, norm = position.first_gradient_norm or 0.0, position.gradient_norm
        if self.diverged:
            self.ended = self._divergence.reason
        elif training_seconds >= seconds:
            self.ended = f"run.seconds = {seconds:g} were reached"
        elif self._is_last and (why := self._no_gain()):
            self.ended = why
        elif tolerance and norm is not None and norm <= tolerance * first:
            self.ended = f"the gradient's norm fell to {norm / (first or 1.0):.2g} of its first"
        return bool(self.ended)

    def pass_time(self, seconds: float) -> None:
        """Count seconds that were spent on the run between iterations; the same on all ranks."""
        self._position.elapsed_seconds += seconds

    def state(self) -> State:
        """What the next iteration needs: the point, where the schedule stands, and the state of its stage."""
        numbers = asdict(self._position)
        parts = {"stage": self._stage.state(), "divergence": self._divergence.state(self.params)}
        if self._best is not None:
            parts["best"] = self._best.state()
        return State(numbers, {"params": self.params}, parts=parts)

    def restore(self, state: State) -> None:
        """Continue from a state instead of from the start.

        Parameters
        ----------
        state : State
            As of :meth:`state`, perhaps from another grid.

        Notes
        -----
        Collective over the grid.
        """
        self._position, self._resumed = Position(**state.numbers), True
        if self._best is not None:
            self._best.restore(state.parts["best"])
        self.params = state.vectors["params"]
        self._divergence.restore(state.parts["divergence"], self.params)
        self.objective.renew(self.iteration)
        self._stage.restore(self.params, state.parts["stage"])

    def _finish(
        self, record: IterationRecord, start: float, must_stop: Callable[[], Stop] | None
    ) -> IterationRecord:
        """Measure the metrics, gather what the iteration cost on all ranks, and whether one of them wants to stop."""
        grid, position = self.objective.network.grid, self._position
        with grid.ledger.phase("evaluation"):
            measured = self._metrics(self.params, self._stage.evaluation)
            record.train, record.validation, record.test = (
                measured.get(which, {}) for which in ("train", "validation", "test")
            )
            if self._best is not None:
                self._best.follow(record, self.params, position.before_stage if position.stage else -1)
        costs = grid.ledger.take()
        position.evaluation_seconds += costs["evaluation"].seconds
        stop = must_stop() if must_stop else Stop.NO
        elapsed = time.perf_counter() - start
        self.stopped = gather_costs(grid.world, record, costs, elapsed, position.evaluation_seconds, stop)
        position.elapsed_seconds = record.elapsed_seconds
        failures.iteration = record.iteration
        return record
