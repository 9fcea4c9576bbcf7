"""Messages that a rank sends in each phase of an iteration: sizes, partners and counts."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from distnewton.curvature.jacobian import rows_at_once
from distnewton.frozen import frozen
from distnewton.guards.ledger import PHASES, allreduce_bytes
from distnewton.network.layers import LINEAR_SIZE
from distnewton.planning.chunks import chunk_ranges, rows_kept
from distnewton.planning.kronecker import moment_sizes
from distnewton.planning.problem import MODELLED, Group, Problem, Share
from distnewton.solvers.block_cholesky import MOST_REPLICATED, block_bounds

_SCALAR = 8
_ROUNDED = 2
# numbers that each rank reports on its direction
_FOUND = 7
_SOLUTIONS = 5
"""Number of systems solved with a factor: that of the direction, and those of its condition number."""


@frozen
class Message:
    """Sums of the same size over the same ranks."""

    n_bytes: float  # bytes of all of them together
    n_calls: int  # number of sums
    n_ranks: int  # number of ranks that take part
    # lowest and highest rank
    first: int
    last: int

    @property
    def sent_bytes(self) -> float:
        """Bytes that a rank sends."""
        return allreduce_bytes(self.n_bytes, self.n_ranks)


Traffic = dict[str, list[Message]]


def widest_kept(problem: Problem, shares: list[Share]) -> float:
    """Return the numbers kept for each sample, outputs counted twice, on the rank with the most."""
    return max(share.n_kept(problem.itemsize) for share in shares) + problem.n_out


class Messages:
    """The messages of a rank.

    Parameters
    ----------
    problem : Problem
        Problem of the iteration.
    share : Share
        Share of the rank.
    width : float
        Result of :func:`widest_kept`.
    """

    def __init__(self, problem: Problem, share: Share, width: float) -> None:
        if problem.method.direction not in MODELLED:
            raise ValueError(f"{problem.method.direction} is not modelled")
        self._problem, self._share = problem, share
        self._n_ranks = share.partition.n_ranks
        self._n_world = self._n_ranks * problem.n_replicas
        self._n_pieces = 1 if problem.shape.image_shape is not None else problem.method.n_pieces
        self._rows_kept, self._chunk_rows = rows_kept(width, problem.itemsize, problem.memory_bytes)

    def by_phase(self) -> Traffic:
        """Return the messages of one iteration in the middle of a run, by phase.

        Returns
        -------
        dict of str to list of Message
            Phases of :data:`~distnewton.guards.ledger.PHASES`. Groups without units and single ranks send nothing.
            Messages of the iteration's record are left out, as in the program's own counts.
        """
        problem = self._problem
        counts = {
            "gradient": [*self._gradient(), self._over_replicas(), self._over_world(_SCALAR)],
            "jacobian": [*self._curvature_samples(), *([] if problem.method.recomputed else self._jacobian())],
            "direction": list(self._direction()),
            "combination": list(self._combination()),
            "line_search": [self._over_world(_SCALAR), *self._line_search()],
            "evaluation": list(self._evaluation()),
        }
        return {phase: [m for m in counts.get(phase, []) if m.n_ranks > 1 and m.n_bytes] for phase in PHASES}

    @property
    def chunks(self) -> list[tuple[int, bool]]:
        """Number of samples in each chunk of an evaluation, and whether their activations are kept."""
        problem = self._problem
        if not problem.apart:
            return [(problem.n_samples, True)]
        made, kept = [], problem.n_curvature // 2
        for start, stop in chunk_ranges(problem.n_samples, None, self._chunk_rows):
            n = stop - start
            keep = kept + n <= self._rows_kept
            kept += n * keep
            made.append((n, keep))
        return made

    def _over_all(self, n_bytes: float, n_calls: int = 1) -> Message:
        return Message(n_bytes, n_calls, self._n_ranks, 0, self._n_ranks - 1)

    def _over_world(self, n_bytes: float) -> Message:
        """A sum over all ranks of all replicas."""
        return Message(n_bytes, 1, self._n_world, 0, self._n_world - 1)

    def _over_replicas(self, n_calls: int = 1) -> Message:
        """A sum of this rank's variables over the replicas."""
        n_bytes = n_calls * self._share.n_params * self._problem.itemsize
        first = self._share.rank
        last = first + (self._problem.n_replicas - 1) * self._n_ranks
        return Message(n_bytes, n_calls, self._problem.n_replicas, first, last)

    def _over(self, group: Group, n_numbers: float, n_calls: int = 1) -> Message:
        """A sum over a boundary."""
        itemsize = _ROUNDED if self._problem.method.rounded else self._problem.itemsize
        return Message(n_numbers * itemsize, n_calls, len(group.ranks), group.ranks[0], group.ranks[-1])

    def _forward(self, n: int) -> Iterator[Message]:
        """A forward pass of some samples."""
        for m, groups in self._share.groups.items():
            layer = self._share.layer(m)
            for group in groups:
                size = group.n_units * layer.n_linear
                at_once = n if layer.kernel is None else max(1, LINEAR_SIZE // max(1, size))
                n_calls = -(-n // at_once) if layer.kernel is not None else self._pieces(n)
                yield self._over(group, n * size, n_calls)
        yield from self._outputs(n, 1, self._pieces(n))

    def _outputs(self, n: int, n_weights: int, n_pieces: int = 1) -> Iterator[Message]:
        """Outputs of some samples, or the `n_weights` kinds of weights from which each rank computes them."""
        if self._share.shape.repeats_output(n, self._share.partition):
            (group,) = self._share.groups[self._share.n_layers - 1]
            for _ in range(n_weights):
                yield self._output_weights(group)
        else:
            yield self._over_all(n * self._problem.n_out * self._problem.itemsize, n_pieces)

    def _output_weights(self, group: Group) -> Message:
        """Weights and biases between a group of the last hidden layer and the outputs."""
        n_values = group.n_units * self._share.layer(self._share.n_layers - 1).n_values
        n_bytes = (n_values + 1) * self._problem.n_out * self._problem.itemsize
        return Message(n_bytes, 1, len(group.ranks), group.ranks[0], group.ranks[-1])

    def _collects(self, m: int, n_rows: int) -> bool:
        """Whether this many cotangents reach a layer through the output weights."""
        n_groups = self._share.partition.splits[-1]
        return m == self._share.n_layers - 1 and self._share.shape.collects_output(n_rows, n_groups)

    def _pieces(self, n: int) -> int:
        """Number of messages in which the samples of a pass are summed."""
        return max(1, min(n, self._n_pieces))

    def _backward(self, n: int) -> Iterator[Message]:
        """A backward pass of some samples."""
        for m, groups in self._share.groups.items():
            for group in groups:
                if self._collects(m, n):
                    yield self._output_weights(group)
                    continue
                yield self._over(group, n * group.n_units * self._share.layer(m).n_values, self._pieces(n))

    def _tangent(self, n: int) -> Iterator[Message]:
        """Forward differentiation on some samples."""
        for m, groups in self._share.groups.items():
            for group in groups:
                yield self._over(group, n * group.n_units * self._share.layer(m).n_elements)
        yield from self._outputs(n, 2)

    def _gradient(self) -> Iterator[Message]:
        for n, kept in self.chunks:
            if not kept:
                yield from self._forward(n)
            yield from self._backward(n)

    def _curvature_samples(self) -> Iterator[Message]:
        """A forward pass of a curvature subsample, if activations are not kept."""
        if self._problem.apart and not all(kept for _, kept in self.chunks):
            yield from self._forward(self._problem.n_curvature)

    def _jacobian(self) -> Iterator[Message]:
        problem, last = self._problem, self._share.n_layers - 1
        for m, groups in self._share.groups.items():
            for group in groups:
                size = group.n_units * self._share.layer(m).n_values
                if (m == last and not problem.rooted) or self._collects(m, problem.n_curvature * problem.n_rows):
                    yield self._output_weights(group)
                    continue
                at_once = rows_at_once(problem.n_curvature, problem.n_rows * size, self._n_pieces)
                n_numbers = problem.n_curvature * problem.n_rows * size
                yield self._over(group, n_numbers, -(-problem.n_curvature // at_once))

    def _direction(self) -> Iterator[Message]:
        problem = self._problem
        yield from self._factors()
        if problem.method.accelerated:
            # approximately a forward pass with twice the numbers, and two norms
            yield from self._tangent(2 * problem.n_curvature)
            yield self._over_world(2 * _SCALAR)
        if problem.method.direction == "block_diagonal":
            return
        if problem.method.direction == "dual":
            yield from self._system()
            return
        # one product before the first step; a warm start takes another one, and a sum
        n_products = problem.method.n_steps + 1 + problem.method.warm + problem.method.accelerated
        n_numbers = problem.n_curvature * problem.n_rows
        if problem.method.recomputed:
            for _ in range(n_products):
                yield from self._tangent(problem.n_curvature)
                yield from self._backward(problem.n_curvature)
            n_numbers = 0
        yield self._over_all(n_products * (n_numbers + 3) * _SCALAR, n_products)
        if problem.n_replicas > 1:
            yield self._over_replicas(n_products)
            for _ in range(n_products):
                yield self._over_world(4 * _SCALAR)
        if problem.method.warm:
            yield self._over_world(3 * _SCALAR)

    def _factors(self) -> Iterator[Message]:
        """Moments of a preconditioner, which are summed over the replicas only."""
        first = self._share.rank
        last = first + (self._problem.n_replicas - 1) * self._n_ranks
        for size in moment_sizes(self._problem, self._share):
            yield Message(size * self._problem.itemsize, 1, self._problem.n_replicas, first, last)

    def _system(self) -> Iterator[Message]:
        """A matrix in sample space: its sum, or that of its block columns, their factors, and solutions."""
        problem, n = self._problem, self._problem.n_system
        if problem.for_variables:
            yield self._over_world(n * (problem.shape.n_params + 1) * _SCALAR)
            yield self._over_all(problem.shape.n_params * _SCALAR)
            return
        if problem.n_replicas > 1:
            yield self._over_replicas()
        if n <= MOST_REPLICATED:
            yield self._over_world((n * n + n) * problem.itemsize)
            return
        bounds = block_bounds(n, problem.n_rows, self._n_world)
        numbers = sum((n - start) * (stop - start) for start, stop in pairwise(bounds))
        n_blocks, last = len(bounds) - 1, self._n_world - 1
        yield Message(2 * numbers * problem.itemsize, 2 * n_blocks, self._n_world, 0, last)
        # J h and the residual; each solution goes down and up
        yield Message(2 * n * problem.itemsize, 2, self._n_world, 0, last)
        yield Message(2 * _SOLUTIONS * n * problem.itemsize, 2 * _SOLUTIONS * n_blocks, self._n_world, 0, last)

    def _combination(self) -> Iterator[Message]:
        problem, k = self._problem, self._problem.method.n_directions
        yield self._over_world(_FOUND * self._n_world * _SCALAR)
        if problem.method.direction == "block_diagonal":
            yield self._over_replicas()
        n_bytes = k * problem.n_curvature * problem.n_out * problem.itemsize
        if problem.method.recomputed or problem.sketched:
            for _ in range(k):
                yield from self._tangent(problem.n_curvature)
            n_bytes = 0
        yield self._over_all(n_bytes)
        yield self._over_world((2 * k + 2 * k * k) * _SCALAR)

    def _line_search(self) -> Iterator[Message]:
        for _ in range(self._problem.method.n_trials):
            for n, _kept in self.chunks:
                yield from self._forward(n)
            yield self._over_world(_SCALAR)

    def _evaluation(self) -> Iterator[Message]:
        n_test = self._problem.n_test
        if self._problem.n_replicas > 1:
            # for classes; the metrics of other tasks need the outputs of all samples
            for _ in range(1 + (n_test > 0)):
                yield self._over_world(_SCALAR)
        for start in range(0, n_test, self._chunk_rows):
            yield from self._forward(min(self._chunk_rows, n_test - start))
