"""The outer loop: stages one after the other, a record an iteration."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence

from distnewton.backend import Array
from distnewton.parallel.failures import failures
from distnewton.training.objective import Evaluation, Objective
from distnewton.training.records import IterationRecord, gather_costs
from distnewton.training.stages import Stage
from distnewton.training.verdicts import not_finite

Metrics = Callable[[Array, Evaluation], tuple[dict[str, float], dict[str, float]]]
"""(params, evaluation) -> metrics of the training and of the test set; collective."""


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

    Attributes
    ----------
    params : Array of shape (n_params_local,)
        Current point.
    stopped : bool
        Whether the clock ended the last :meth:`iterations`.
    """

    def __init__(
        self, objective: Objective, params: Array, schedule: Sequence[tuple[Stage, int]], metrics: Metrics
    ) -> None:
        self.objective, self.params = objective, params
        self._schedule, self._metrics = list(schedule), metrics
        self._comm = objective.network.grid.comm
        self._ledger = objective.network.grid.ledger
        self.stopped = False

    def iterations(
        self, n_iterations: int, seconds: float = math.inf, must_stop: Callable[[], bool] | None = None
    ) -> Iterator[IterationRecord]:
        """Train; each iteration yields its record.

        Parameters
        ----------
        n_iterations : int
            At most so many; fewer when no direction leads down any more.
        seconds : float
            Training ends with the iteration in which ``training_seconds`` reach this.
        must_stop : callable or None
            Asked before each iteration whether there is time for it; the same answer on all ranks.

        Yields
        ------
        IterationRecord
            First of the start (iteration 0), then of each iteration; the same on all ranks.

        Notes
        -----
        Collective over the grid.
        """
        self._ledger.take()
        failures.iteration = None
        self._evaluation_seconds = 0.0
        start = time.perf_counter()
        stage, remaining = self._schedule[0]
        stage.start(self.params, None)
        if not math.isfinite(stage.value):
            raise not_finite("the objective", self.objective, stage.evaluation)
        yield self._finish(IterationRecord(0, 0.0, stage.value, stage.evaluation.loss), stage.evaluation, start)
        i_stage = 0
        for k in range(1, n_iterations + 1):
            if must_stop is not None and must_stop():
                self.stopped = True
                return
            while remaining == 0 and i_stage + 1 < len(self._schedule):
                i_stage += 1
                known = stage.evaluation
                stage, remaining = self._schedule[i_stage]
                stage.start(self.params, known)
            record = IterationRecord(k, 0.0, stage.value, stage.evaluation.loss)
            stage.iterate(record)
            remaining -= 1
            record.objective, record.loss = stage.value, stage.evaluation.loss
            self.params = stage.evaluation.params
            yield self._finish(record, stage.evaluation, start)
            if stage.exhausted or record.training_seconds >= seconds:
                return

    def _finish(self, record: IterationRecord, evaluation: Evaluation, start: float) -> IterationRecord:
        """Measure the metrics and gather what the iteration cost on all ranks."""
        with self._ledger.phase("evaluation"):
            record.train, record.test = self._metrics(self.params, evaluation)
        costs = self._ledger.take()
        self._evaluation_seconds += costs["evaluation"].seconds
        gather_costs(self._comm, record, costs, time.perf_counter() - start, self._evaluation_seconds)
        failures.iteration = record.iteration
        return record
