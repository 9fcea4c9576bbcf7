"""BLAS threads of a rank: the cores that it may use, divided by the ranks that share them."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from distnewton.guards.watchdog import watchdog
from distnewton.parallel.collectives import Communicator

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController


def own_cores() -> set[int]:
    """Return the cores that this process may use."""
    # not every system knows affinity masks
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def blas_libraries() -> list[dict[str, Any]]:
    """List the BLAS libraries of this process: API, version, architecture, threading layer and number of threads."""
    # the first product loads libraries that are loaded lazily
    np.ones((2, 2)) @ np.ones((2, 2))
    keys = ("internal_api", "version", "architecture", "threading_layer", "num_threads")
    pools = _libraries(len(sys.modules)).info()
    return [{key: pool.get(key) for key in keys} for pool in pools if pool.get("user_api") == "blas"]


def limit_blas_threads(n_threads: int) -> AbstractContextManager[Any]:
    """Limit the BLAS threads of this process, until the returned context ends; for good if it is not entered."""
    limit: AbstractContextManager[Any] = _libraries(len(sys.modules)).limit(limits=n_threads, user_api="blas")
    return limit


@lru_cache(maxsize=1)
def _libraries(n_modules: int) -> ThreadpoolController:
    """Find the libraries with threads, which costs milliseconds: again only after imports, as these load libraries."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def threads_of_rank(comm: Communicator, asked: int = 0) -> int:
    """Return the threads of this rank: as a setting or ``OMP_NUM_THREADS`` says, or its share of cores (collective)."""
    share = threads_per_rank(comm)
    # OpenMP allows a list, whose first number is for the outer level
    named = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return asked or (int(named) if named.isdecimal() else 0) or share


def threads_per_rank(comm: Communicator) -> int:
    """Return the number of cores for each rank, at least 1: ranks bound to the same cores share them (collective)."""
    return max(1, int(share_of_cores(comm)))


def n_cores(comm: Communicator) -> int:
    """Count the cores that all ranks may use together, on all hosts (collective)."""
    return round(comm.sum_scalars(share_of_cores(comm))[0])


def share_of_cores(comm: Communicator) -> float:
    """Return this rank's number of cores, in which each core counts divided by the ranks that use it (collective)."""
    cores = own_cores()
    if comm.mpi is None or comm.size == 1:
        return float(len(cores))
    from mpi4py import MPI

    width = np.array([(max(cores) // 64 + 1) * 64], dtype=np.int64)
    with watchdog.inside("share cores"):
        node = comm.mpi.Split_type(MPI.COMM_TYPE_SHARED)
        node.Allreduce(MPI.IN_PLACE, width, op=MPI.MAX)
        users = np.zeros(int(width[0]), dtype=np.int64)
        users[list(cores)] = 1
        node.Allreduce(MPI.IN_PLACE, users, op=MPI.SUM)
        node.Free()
    return float(sum(1.0 / users[core] for core in cores))
