"""Relative speeds of the ranks, at the start and during a run, by which a slow rank gets less work."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from distnewton.errors import ConfigError
from distnewton.parallel.collectives import Communicator

_SIZE = 384
_SECONDS = 0.3
_STEP = 0.05
"""Speeds are rounded to multiples of this: equal machines then have equal speeds, and runs repeat."""


def measured_speeds(comm: Communicator) -> list[float]:
    """Measure the relative speed of each rank by matrix products that all ranks compute at the same time.

    Parameters
    ----------
    comm : Communicator
        All ranks.

    Returns
    -------
    list of float
        Speed of each rank, a multiple of 0.05; the fastest is 1. The same on all ranks.

    Notes
    -----
    Collective; takes a third of a second.
    """
    A = np.full((_SIZE, _SIZE), 0.5, np.float32)
    out = np.empty_like(A)
    np.matmul(A, A, out=out)
    comm.barrier()
    n, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < _SECONDS:
        np.matmul(A, A, out=out)
        n += 1
    rates = comm.allgather(np.array([n / elapsed]))[:, 0]
    return [max(_STEP, round(round(rate / rates.max() / _STEP) * _STEP, 2)) for rate in rates.tolist()]


def speeds_of_grid(speeds: Sequence[float], n_ranks: int, n_replicas: int) -> list[float]:
    """Reduce speeds of all ranks to those of a grid: of the replicas' ranks with the same blocks, the slowest counts.

    Parameters
    ----------
    speeds : sequence of float
        Speeds of all ranks.
    n_ranks, n_replicas : int
        Number of ranks of a grid, and of replicas.

    Returns
    -------
    list of float
        Speeds, of length ``n_ranks``.

    Raises
    ------
    ConfigError
        If there is not one speed for each rank.
    """
    if len(speeds) != n_ranks * n_replicas:
        raise ConfigError(
            f"partition.speeds has {len(speeds)} numbers, but there are {n_ranks * n_replicas} ranks", collective=True
        )
    return [min(speeds[rank::n_ranks]) for rank in range(n_ranks)]


_WINDOW = 3
"""Number of iterations in a row that must agree."""
_ALIKE = 0.8
"""Ranks with at least this share of the fastest speed count as fast."""
_LEAST_GAIN, _LEAST_SECONDS = 0.2, 0.05
"""A move must save this share of an iteration, and these seconds over the window; less is noise of short runs."""
_RECOVERED = 1.5
"""A rank that has been given less work gets more, for any gain, if it is faster than assumed by this factor."""
_PATIENCE = 5
"""Iterations from the first move to the second; the wait doubles after each move."""


class SpeedWatch:
    """Tells during a run when the speeds of the ranks differ from those by which the network was partitioned.

    A decision needs the same answer from three iterations in a row. The wait doubles after each move, so a machine with
    changing noise causes few moves, however long the run is.

    Parameters
    ----------
    speeds : sequence of float
        Speeds of the ranks of a grid by which the network was partitioned.
    """

    def __init__(self, speeds: Sequence[float]) -> None:
        self._speeds = np.array(speeds, dtype=float)
        self._recent: deque[tuple[NDArray[np.float64], float]] = deque(maxlen=_WINDOW)
        # the first iteration on a partition is a warm-up
        self._skip, self._pause, self._patience = 1, 0, _PATIENCE

    def look(self, seconds: Sequence[float], iteration_seconds: float, n_left: int) -> list[float]:
        """Take in the times of an iteration, and decide on a new partition.

        Parameters
        ----------
        seconds : sequence of float
            Seconds that each rank worked, without waiting, in work common to all ranks; the same on all ranks.
        iteration_seconds : float
            Seconds of the whole iteration.
        n_left : int
            Number of iterations left.

        Returns
        -------
        list of float
            Speeds by which to partition the network from now on, of which the fastest is 1; empty to keep it.
        """
        self._pause = max(0, self._pause - 1)
        if self._skip:
            self._skip -= 1
            return []
        self._recent.append((np.array(seconds, dtype=float), iteration_seconds))
        if self._pause or len(self._recent) < _WINDOW or n_left < _WINDOW:
            return []
        wanted = self._wanted()
        if (wanted == self._speeds).all() or not self._pays(wanted, n_left):
            return []
        self._speeds, self._skip, self._pause = wanted, 1, self._patience
        self._patience *= 2
        self._recent.clear()
        return [float(speed) for speed in wanted]

    def _wanted(self) -> NDArray[np.float64]:
        """Return speeds that balance the work; for each rank the smallest change that any iteration suggests."""
        relative = self._relative()
        slower, faster = relative.min(axis=0), relative.max(axis=0)
        work = np.where(slower > 1.0, slower, np.minimum(faster, 1.0))
        speeds = self._speeds / np.maximum(work, 1e-9)
        speeds /= speeds.max()
        return np.where(speeds >= _ALIKE, 1.0, np.maximum(_STEP, np.round(np.round(speeds / _STEP) * _STEP, 2)))

    def _relative(self) -> NDArray[np.float64]:
        """Return the seconds of each rank relative to the median rank's, in a row for each iteration."""
        return np.array([seconds / max(float(np.median(seconds)), 1e-9) for seconds, _ in self._recent])

    def _pays(self, wanted: NDArray[np.float64], n_left: int) -> bool:
        """Whether each iteration says that other shares would save enough."""
        factors = (wanted / wanted.sum()) / (self._speeds / self._speeds.sum())
        gains = np.array([(seconds.max() - (factors * seconds).max()) for seconds, _ in self._recent])
        whole = np.array([iteration for _, iteration in self._recent])
        back = (self._relative().max(axis=0) < 1.0 / _RECOVERED) & (self._speeds < 1.0)
        enough = (gains > 0.0).all() if back.any() else (gains > _LEAST_GAIN * whole).all()
        # a move costs about two iterations: the exchange, and an evaluation of the point
        return bool(enough and gains.sum() > _LEAST_SECONDS and gains.mean() * n_left > 2 * whole.mean())
