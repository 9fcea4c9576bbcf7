"""Keep the model with the best validation metric, and decide when to stop waiting for a better one."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from distnewton.backend import Array
from distnewton.checkpoint.state import State
from distnewton.frozen import frozen
from distnewton.method.records import IterationRecord, Number, plain
from distnewton.models.metrics import LOWER_IS_BETTER, MAIN_METRIC
from distnewton.parallel.collectives import Communicator

_LEAST_GAIN = 0.01


@frozen
class Best:
    """The iteration whose model is kept.

    Attributes
    ----------
    iteration : int
        Number of the iteration; 0 is the start.
    metric : str
        Metric on the validation set by which it was chosen: ``accuracy``, ``auc`` or ``rmse``.
    value : float
        Value of that metric.
    metrics : dict of str to dict of str to float
        All metrics of the iteration by set: ``train``, ``validation``, ``test``.
    """

    iteration: int
    metric: str
    value: Number
    metrics: dict[str, dict[str, Number]]


class BestModel:
    """Follows the iterations of a run and keeps the best model.

    Parameters
    ----------
    comm : Communicator
        All ranks.
    task : str
        Task, which decides the metric: :data:`~distnewton.models.metrics.MAIN_METRIC`.
    patience : int
        Iterations without a better metric after which training ends; 0: never.

    Attributes
    ----------
    best : Best or None
        Best iteration so far; None before the start has been measured.
    params : Array of shape (n_params_local,) or None
        This rank's variables after that iteration.
    """

    def __init__(self, comm: Communicator, task: str, patience: int) -> None:
        self._comm, self._metric, self._patience = comm, MAIN_METRIC[task], patience
        self.best: Best | None = None
        self.params: Array | None = None
        self._gained = 0

    @property
    def point(self) -> tuple[int, Array] | None:
        """The best iteration and this rank's variables after it; None before the start has been measured."""
        return None if self.best is None or self.params is None else (self.best.iteration, self.params)

    def follow(self, record: IterationRecord, params: Array, first: int = -1) -> None:
        """Compare an iteration with the best one.

        Parameters
        ----------
        record : IterationRecord
            Record of the iteration, with its metrics.
        params : Array of shape (n_params_local,)
            The point, which is copied if it is the best. Among equal ones of a stage the last is kept: accuracies on
            few samples are often equal, and an early one may be high by chance, while later points have seen more of
            the data. Patience counts from the first.
        first : int
            Iteration after which the current stage began. If the best point is from an earlier stage, an error must be
            1 % smaller to replace it: a smaller gain is chance, and a later stage may have fitted the noise.

        Notes
        -----
        Collective: a broadcast of one number. Ranks may round differently, so the first one decides.
        """
        mine = record.validation[self._metric]
        value = float(self._comm.broadcast_json(mine if self._comm.rank == 0 else None))
        sign = -1.0 if self._metric in LOWER_IS_BETTER else 1.0
        gains = self.best is None or sign * value > sign * self.best.value * self._share_to_beat(first)
        if gains:
            self._gained = record.iteration
        if self.best is None or gains or (value == self.best.value and self.best.iteration > first):
            metrics = {"train": record.train, "validation": record.validation, "test": record.test}
            self.best = Best(record.iteration, self._metric, value, metrics)
            self.params = params.copy()

    def _share_to_beat(self, first: int) -> float:
        """Return the factor on the best value that another one must beat."""
        is_from_before = self.best is not None and self.best.iteration <= first
        return 1.0 - _LEAST_GAIN if is_from_before and self._metric in LOWER_IS_BETTER else 1.0

    def gives_up(self, iteration: int, first: int) -> str:
        """Say why a stage that began after iteration ``first`` ends after ``iteration``; empty if it continues."""
        if not self._patience or self.best is None:
            return ""
        if iteration - max(self._gained, first) < self._patience:
            return ""
        return (
            f"validation {self._metric} was not better than that of iteration {self._gained} for "
            f"{self._patience} iterations"
        )

    def state(self) -> State:
        """Return the best iteration, its variables, and the iteration of the last gain."""
        if self.best is None or self.params is None:
            return State({"best": None})
        return State({"best": plain(vars(self.best)), "gained": self._gained}, {"params": self.params})

    def restore(self, state: State) -> None:
        """Restore a state, perhaps from another grid."""
        found: dict[str, Any] | None = state.numbers["best"]
        if found is not None:
            self.best = TypeAdapter(Best).validate_python(found)
            self.params, self._gained = state.vectors["params"], state.numbers["gained"]
