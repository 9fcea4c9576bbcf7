"""Seconds that a rank computes in each phase of an iteration, for products and for moving data through memory."""

from __future__ import annotations

from distnewton.guards.ledger import PHASES
from distnewton.network.activations import ACTIVATIONS
from distnewton.network.shapes import LayerShape
from distnewton.planning.kronecker import KroneckerCost
from distnewton.planning.problem import Problem, Share
from distnewton.planning.rates import Rates
from distnewton.solvers.block_cholesky import MOST_REPLICATED

_PASSES = {"bias": 2, "derivative": 5, "units": 2, "sum": 3, "axpy": 5}
"""Number of times that element-wise work reads or writes a value, including numpy's temporaries."""
_LOSS_ROW, _LOSS_VALUE = 160.0, 3.0
"""Exponentials that take as long as a loss of many classes, its gradient or its Hessian, by row and by value: numpy's
sums along short rows cost by the row."""
_HESSIAN_ROW, _HESSIAN_VALUE = 45.0, 1.2
"""The same for a product with the Hessians."""
_GRAM = 4
"""Passes over half of a matrix in sample space for the part of each block."""
_DOT = 1.5
"""The same for a pair of numbers in an inner product that float64 accumulates; in float64 itself two passes."""
_SPARSE_LARGE, _SPARSE_BEYOND = 1 << 23, 1.45
"""Bytes of weights that exceed the caches, and the factor by which a sparse product then takes longer."""
_LARGE, _FRESH, _BEYOND = 1 << 22, 6, 2.0
"""Bytes of a vector of which a dozen exceed the caches, extra passes for a new one, factor of inner products."""
_JACOBIAN = 10
"""Passes over the factors while they are computed."""
_STORED, _STORED_IN_CACHE, _CACHE = 2.2, 1.3, 1 << 24
"""Passes over stored factors in a batched product, beyond the caches and within them, and the size limit in bytes."""


