"""Cost of Kronecker factors as a preconditioner: moments and inverses for each direction, products for each CG step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distnewton.directions.moments import is_wide, moments_size
from distnewton.parallel.partition import Block
from distnewton.planning.problem import Problem, Share

if TYPE_CHECKING:
    from distnewton.planning.rates import Rates

_PASSES = 4
"""Passes over a factor to average it, damp it and copy it for its inverse."""


def factored_blocks(problem: Problem, share: Share) -> list[tuple[Block, int]]:
    """List a rank's logical blocks that have Kronecker factors, with the number of inputs; empty without factors."""
    if problem.method.preconditioner != "kfac":
        return []
    partition = share.partition
    blocks = [block for number in partition.numbers(share.rank) for block in partition.logical.blocks(number)]
    return [(block, block.shape[0] + block.owns_bias) for block in blocks]


def moment_sizes(problem: Problem, share: Share) -> list[int]:
    """List the sizes of the moments of a rank's blocks; their inverses have the same sizes."""
    blocks = factored_blocks(problem, share)
    return [moments_size(n) for block, n_in in blocks for n in (n_in, block.shape[1])]


class KroneckerCost:
    """Cost of the factors of a rank's logical blocks; zero for other preconditioners.

    Parameters
    ----------
    problem, share, rates
        Arguments of :class:`~distnewton.planning.work.Work`.
    """

    def __init__(self, problem: Problem, share: Share, rates: Rates) -> None:
        self._problem, self._share, self._rates = problem, share, rates

    @property
    def renewal(self) -> float:
        """Seconds to compute both moments of each block, and their inverses."""
        problem, rates, seconds = self._problem, self._rates, 0.0
        for block, n_in in factored_blocks(self._problem, self._share):
            n_out, rows = block.shape[1], problem.n_curvature * self._share.layer(block.layer).n_linear
            # random cotangents are made from the stored factors of the Jacobian
            seconds += rates.stream(problem.n_rows * rows * n_out * problem.itemsize)
            for n in (n_in, n_out):
                if is_wide(n):
                    seconds += rates.stream(rows * n * problem.itemsize)
                    continue
                # n^2 operations for each row, and n^3 for an inverse by its factor
                seconds += rates.product(n, rows, n, problem.itemsize) + rates.product(n, 0.5 * n, n, problem.itemsize)
                seconds += rates.stream(_PASSES * n * n * problem.itemsize)
            seconds += 2 * rates.call
        return seconds

    @property
    def application(self) -> float:
        """Seconds to multiply the inverses onto one vector."""
        rates, itemsize, seconds = self._rates, self._problem.itemsize, 0.0
        for block, n_in in factored_blocks(self._problem, self._share):
            n_out = block.shape[1]
            for n in (n_in, n_out):
                wide = rates.stream(3 * n_in * n_out * itemsize)
                seconds += wide if is_wide(n) else rates.product(n, n_in, n_out, itemsize)
        return seconds
