"""When training diverges, and the point to which it returns."""

from __future__ import annotations

import math

from distnewton.backend import Array
from distnewton.checkpoint.state import State
from distnewton.method.objective import Objective
from distnewton.method.records import IterationRecord

DIVERGED = "training diverged"
"""How the reason begins."""
_FAR = 10.0
"""Objectives beyond this multiple of the start's, and of what outputs of zero would have, are far above both."""
_PATIENCE = 3
"""So many iterations may an objective stay far above without falling: one that overshot comes down."""


class Divergence:
    """Follows the objective of a run, and keeps the point where it was lowest.

    Training diverges where the objective is not finite, or is far above the start's for some iterations and does not
    fall meanwhile. Steps of a line search never do; steps of a learning rate on mini-batches may.

    Parameters
    ----------
    objective : Objective
        What is minimised.
    keeps_lowest : bool
        Whether to keep the point of the lowest objective; not where validation chooses the model.

    Attributes
    ----------
    iteration : int
        Whose objective is the lowest so far.
    params : Array of shape (n_params_local,) or None
        The point there, which nobody changes in place; None where it is not kept.
    reason : str
        Why training diverged, the same on all ranks; empty as long as it does not.
    """

    def __init__(self, objective: Objective, *, keeps_lowest: bool) -> None:
        self._objective, self._keeps_lowest = objective, keeps_lowest
        self._first, self._lowest = math.nan, math.inf
        self._far: list[float] = []
        self.iteration, self.reason = 0, ""
        self.params: Array | None = None

    def follow(self, record: IterationRecord, params: Array, remedy: str) -> None:
        """Look at an iteration; note in its record that training diverged.

        Parameters
        ----------
        record : IterationRecord
            With its objective.
        params : Array of shape (n_params_local,)
            The point.
        remedy : str
            What the user can do.

        Notes
        -----
        Collective where the objective is far above the start's.
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
        """What it has seen; the point only where it is not the current one."""
        vectors = {} if self.params is None or self.params is params else {"lowest": self.params}
        numbers = {"first": self._first, "lowest": self._lowest, "iteration": self.iteration, "far": self._far}
        return State(numbers, vectors)

    def restore(self, state: State, params: Array) -> None:
        """Take over a state, perhaps from another grid, with the current point."""
        numbers = state.numbers
        self._first, self._lowest, self.iteration = numbers["first"], numbers["lowest"], numbers["iteration"]
        self._far = list(numbers["far"])
        self.params = state.vectors.get("lowest", params) if self._keeps_lowest else None

    def _is_far(self, value: float) -> bool:
        """Whether an objective is far above the start's, and above that of a network that predicts nothing."""
        return value > _FAR * self._first and value > _FAR * self._objective.loss_of_nothing()