class Work:
    """The seconds of a rank's own work.

    Parameters
    ----------
    problem, share
        Arguments of :class:`~distnewton.planning.messages.Messages`.
    rates : Rates
        Rates of the rank.
    chunks : list of (int, bool)
        Number of samples in each chunk of an evaluation, and whether their activations are kept.
    """

    def __init__(self, problem: Problem, share: Share, rates: Rates, chunks: list[tuple[int, bool]]) -> None:
        self._problem, self._share, self._rates, self._chunks = problem, share, rates, chunks

    def by_phase(self) -> dict[str, float]:
        """Return the seconds of one iteration, by phase.

        Returns
        -------
        dict of str to float
            Phases of :data:`~distnewton.guards.ledger.PHASES`.
        """
        problem = self._problem
        n, size = problem.n_samples, problem.n_curvature
        again = sum(count for count, kept in self._chunks if not kept)
        product = self._product()
        method = problem.method
        n_products = method.n_steps + (1 + method.accelerated) * (method.direction == "gauss_newton") + method.warm
        factors = KroneckerCost(problem, self._share, self._rates)
        by_cg = n_products * (product + self._step() + factors.application) + factors.renewal
        # the outputs' second derivative along the step, and its way back to the variables
        curved = method.accelerated * (2 * self._tangent(size) + 0.5 * product)
        tangents = problem.method.recomputed or problem.sketched
        along = self._tangent(size) if tangents else 0.5 * product
        k, axpy = problem.method.n_directions, self._vectors("axpy")
        seconds = {
            "gradient": self._forward(again) + self._backward(n) + self._loss(n) + axpy + self._dots(1),
            "jacobian": (self._forward(size * problem.apart) if again else self._stream(2 * self._values(size)))
            + (0.0 if problem.method.recomputed else self._jacobian() + self._loss(size)),
            "direction": curved + (self._system() if problem.n_system else by_cg),
            "combination": k * (along + axpy + self._hessians(size)) + self._dots(2 * k + k * k),
            "line_search": problem.method.n_trials * (self._forward(n) + self._loss(n) + axpy) + self._dots(1),
            "evaluation": self._forward(problem.n_test) + self._loss(problem.n_test),
        }
        return {phase: seconds.get(phase, 0.0) for phase in PHASES}

    def _system(self) -> float:
        """The matrix in sample space, whose upper half is a copy, its factor, and the way to the variables."""
        problem, rates, n = self._problem, self._rates, self._problem.n_system
        if problem.for_variables:
            # 2 N P^2 operations of a QR factorisation, by every rank
            return rates.product(n, problem.shape.n_params, problem.shape.n_params, 8)
        n_samples, world = problem.n_curvature * problem.n_replicas, self._share.partition.n_ranks * problem.n_replicas
        n_own = problem.n_curvature * problem.n_rows
        seconds = self._stream(_GRAM * n_own * n * len(self._share.blocks)) + self._product()
        for m, block in self._share.blocks.items():
            n_in, n_out = block.shape
            if self._share.layer(m).shares_weights:
                seconds += rates.product(n_own, n_in * n_out, n, problem.itemsize)
            else:
                seconds += 0.5 * rates.product(problem.n_curvature, n_in, n_samples, problem.itemsize)
                seconds += 0.5 * rates.product(n_own, n_out, n, problem.itemsize)
        # n^3 / 3 operations, divided over the ranks if they share the matrix
        factor = rates.product(n, n / 6, n, problem.itemsize)
        return seconds + (factor if n <= MOST_REPLICATED else factor / world)

    def _step(self) -> float:
        """Vectors of a CG step: updates of the iterate, the residual and the directions, and inner products."""
        steps, updates = 2 * self._vectors("axpy"), 2 * self._vectors("sum")
        if self._problem.method.direction == "gauss_newton":
            return steps + 2 * updates + self._dots(1)
        return steps + updates + self._dots(2)

    @property
    def _large(self) -> bool:
        """Whether the vectors of this rank's variables exceed the caches."""
        return self._share.n_params * self._problem.itemsize >= _LARGE

    def _vectors(self, kind: str) -> float:
        """Element-wise work on vectors of this rank's variables; unless it is an update, it makes a new vector."""
        fresh = _FRESH if self._large and kind == "axpy" else 0
        return self._stream((_PASSES[kind] + fresh) * self._share.n_params)

    def _dots(self, n: int) -> float:
        """Inner products of this rank's variables."""
        numbers = n * self._share.n_params * (_BEYOND if self._large else 1.0)
        return self._rates.compute(_DOT * numbers) if self._problem.itemsize == 4 else self._stream(2 * numbers)

    def _loss(self, n: int) -> float:
        """Loss, its gradient, or its Hessians, of all outputs."""
        return self._rates.compute(n * (_LOSS_ROW + _LOSS_VALUE * self._problem.n_out))

    def _hessians(self, n: int) -> float:
        """A product with the Hessians of the loss."""
        return self._rates.compute(n * (_HESSIAN_ROW + _HESSIAN_VALUE * self._problem.n_rows))

    def _stream(self, n_values: float) -> float:
        return self._rates.stream(n_values * self._problem.itemsize)

    def _layer(self, m: int, n: float, *, transposed: bool = False) -> float:
        """Products of a block's inputs with a matrix of the block's shape."""
        problem, layer = self._problem, self._share.layer(m)
        n_in, n_out = self._share.blocks[m].shape
        if m == 1 and problem.nonzeros is not None:
            nonzeros = n * problem.nonzeros * n_in / max(1, self._share.partition.widths[0])
            # adjoint and product are both new arrays that are copied
            moved = self._stream((4 + _FRESH * (self._large and transposed)) * (n_in if transposed else n) * n_out)
            beyond = _SPARSE_BEYOND if n_in * n_out * problem.itemsize >= _SPARSE_LARGE else 1.0
            return beyond * self._rates.sparse_product(nonzeros, n_out) + moved
        places = n * layer.n_linear
        rows, inner = (n_in, places) if transposed else (places, n_in)
        return self._rates.product(rows, inner, n_out, problem.itemsize) + self._gathered(layer, places, n_in)

    def _gathered(self, layer: LayerShape, places: float, n_in: int) -> float:
        """Patches, which are written and read; none in dense layers."""
        return 0.0 if layer.kernel is None else self._stream(2 * places * n_in)

    def _values(self, n: float) -> float:
        """Values to activate, in the groups at whose boundary this rank is."""
        share = self._share
        return sum(
            n * sum(group.n_units for group in groups) * share.layer(m).n_elements for m, groups in share.groups.items()
        )

    def _forward(self, n: float) -> float:
        values = self._values(n)
        seconds = self._stream((_PASSES["bias"] + 2) * values + 6 * n * self._problem.n_out)
        seconds += self._rates.compute(ACTIVATIONS[self._problem.activation].cost * values)
        seconds += self._rates.call * len(self._share.blocks) * (n > 0)
        return seconds + sum(self._layer(m, n) for m in self._share.blocks)

    def _backward(self, n: float) -> float:
        seconds = self._stream((_PASSES["derivative"] + _PASSES["units"] + 2) * self._values(n))
        for m in self._share.blocks:
            seconds += self._layer(m, n, transposed=True) + self._rates.call
            seconds += self._down(m, n) if m > 1 else 0.0
        return seconds + self._vectors("sum")

    def _down(self, m: int, n: float) -> float:
        """Cotangents of a block's inputs."""
        layer = self._share.layer(m)
        n_in, n_out = self._share.blocks[m].shape
        places = n * layer.n_linear
        return self._rates.product(places, n_out, n_in, self._problem.itemsize) + self._gathered(layer, places, n_in)

    def _tangent(self, n: float) -> float:
        """Forward differentiation: two products for each layer above the first."""
        first = self._layer(1, n) if 1 in self._share.blocks else 0.0
        element_wise = self._stream((2 * _PASSES["bias"] + _PASSES["derivative"]) * self._values(n))
        return 2 * sum(self._layer(m, n) for m in self._share.blocks) - first + element_wise

    def _jacobian(self) -> float:
        """One backward pass of the rows of all samples, which writes the stored factors."""
        problem, seconds = self._problem, 0.0
        rows = problem.n_curvature * problem.n_rows
        top = self._share.n_layers - (0 if problem.rooted else 1)
        for m, groups in self._share.groups.items():
            seconds += self._rates.call
            if m >= top:
                continue
            values = rows * sum(group.n_units for group in groups) * self._share.layer(m).n_values
            # a new array, multiplied by the derivative, which all rows of a sample share
            seconds += self._stream(_JACOBIAN * values)
            if m + 1 in self._share.blocks:
                above = rows * self._share.blocks[m + 1].shape[1] * self._share.layer(m + 1).n_elements
                # for the last hidden layer it is made here
                seconds += self._stream(3 * above if m + 1 == self._share.n_layers - 1 else 0.0)
                seconds += self._down(m + 1, rows)
        return seconds

    def _product(self) -> float:
        """One product with the Gauss-Newton matrix on this rank."""
        problem, n = self._problem, self._problem.n_curvature
        if problem.method.recomputed:
            return self._tangent(n) + self._backward(n)
        seconds = self._hessians(n) + self._stream(8 * n * problem.n_rows) + self._vectors("axpy")
        top = self._share.n_layers - (0 if problem.rooted else 1)
        for m, block in self._share.blocks.items():
            layer = self._share.layer(m)
            values = n * block.shape[1] * layer.n_elements
            seconds += self._layer(m, n) + self._layer(m, n, transposed=True) + self._rates.call
            seconds += self._stream((_PASSES["bias"] + _PASSES["units"] + 3) * values)
            if m < top:
                n_bytes = n * problem.n_rows * block.shape[1] * layer.n_values * problem.itemsize
                passes = _STORED if n_bytes >= _CACHE else _STORED_IN_CACHE
                seconds += 2 * self._rates.stream(passes * n_bytes)
            elif m < self._share.n_layers:
                seconds += 2 * self._rates.product(n, block.shape[1], problem.n_out, problem.itemsize)
                seconds += self._stream(6 * values)
        return seconds
