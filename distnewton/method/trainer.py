"""The outer loop: it runs the stages one after the other and yields a record for each iteration."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
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
"""Metrics by set, for those of ``train``, ``validation`` and ``test`` that exist."""
Metrics = Callable[[Array, Evaluation], Measured]
"""(params, evaluation) -> metrics; collective."""


@dataclass
class Position:
    """Progress of a run, as its checkpoints store it.

    Attributes
    ----------
    iteration : int
        Number of the last iteration, counted over the whole run.
    stage, iterations_of_stage : int
        Current stage, and its number of iterations so far.
    elapsed_seconds, evaluation_seconds : float
        Seconds of the whole run, and the part of them spent in evaluation.
    first_gradient_norm, gradient_norm : float or None
        Norm of the gradient at the start of the first and of the last iteration; the first may be that at zero
        (:meth:`Trainer.count_from_zero`).
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
    """Runs the iterations of training from a starting point.

    Parameters
    ----------
    objective : Objective
        Objective that is minimised.
    params : Array of shape (n_params_local,)
        Starting point.
    schedule : list of (Stage, int)
        Stages in order, each with its largest number of iterations; the last stage takes all that remain. A stage ends
        sooner if no direction decreases the objective, or if the validation metric has not improved for the patience of
        `best`; the next stage then begins at the best point. Stages that have ended are removed, with their factors.
    metrics : callable
        Computes the metrics after each iteration.
    best : BestModel or None
        Follows the validation metric, and ends a stage in which it no longer improves.

    Attributes
    ----------
    params : Array of shape (n_params_local,)
        Current point.
    stopped : Stop
        What stopped :meth:`iterations` from outside: the clock, a signal, or nothing.
    ended : str
        Any other reason why it ended before its last iteration; else empty.
    """

    def __init__(
        self,
        objective: Objective,
        params: Array,
        schedule: list[tuple[Stage, int]],
        metrics: Metrics,
        best: BestModel | None = None,
    ) -> None:
        self.objective, self.params = objective, params
        self._schedule, self._metrics, self._best = schedule, metrics, best
        self._divergence = Divergence(objective, keeps_lowest=best is None)
        self._position, self._resumed = Position(), False
        self.stopped, self.ended = Stop.NO, ""

    @property
    def iteration(self) -> int:
        """Number of the last iteration, counted over the whole run."""
        return self._position.iteration

    @property
    def diverged(self) -> bool:
        """Whether training ended because it diverged."""
        return bool(self._divergence.reason)

    @property
    def chosen(self) -> tuple[int, Array]:
        """Iteration and variables of the result: the best by validation, the lowest after divergence, or the last."""
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
        return self._schedule[0][0]

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
            Largest number of iterations; fewer if no direction decreases the objective any more.
        seconds : float
            Training ends with the iteration in which ``training_seconds`` reach this.
        must_stop : callable or None
            Called on each rank after each iteration; training stops if any rank's call says so.
        tolerance : float
            Relative gradient norm at which training ends: the last iteration is the one that begins with at most this
            share of the first norm; 0 turns the test off.

        Yields
        ------
        IterationRecord
            Record of the start (iteration 0) unless the run was resumed, then of each iteration; the same on all ranks.

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
            # messages of records, observers and checkpoints do not count as costs of the method
            ledger.take()
            record = self._finish(self._iterate(), start, must_stop)
            yield record
            # the seconds in the record are the same on all ranks, as this decision requires
            if self._ends(record.training_seconds, seconds, tolerance):
                return

    def _iterate(self) -> IterationRecord:
        """Do the next iteration; begin the next stage first if the current one has ended."""
        position, note = self._position, ""
        while not self._is_last:
            why = self._no_gain()
            if not why and position.iterations_of_stage < self._schedule[0][1]:
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
        return len(self._schedule) == 1

    def _no_gain(self) -> str:
        """Say why the current stage ends for lack of gain; empty if it continues."""
        if self._stage.exhausted:
            return self._stage.exhausted
        position = self._position
        return self._best.gives_up(position.iteration, position.before_stage) if self._best is not None else ""

    def _next_stage(self, why: str) -> str:
        """Begin the next stage here, or at the best point if the current one no longer gains; return a note on that."""
        position, note = self._position, ""
        known: Evaluation | None = self._stage.evaluation
        if why:
            note = f"{why}: stage {position.stage + 2} begins"
            if self._best is not None and (best := self._best.point) is not None:
                iteration, params = best
                self.params, known = params.copy(), None
                note += f" at the point of iteration {iteration}"
        del self._schedule[0]
        position.stage, position.iterations_of_stage = position.stage + 1, 0
        self._stage.start(self.params, known)
        return note

    def _ends(self, training_seconds: float, seconds: float, tolerance: float) -> bool:
        """Decide whether training ends here, before its last iteration; store the reason."""
        position = self._position
        first, norm = position.first_gradient_norm or 0.0, position.gradient_norm
        if self.diverged:
            self.ended = self._divergence.reason
        elif training_seconds >= seconds:
            self.ended = f"run.seconds = {seconds:g} were reached"
        elif self._is_last and (why := self._no_gain()):
            self.ended = why
        elif tolerance and norm is not None and norm <= tolerance * first:
            self.ended = f"the gradient's norm fell to {norm / (first or 1.0):.2g} of its first value"
        return bool(self.ended)

    def count_from_zero(self) -> None:
        """Make the tolerance relative to the gradient at zero in place of the first one (collective)."""
        objective, backend = self.objective, self.objective.network.backend
        gradient = objective.gradient(objective.evaluate(backend.zeros(len(self.params)), None))
        (squared,) = objective.network.grid.sum_of_variables(backend.dot(gradient, gradient))
        self._position.first_gradient_norm = math.sqrt(squared)

    def pass_time(self, seconds: float) -> None:
        """Add seconds spent between iterations to the run's time; the same on all ranks."""
        self._position.elapsed_seconds += seconds

    def state(self) -> State:
        """Return what the next iteration needs: the point, the position in the schedule, and the stage's state."""
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
            State from :meth:`state`, perhaps from another grid.

        Notes
        -----
        Collective over the grid.
        """
        del self._schedule[: state.numbers["stage"] - self._position.stage]
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
        """Compute the metrics; gather the iteration's costs on all ranks and whether a rank wants to stop."""
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
