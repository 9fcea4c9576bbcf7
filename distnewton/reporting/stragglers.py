"""Name a rank that is slower than the others, from the records that every rank has."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from distnewton.method.records import IterationRecord

_FACTOR = 1.5
"""A slow rank takes this many times as long as the median of the others, in all iterations of the window."""
_N_ITERATIONS = 3
_LEAST_SECONDS = 0.2
"""A slow rank loses at least these seconds over the window; less is noise of short runs."""


class Stragglers:
    """Looks for a slow rank in the last iterations.

    Two signs count: the time that a rank works, without waiting, and the time of a CG step, because a slow rank that is
    stopped early works no longer than the others. Each rank is named once.

    Parameters
    ----------
    hosts : list of str
        Host of each rank.
    crowding : float
        Number of ranks that share a core, at least 1: a rank may take that many times longer.
    """

    def __init__(self, hosts: list[str], crowding: float = 1.0) -> None:
        self._hosts, self._factor = hosts, _FACTOR * crowding
        self._elapsed = 0.0
        self._recent: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
        self._named: set[int] = set()

    def look(self, record: IterationRecord) -> str:
        """Take in an iteration.

        Parameters
        ----------
        record : IterationRecord
            Record of the iteration.

        Returns
        -------
        str
            Which rank is slow, and by how much; empty if none is, or if it was named before.
        """
        seconds, self._elapsed = record.training_seconds - self._elapsed, record.training_seconds
        direction, n_ranks = record.direction, len(record.wait_seconds)
        if direction is None or n_ranks < 2:
            return ""
        work = seconds - np.array(record.wait_seconds)
        steps = np.array(direction.inner_iterations, dtype=float)
        # subtract what the fastest would need for these steps, so early termination does not hide a slow rank
        pace = np.divide(direction.seconds, steps, out=np.zeros(n_ranks), where=steps > 0) * steps.max()
        self._recent = [*self._recent[1 - _N_ITERATIONS :], (work, pace)]
        if len(self._recent) < _N_ITERATIONS:
            return ""
        for what, tables in zip(("it works", "its CG steps take"), zip(*self._recent, strict=True), strict=True):
            rank, factor = _slow_rank(np.array(tables), self._factor)
            if factor and rank not in self._named:
                self._named.add(rank)
                return f"rank {rank} on {self._hosts[rank]} is slow: {what} {factor:.1f} times as long as the others"
        return ""


def _slow_rank(seconds: NDArray[np.float64], least: float) -> tuple[int, float]:
    """Find the rank that takes longest, and how many times as long as the others; 0 if it is not slow in every row."""
    rank = int(seconds.sum(axis=0).argmax())
    own, others = seconds[:, rank], np.median(np.delete(seconds, rank, axis=1), axis=1)
    slow = (own > least * others).all() and (others > 0).all() and (own - others).sum() > _LEAST_SECONDS
    return rank, float(own.sum() / others.sum()) if slow else 0.0
