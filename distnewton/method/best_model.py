"""The model with the best validation metric, and when to stop waiting for a better one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from distnewton.backend import Array
from distnewton.checkpoint.state import State
from distnewton.method.records import IterationRecord, Number, plain
from distnewton.models.metrics import LOWER_IS_BETTER, MAIN_METRIC
from distnewton.parallel.collectives import Communicator

_LEAST_GAIN = 0.01


@dataclass(frozen=True)
class Best:
    """The iteration whose model is kept.

    Attributes
    ----------
    iteration : int
        Its number; 0 is the start.
    metric : str
        By which it was chosen: ``accuracy``, ``auc`` or ``rmse`` on the validation set.
    value : float
        Of that metric.
    metrics : dict of str to dict of str to float
        All metrics there, by set: ``train``, ``validation``, ``test``.
    """

    iteration: int
    metric: str
    value: Number
    metrics: dict[str, dict[str, Number]]


class BestModel:
    """Follows the iterations of a run and keeps the best.

    Parameters
    ----------
    comm : Communicator
        All ranks.
    task : str
        Decides the metric: :data:`~distnewton.models.metrics.MAIN_METRIC`.
    patience : int
        Iterations without a better metric after which training ends; 0: it does not.

    Attributes
    ----------
    best : Best or None
        So far; None before the start was measured.
    params : Array of shape (n_params_local,) or None
        This rank's variables there.
    """

    def __init__(self, comm: Communicator, task: str, patience: int) -> None:
        self._comm, self._metric, self._patience = comm, MAIN_METRIC[task], patience
        self.best: Best | None = None
        self.params: Array | None = None
        self._gained = 0

    @property
    def point(self) -> tuple[int, Array] | None:
        """The best iteration and this rank's variables there; None before the start was measured."""
        return None if self.best is None or self.params is None else (self.best.iteration, self.params)

    def follow(self, record: IterationRecord, params: Array, first: int = -1) -> None:
        """Look at an iteration (collective, one number: ranks may round differently, and the first one decides).

        Parameters
        ----------
        record : IterationRecord
            With its metrics.
        params : Array of shape (n_params_local,)
            The point; copied where it is the best. Of equal ones of a stage the last is kept: shares of few right
            answers are often equal, and by chance high at first, while later points have seen more of the data.
            Patience counts from the first.
        first : int
            Iteration after which the current stage began. Where the best point is from before, an error must be smaller
            by 1 % to take its place: less is chance, and a later stage may have learnt the noise.
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
        """What of the best value another one must be beyond."""
        is_from_before = self.best is not None and self.best.iteration <= first
        return 1.0 - _LEAST_GAIN if is_from_before and self._metric in LOWER_IS_BETTER else 1.0

    def gives_up(self, iteration: int, first: int) -> str:
        """Why a stage that began after iteration ``first`` ends after another one; empty where it continues."""
        if not self._patience or self.best is None:
            return ""
        if iteration - max(self._gained, first) < self._patience:
            return ""
        return (
            f"validation {self._metric} was not better than that of iteration {self._gained} for "
            f"{self._patience} iterations"
        )

    def state(self) -> State:
        """The best iteration, its variables, and since when there is none better."""
        if self.best is None or self.params is None:
            return State({"best": None})
        return State({"best": plain(vars(self.best)), "gained": self._gained}, {"params": self.params})

    def restore(self, state: State) -> None:
        """Take over a state, perhaps from another grid."""
        found: dict[str, Any] | None = state.numbers["best"]
        if found is not None:
            self.best = TypeAdapter(Best).validate_python(found)
            self.params, self._gained = state.vectors["params"], state.numbers["gained"]
