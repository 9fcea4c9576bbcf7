r"""L-BFGS (Liu and Nocedal, 1989) on the partitioned network: one sum over the ranks for each direction.

The two-loop recursion needs nothing but inner products of the last m steps s, the changes of the gradient y and the
gradient. All of them come from one Gram matrix, which one sum over the ranks completes (Chen et al., "Large-scale
L-BFGS using MapReduce", 2014); each rank then combines its own parts of the vectors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from distnewton.checkpoint.state import State
from distnewton.curvature.linearization import Linearization
from distnewton.directions.direction import Direction, DirectionResult
from distnewton.network.layout import ParameterLayout
from distnewton.options import Options
from distnewton.parallel.termination import EarlyTermination


class LBFGSOptions(Options):
    """How much of the past counts."""

    memory: int = Field(10, ge=1, description="pairs of steps and gradient changes that are kept")


class LBFGS(Direction):
    """Limited-memory BFGS with the gradient of all samples and the line search of the Newton family."""

    name = "lbfgs"
    help = "limited-memory BFGS, one sum over the ranks"
    own_options = LBFGSOptions
    presets = {"direction": {"combine": "none"}}  # noqa: RUF012

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self._steps: list[Any] = []
        self._changes: list[Any] = []
        self._gradient: Any = None
        self._step: Any = None

    def solve(self, problem: Linearization, termination: EarlyTermination) -> DirectionResult:
        """Multiply the inverse of the approximate Hessian onto the negative gradient."""
        g = problem.gradient
        if self._step is not None:
            self._remember(problem, self._step, g - self._gradient)
        self._gradient, self._step = g.copy(), None
        vectors = [*self._steps, *self._changes, g]
        gram = self._gram(problem, vectors)
        weights = two_loops(gram, len(self._steps))
        direction = 0 * g
        for weight, vector in zip(weights, vectors, strict=True):
            direction -= weight * vector
        return DirectionResult(direction)

    def step_taken(self, direction: Any, step_size: float) -> None:
        """Keep the step; after a rejected one the past no longer describes the curvature here."""
        if step_size:
            self._step = step_size * direction
        else:
            self._steps, self._changes = [], []

    def _remember(self, problem: Linearization, s: Any, y: Any) -> None:
        """Keep a pair whose curvature is positive."""
        dot = problem.backend.dot
        sy, yy = problem.grid.sum_of_variables(dot(s, y), dot(y, y))
        if sy > 1e-12 * yy:
            self._steps = [*self._steps, s][-self.options.memory :]
            self._changes = [*self._changes, y][-self.options.memory :]

    def _gram(self, problem: Linearization, vectors: list[Any]) -> np.ndarray:
        """Inner products of all pairs of vectors, over all ranks (collective: one sum)."""
        n, dot = len(vectors), problem.backend.dot
        sums = problem.grid.sum_of_variables(*(dot(vectors[i], vectors[j]) for i in range(n) for j in range(i + 1)))
        gram = np.zeros((n, n))
        gram[np.tril_indices(n)] = sums
        return gram + np.tril(gram, -1).T

    def state(self) -> State:
        """The pairs, and where the last step began."""
        vectors = {f"s{k}": s for k, s in enumerate(self._steps)} | {f"y{k}": y for k, y in enumerate(self._changes)}
        if self._step is not None:
            vectors |= {"gradient": self._gradient, "step": self._step}
        return State({"n_pairs": len(self._steps)}, vectors)

    def restore(self, state: State, layout: ParameterLayout) -> None:
        """Take over the pairs, from whatever grid."""
        pairs = range(state.numbers["n_pairs"])
        self._steps = [state.vectors[f"s{k}"] for k in pairs]
        self._changes = [state.vectors[f"y{k}"] for k in pairs]
        self._gradient, self._step = state.vectors.get("gradient"), state.vectors.get("step")

    def n_vectors(self) -> int:
        """Pairs, the gradient and the step."""
        return 2 * self.options.memory + 2


def two_loops(gram: np.ndarray, n_pairs: int) -> np.ndarray:
    """Weights of the vectors s, y and g in H g, from their inner products (Nocedal and Wright, algorithm 7.4)."""
    weights = np.zeros(len(gram))
    weights[-1] = 1.0
    alphas = np.zeros(n_pairs)
    for k in reversed(range(n_pairs)):
        s, y = k, n_pairs + k
        alphas[k] = gram[s] @ weights / gram[s, y]
        weights[y] -= alphas[k]
    if n_pairs:
        s, y = n_pairs - 1, 2 * n_pairs - 1
        weights *= gram[s, y] / gram[y, y]
    for k in range(n_pairs):
        s, y = k, n_pairs + k
        weights[s] += alphas[k] - gram[y] @ weights / gram[s, y]
    return weights
