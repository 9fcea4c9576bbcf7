"""BLAS threads of a rank: cores it may use, divided by the ranks that share them."""

from __future__ import annotations

import os

import numpy as np

from distnewton.guards.watchdog import watchdog
from distnewton.parallel.collectives import Communicator


def threads_per_rank(comm: Communicator) -> int:
    """Threads for each rank so that the ranks of a node do not fight for its cores (collective).

    Parameters
    ----------
    comm : Communicator
        All ranks.

    Returns
    -------
    int
        At least 1. Ranks bound to the same cores share them.
    """
    # not every system knows affinity masks
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    if comm.mpi is None or comm.size == 1:
        return len(cores)
    from mpi4py import MPI

    n_cores = (max(cores) // 64 + 1) * 64
    width = np.array([n_cores], dtype=np.int64)
    with watchdog.inside("share cores"):
        node = comm.mpi.Split_type(MPI.COMM_TYPE_SHARED)
        node.Allreduce(MPI.IN_PLACE, width, op=MPI.MAX)
        users = np.zeros(int(width[0]), dtype=np.int64)
        users[list(cores)] = 1
        node.Allreduce(MPI.IN_PLACE, users, op=MPI.SUM)
        node.Free()
    return max(1, int(sum(1.0 / users[core] for core in cores)))
