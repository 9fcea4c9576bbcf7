"""Seconds that a rank computes in each phase of an iteration: its products, and what it moves through memory."""

from __future__ import annotations

from distnewton.parallel.ledger import PHASES
from distnewton.planning.problem import Problem, Share
from distnewton.planning.rates import Rates

_FUNCTIONS = {"relu": 0.0, "identity": 0.0}
"""Exponentials that an activation takes; one where nothing is said."""
_PASSES = 4
"""Times that element-wise work reads or writes a value: bias, activation or derivative."""
_LOSS_PASSES = 10
_VECTOR_PASSES = 12
"""The same for the vectors of a CG step."""


class Work:
    """Seconds of a rank's own work.

    Parameters
    ----------
    problem : Problem
        What an iteration works on.
    share : Share
        Of the rank.
    rates : Rates
        How fast it is.
    chunks : list of (int, bool)
        Samples of each chunk of an evaluation, and whether their activations are kept.
    """

    def __init__(self, problem: Problem, share: Share, rates: Rates, chunks: list[tuple[int, bool]]) -> None:
        self._problem, self._share, self._rates, self._chunks = problem, share, rates, chunks

    def by_phase(self) -> dict[str, float]:
        """Seconds of one iteration, by phase.

        Returns
        -------
        dict of str to float
            Phases of :data:`~distnewton.parallel.ledger.PHASES`.
        """
        problem = self._problem
        n, size = problem.n_samples, problem.n_curvature
        again = sum(count for count, kept in self._chunks if not kept)
        product = self._product()
        n_products = problem.n_steps + (problem.direction == "gauss_newton") + problem.warm
        tangents = problem.recomputed or problem.sketched
        along = self._tangent(size) if tangents else 0.5 * product
        vectors = self._rates.stream(_VECTOR_PASSES * self._share.n_params * problem.itemsize)
        found = {
            "gradient": self._forward(again) + self._backward(n) + self._loss(n),
            "jacobian": 0.0 if problem.recomputed else self._jacobian(),
            "direction": n_products * (product + vectors),
            "combination": problem.n_directions * along + vectors,
            "line_search": problem.n_trials * (self._forward(n) + self._loss(n) + vectors / 4),
            "evaluation": self._forward(problem.n_test) + self._loss(problem.n_test),
        }
        return {phase: found.get(phase, 0.0) for phase in PHASES}

    def _loss(self, n: int) -> float:
        """Loss, or its gradient, of all outputs."""
        values = n * self._problem.n_out
        return self._stream(_LOSS_PASSES * values) + values / self._rates.functions

    def _stream(self, n_values: float) -> float:
        return self._rates.stream(n_values * self._problem.itemsize)

    def _layer(self, m: int, n: float, *, transposed: bool = False) -> float:
        """Products of a block's inputs with a matrix of the block's shape."""
        problem, layer = self._problem, self._share.layer(m)
        n_in, n_out = self._share.blocks[m].shape
        if m == 1 and problem.nonzeros is not None:
            nonzeros = n * problem.nonzeros * n_in / max(1, self._share.partition.widths[0])
            return self._rates.sparse_product(nonzeros, n_out)
        places = n * layer.n_linear
        gathered = 0.0 if layer.kernel is None else self._stream(2 * places * n_in)
        rows, inner = (n_in, places) if transposed else (places, n_in)
        return self._rates.product(rows, inner, n_out, problem.itemsize) + gathered

    def _activation(self, n: float, *, function: bool) -> float:
        """Element-wise work on the groups of hidden layers."""
        seconds = 0.0
        per_value = _FUNCTIONS.get(self._problem.activation, 1.0) / self._rates.functions if function else 0.0
        for m, groups in self._share.groups.items():
            values = n * sum(group.n_units for group in groups) * self._share.layer(m).n_elements
            seconds += self._stream(_PASSES * values) + per_value * values
        return seconds

    def _forward(self, n: float) -> float:
        return sum(self._layer(m, n) for m in self._share.blocks) + self._activation(n, function=True)

    def _backward(self, n: float) -> float:
        seconds = self._activation(n, function=False)
        for m in self._share.blocks:
            seconds += self._layer(m, n, transposed=True)
            seconds += self._down(m, n) if m > 1 else 0.0
        return seconds

    def _down(self, m: int, n: float) -> float:
        """Cotangents of a block's inputs."""
        layer = self._share.layer(m)
        n_in, n_out = self._share.blocks[m].shape
        places = n * layer.n_linear
        gathered = 0.0 if layer.kernel is None else self._stream(2 * places * n_in)
        return self._rates.product(places, n_out, n_in, self._problem.itemsize) + gathered

    def _tangent(self, n: float) -> float:
        """Forward differentiation: two products a layer above the first."""
        first = self._layer(1, n) if 1 in self._share.blocks else 0.0
        return 2 * sum(self._layer(m, n) for m in self._share.blocks) - first + self._activation(n, function=False)

    def _jacobian(self) -> float:
        """One backward pass of the rows of all samples, the stored factors written."""
        problem, seconds = self._problem, 0.0
        rows = problem.n_curvature * problem.n_rows
        top = self._share.n_layers - (0 if problem.sketched else 1)
        for m, groups in self._share.groups.items():
            if m >= top:
                continue
            values = rows * sum(group.n_units for group in groups) * self._share.layer(m).n_values
            seconds += self._stream(_PASSES * values)
            seconds += self._down(m + 1, rows) if m + 1 in self._share.blocks else 0.0
        return seconds

    def _product(self) -> float:
        """One product with the Gauss-Newton matrix on this rank."""
        problem, n = self._problem, self._problem.n_curvature
        if problem.recomputed:
            return self._tangent(n) + self._backward(n)
        seconds = self._stream(2 * _LOSS_PASSES * n * problem.n_rows)
        top = self._share.n_layers - (0 if problem.sketched else 1)
        for m, block in self._share.blocks.items():
            layer = self._share.layer(m)
            values = n * block.shape[1] * layer.n_elements
            seconds += self._layer(m, n) + self._layer(m, n, transposed=True) + self._stream(_PASSES * values)
            if m < top:
                seconds += 2 * self._stream(n * problem.n_rows * block.shape[1] * layer.n_values)
            elif m < self._share.n_layers:
                seconds += 2 * self._rates.product(n, block.shape[1], problem.n_out, problem.itemsize)
        return seconds
