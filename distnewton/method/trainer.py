"""The outer loop: stages one after the other, a record an iteration."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence

from distnewton.backend import Array
from distnewton.checkpoint.state import State
from distnewton.errors import DataError
from distnewton.guards.failures import failures
from distnewton.launch.deadline import Stop
from distnewton.method.best_model import BestModel
from distnewton.method.nonfinite import not_finite
from distnewton.method.objective import Evaluation, Objective
from distnewton.method.records import IterationRecord, gather_costs
from distnewton.method.stages import Stage

_SAME_LOSS = {"float32": (1e-3, 1e-6), "float64": (1e-6, 1e-12)}
"""Relative and absolute difference of a loss that is computed again, on whatever grid, by dtype."""
Measured = dict[str, dict[str, float]]
"""Metrics by set: ``train``, ``validation``, ``test``, as far as there are any."""
Metrics = Callable[[Array, Evaluation], Measured]
"""(params, evaluation) -> metrics; collective."""


class Trainer:
    """Iterations from a starting point.

    Parameters
    ----------
    objective : Objective
        What is minimised.
    params : Array of shape (n_params_local,)
        Starting point.
    schedule : sequence of (Stage, int)
        Stages in their order, with the iterations of each; the last one takes all that remain.
    metrics : callable
        What to measure after each iteration.
    best : BestModel or None
        Follows the validation metric, and ends training where it does not get better.

    Attributes
    ----------
    params : Array of shape (n_params_local,)
        Current point.
    iteration : int
        Number of the last iteration, of the whole run.
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
        self._comm = objective.network.grid.world
        self._ledger = objective.network.grid.ledger
        self.stopped, self.ended = Stop.NO, ""
        # the current stage, and its iterations so far; of the whole run, also before it was resumed
        self._i_stage = self._n_done = self.iteration = 0
        self._elapsed = self._evaluation_seconds = 0.0
        self._resumed = False
        # where the first and the last iteration began
        self._first_norm: float | None = None
        self._norm: float | None = None

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
        self._ledger.take()
        failures.iteration = self.iteration if self._resumed else None
        start = time.perf_counter() - self._elapsed
        stage, n = self._schedule[self._i_stage]
        if not self._resumed:
            stage.start(self.params, None)
            if not math.isfinite(stage.value):
                raise not_finite("the objective", self.objective, stage.evaluation)
            record = IterationRecord(0, 0.0, stage.value, stage.evaluation.loss)
            yield self._finish(record, stage.evaluation, start, must_stop)
        elif self._ends(stage, self._elapsed - self._evaluation_seconds, seconds, tolerance):
            return
        for k in range(self.iteration + 1, n_iterations + 1):
            if self.stopped:
                return
            # what records, observers and checkpoints have sent is no cost of the method
            self._ledger.take()
            while self._n_done >= n and self._i_stage + 1 < len(self._schedule):
                self._i_stage, self._n_done = self._i_stage + 1, 0
                known = stage.evaluation
                stage, n = self._schedule[self._i_stage]
                stage.start(self.params, known)
            record = IterationRecord(k, 0.0, stage.value, stage.evaluation.loss)
            stage.iterate(record)
            self._n_done += 1
            self.iteration = k
            record.objective, record.loss = stage.value, stage.evaluation.loss
            self.params = stage.evaluation.params
            self._norm = record.gradient_norm
            self._first_norm = self._norm if self._first_norm is None else self._first_norm
            yield self._finish(record, stage.evaluation, start, must_stop)
            if self._ends(stage, record.training_seconds, seconds, tolerance):
                return

    def _ends(self, stage: Stage, training_seconds: float, seconds: float, tolerance: float) -> bool:
        """Whether training ends here, before its last iteration; says why."""
        if stage.exhausted:
            self.ended = "no direction leads down any more"
        elif training_seconds >= seconds:
            self.ended = f"run.seconds = {seconds:g} were reached"
        elif self._best is not None and (why := self._best.gives_up(self.iteration)):
            self.ended = why
        elif tolerance and self._norm is not None and self._norm <= tolerance * (self._first_norm or 0.0):
            self.ended = f"the gradient's norm fell to {self._norm / (self._first_norm or 1.0):.2g} of its first"
        return bool(self.ended)

    @property
    def evaluation(self) -> Evaluation:
        """Of the current point."""
        return self._schedule[self._i_stage][0].evaluation

    def state(self) -> State:
        """What the next iteration needs: the point, where the schedule stands, and the state of its stage."""
        stage, _ = self._schedule[self._i_stage]
        numbers = {
            "iteration": self.iteration,
            "stage": self._i_stage,
            "iterations_of_stage": self._n_done,
            "loss": stage.evaluation.loss,
            "elapsed_seconds": self._elapsed,
            "evaluation_seconds": self._evaluation_seconds,
            "first_gradient_norm": self._first_norm,
            "gradient_norm": self._norm,
        }
        best = {} if self._best is None else {"best": self._best.state()}
        return State(numbers, {"params": self.params}, parts={"stage": stage.state(), **best})

    def restore(self, state: State) -> None:
        """Go on from a state instead of from the start.

        Parameters
        ----------
        state : State
            As of :meth:`state`, perhaps from another grid.

        Raises
        ------
        DataError
            If the loss there is another one: then the data are not those that were trained on.

        Notes
        -----
        Collective over the grid.
        """
        numbers = state.numbers
        self.iteration, self._resumed = numbers["iteration"], True
        self._i_stage, self._n_done = numbers["stage"], numbers["iterations_of_stage"]
        self._elapsed, self._evaluation_seconds = numbers["elapsed_seconds"], numbers["evaluation_seconds"]
        # checkpoints of earlier versions have no norms
        self._first_norm, self._norm = numbers.get("first_gradient_norm"), numbers.get("gradient_norm")
        if self._best is not None:
            self._best.restore(state.parts["best"])
        self.params = state.vectors["params"]
        stage, _ = self._schedule[self._i_stage]
        stage.restore(self.params, state.parts["stage"])
        loss, known = stage.evaluation.loss, numbers["loss"]
        relative, absolute = _SAME_LOSS[str(self.params.dtype)]
        if not math.isclose(loss, known, rel_tol=relative, abs_tol=absolute):
            raise DataError(
                f"the loss at the checkpoint's variables was {known:.9g} and is {loss:.9g} on these data: values or "
                "labels, or their order, have changed since",
                collective=True,
            )

    def _finish(
        self, record: IterationRecord, evaluation: Evaluation, start: float, must_stop: Callable[[], Stop] | None
    ) -> IterationRecord:
        """Measure the metrics, gather what the iteration cost on all ranks, and whether one of them wants to stop."""
        with self._ledger.phase("evaluation"):
            measured = self._metrics(self.params, evaluation)
            record.train, record.validation, record.test = (
                measured.get(which, {}) for which in ("train", "validation", "test")
            )
            if self._best is not None:
                self._best.follow(record, self.params)
        costs = self._ledger.take()
        self._evaluation_seconds += costs["evaluation"].seconds
        stop = must_stop() if must_stop else Stop.NO
        elapsed = time.perf_counter() - start
        self.stopped = gather_costs(self._comm, record, costs, elapsed, self._evaluation_seconds, stop)
        self._elapsed = record.elapsed_seconds
        failures.iteration = record.iteration
        return record
