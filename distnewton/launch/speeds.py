"""How fast ranks are beside each other, so that a slow one gets less."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from distnewton.errors import ConfigError
from distnewton.parallel.collectives import Communicator

_SIZE = 384
_SECONDS = 0.3
_STEP = 0.05
"""Speeds are rounded to multiples of this, so that equal machines count as equal and runs repeat."""


def measured_speeds(comm: Communicator) -> list[float]:
    """Relative speed of each rank, by products of matrices that all do at the same time.

    Parameters
    ----------
    comm : Communicator
        All ranks.

    Returns
    -------
    list of float
        By rank: multiples of 0.05, of which the fastest is 1; the same on all ranks.

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
    """Speeds of the ranks of a grid, of which there may be several replicas: the slowest of those with the same blocks.

    Parameters
    ----------
    speeds : sequence of float
        Of all ranks.
    n_ranks, n_replicas : int
        Ranks of a grid, and replicas.

    Returns
    -------
    list of float
        Of length ``n_ranks``.

    Raises
    ------
    ConfigError
        If there is not one a rank.
    """
    if len(speeds) != n_ranks * n_replicas:
        raise ConfigError(
            f"partition.speeds has {len(speeds)} numbers, but there are {n_ranks * n_replicas} ranks", collective=True
        )
    return [min(speeds[rank::n_ranks]) for rank in range(n_ranks)]
