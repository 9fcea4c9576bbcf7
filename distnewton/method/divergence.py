"""Detect that training diverges, and return to the point of the lowest objective."""

from __future__ import annotations

import math

from distnewton.backend import Array
from distnewton.checkpoint.state import State
from distnewton.method.objective import Objective
from distnewton.method.records import IterationRecord

DIVERGED = "training diverged"
"""Beginning of the reason."""
_FAR = 10.0
"""An objective above this multiple of both the first objective and the loss of zero outputs counts as far above."""
_PATIENCE = 3
"""Iterations that an objective may stay far above without falling; after an overshoot it falls again."""


class Divergence:
    """Follows the objective of a run, and keeps the point where it was lowest.

    Training diverges if the objective is not finite, or if it stays far above the first one for some iterations without
    falling. Steps with a line search never diverge; steps with a learning rate on mini-batches may.

    Parameters
    ----------
    objective : Objective
        Objective that is minimised.
    keeps_lowest : bool
        Whether to keep the point of the lowest objective; False if validation chooses the model.

    Attributes
    ----------
    iteration : int
        Iteration with the lowest objective so far.
    params : Array of shape (n_params_local,) or None
        The point after that iteration, which no code changes in place; None if it is not kept.
    reason : str
        Why training diverged, the same on all ranks; empty if it has not.
    """

    def __init__(self, objective: Objective, *, keeps_lowest: bool) -> None:
        self._objective, self._keeps_lowest = objective, keeps_lowest
        self._first, self._lowest = math.nan, math.inf
        self._far: list[float] = []
        self.iteration, self.reason = 0, ""
        self.params: Array | None = None

    def follow(self, record: IterationRecord, params: Array, remedy: str) -> None:
        """Examine an iteration; if training diverged, note it in the record.

        Parameters
        ----------
        record : IterationRecord
            Record of the iteration, with its objective.
        params : Array of shape (n_params_local,)
            The point after the iteration.
        remedy : str
            What the user can do about divergence.

        Notes
        -----
        Collective if the objective is above 10 times the first one.
        """
        value = record.objective
        if record.iteration == 0:
            self._first = value
        if value < self._lowest:
            self._lowest, self.iteration = value, record.iteration
            self.params = params if self._keeps_lowest else None
        self._far = [*self._far, value][-1 - _PATIENCE :] if self._is_far(value) else []
        if math.isfinite(value) and (len(self._far) <= _PATIENCE or value < self._far[0]):
            return
        model = f"that of iteration {self.iteration}" if self._keeps_lowest else "the one that validation chose"
        self.reason = (
            f"{DIVERGED}: the objective is {value:.3g} after iteration {record.iteration} and was {self._lowest:.3g} "
            f"after iteration {self.iteration}; the model is {model}; {remedy}"
        )
        record.note = "; ".join(filter(None, [record.note, self.reason]))

    def state(self, params: Array) -> State:
        """Return the numbers seen so far, and the lowest point unless it is the current one."""
        vectors = {} if self.params is None or self.params is params else {"lowest": self.params}
        numbers = {"first": self._first, "lowest": self._lowest, "iteration": self.iteration, "far": self._far}
        return State(numbers, vectors)

    def restore(self, state: State, params: Array) -> None:
        """Restore a state, perhaps from another grid, given the current point."""
        numbers = state.numbers
        self._first, self._lowest, self.iteration = numbers["first"], numbers["lowest"], numbers["iteration"]
        self._far = list(numbers["far"])
        self.params = state.vectors.get("lowest", params) if self._keeps_lowest else None

    def _is_far(self, value: float) -> bool:
        """Tell whether an objective is far above both the first one and the loss of zero outputs."""
        return value > _FAR * self._first and value > _FAR * self._objective.loss_of_nothing()
