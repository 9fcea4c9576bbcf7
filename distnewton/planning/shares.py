"""What ranks of different speeds should own beside each other, so that none is waited for longer than it must be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from distnewton.parallel.partition import Partition
from distnewton.planning.messages import Messages, widest_kept
from distnewton.planning.problem import Problem, Share
from distnewton.planning.rates import Rates
from distnewton.planning.work import Work

_FACTORS = (1.0, 0.5, 0.25, 0.125, 0.0625, 1e-9)
"""Shares of slow ranks that are tried, by their speeds; the last leaves them no features or neurons."""


def work_of_ranks(problem: Problem, partition: Partition, *, with_direction: bool) -> NDArray[np.float64]:
    """Predict how long each rank would work in an iteration if all were equally fast.

    Parameters
    ----------
    problem : Problem
        Work of an iteration, on the samples of one replica.
    partition : Partition
        Who owns what.
    with_direction : bool
        Whether to count the direction, too: ranks that solve for their own blocks do not wait for each other there.

    Returns
    -------
    Array of shape (n_ranks,)
        Seconds.
    """
    shares = [Share(problem.shape, partition, rank) for rank in range(partition.n_ranks)]
    chunks = Messages(problem, shares[0], widest_kept(problem, shares)).chunks
    phases = (Work(problem, share, Rates(), chunks).by_phase() for share in shares)
    return np.array([
        sum(seconds for phase, seconds in of_rank.items() if with_direction or phase != "direction")
        for of_rank in phases
    ])


def suitable_shares(
    problem: Problem, splits: Sequence[int], speeds: Sequence[float], *, with_direction: bool
) -> tuple[list[float], list[float]]:
    """Choose what each rank owns so that the last one ends as soon as it can.

    Shares in proportion to speeds are too large for slow ranks: part of the work is the same for each rank whatever it
    owns, such as the loss and the activations of a layer that is not cut.

    Parameters
    ----------
    problem, with_direction
        See :func:`work_of_ranks`.
    splits : sequence of int
        Groups of layers 0..L.
    speeds : sequence of float
        Relative speed of each rank, of which the fastest is 1.

    Returns
    -------
    shares : list of float
        Share of each rank, of which the largest is 1.
    work : list of float
        Seconds that each rank then works (:func:`work_of_ranks`).
    """
    work = {}
    for factor in _FACTORS:
        shares = tuple(speed * factor if speed < 1.0 else 1.0 for speed in speeds)
        partition = problem.shape.partition(splits, shares, problem.blocks, problem.owners)
        work[shares] = work_of_ranks(problem, partition, with_direction=with_direction)
    shares = min(work, key=lambda shares: float((work[shares] / speeds).max()))
    return list(shares), work[shares].tolist()
