"""Measure the rates of a cluster in twenty seconds: messages between ranks, products, memory, exponentials."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from distnewton.guards.watchdog import watchdog
from distnewton.parallel.collectives import Communicator

SECONDS = 2.2
"""Seconds for each measurement; there are at most nine."""
_BIG = 1 << 22
_ROWS = 1024


def measure(comm: Communicator, seconds: float = SECONDS) -> dict[str, dict[str, float]]:
    """Measure the rates while all ranks compute.

    Parameters
    ----------
    comm : Communicator
        All ranks.
    seconds : float
        Seconds for each measurement.

    Returns
    -------
    dict of str to dict
        Tables ``network`` and ``compute`` of a cluster file, without rates of what is missing, such as a second node.

    Notes
    -----
    Collective. Latency and bandwidth are of rank 0 and one partner while the others wait; rates are the mean of ranks
    that all compute at the same time, as in a run.
    """
    hosts = comm.allgather_json(platform.node())
    near = next((rank for rank in range(1, comm.size) if hosts[rank] == hosts[0]), None)
    far = next((rank for rank in range(1, comm.size) if hosts[rank] != hosts[0]), None)
    network = {}
    for prefix, partner in (("node_", near), ("", far)):
        if partner is not None:
            network[f"{prefix}latency_us"] = 1e6 * _latency(comm, partner, seconds)
            network[f"{prefix}bandwidth_gb_s"] = _bandwidth(comm, partner, seconds) / 1e9
    compute = {f"{dtype}_gflop_s": _mean(comm, _matrix_rate(dtype, seconds)) for dtype in ("float32", "float64")}
    compute["sparse_gflop_s"] = _mean(comm, _sparse_rate(seconds))
    compute["memory_gb_s"] = _mean(comm, _memory_rate(seconds))
    compute["exponentials_g_s"] = _mean(comm, _exponential_rate(seconds))
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    compute["memory_gb"] = total / max(map(hosts.count, hosts)) / 1e9
    return {"network": network, "compute": compute}


def _latency(comm: Communicator, partner: int, seconds: float) -> float:
    """Measure the seconds that an 8-byte message takes one way between rank 0 and a partner."""
    buffer = np.zeros(8, dtype=np.uint8)

    def there_and_back(pair: Any) -> None:
        if pair.rank == 0:
            pair.Send(buffer, 1)
            pair.Recv(buffer, 1)
        else:
            pair.Recv(buffer, 0)
            pair.Send(buffer, 0)

    return _timed(comm, partner, there_and_back, seconds) / 2


def _bandwidth(comm: Communicator, partner: int, seconds: float) -> float:
    """Measure the bytes a second that rank 0 and a partner each send in a sum; plain messages are faster."""
    buffer = np.zeros(_BIG // 4, dtype=np.float32)

    def total(pair: Any) -> None:
        from mpi4py import MPI

        pair.Allreduce(MPI.IN_PLACE, buffer, op=MPI.SUM)

    return buffer.nbytes / _timed(comm, partner, total, seconds)


def _timed(comm: Communicator, partner: int, work: Callable[[Any], None], seconds: float) -> float:
    """Return the median seconds of common work of two ranks; the same on all ranks."""
    assert comm.mpi is not None  # noqa: S101  (there is a partner)
    times, begin = [0.0], time.perf_counter()
    with watchdog.inside("measurement of messages"):
        pair = comm.mpi.Split(int(comm.rank in (0, partner)), comm.rank)
        if comm.rank in (0, partner):
            times, goes_on = [], np.ones(1, dtype=np.uint8)
            while goes_on[0]:
                start = time.perf_counter()
                work(pair)
                times.append(time.perf_counter() - start)
                if len(times) % 50 == 0:
                    goes_on[0] = time.perf_counter() - begin < seconds
                    pair.Bcast(goes_on)
        pair.Free()
    comm.barrier()
    return float(comm.broadcast_json(float(np.median(times))))


def _matrix_rate(dtype: str, seconds: float) -> float:
    """Measure the GFLOP/s of a square matrix product with the threads of this rank."""
    rng = np.random.default_rng(0)
    A, B = (rng.standard_normal((_ROWS, _ROWS)).astype(dtype) for _ in range(2))
    C = np.empty_like(A)
    return 2.0 * _ROWS**3 / _median_seconds(lambda: np.matmul(A, B, out=C), seconds) / 1e9


def _sparse_rate(seconds: float) -> float:
    """Measure GFLOP/s of sparse features times dense weights: 10,000 rows of 100 values, 50,000 columns, 64 outputs."""
    from scipy.sparse import csr_array

    rng = np.random.default_rng(0)
    n, width, per_row, n_out = 10_000, 50_000, 100, 64
    columns = rng.integers(width, size=n * per_row).astype(np.int32)
    values = rng.standard_normal(n * per_row).astype(np.float32)
    X = csr_array((values, columns, np.arange(0, n * per_row + 1, per_row, dtype=np.int32)), shape=(n, width))
    W = rng.standard_normal((width, n_out)).astype(np.float32)
    return 2.0 * n * per_row * n_out / _median_seconds(lambda: X @ W, seconds) / 1e9


def _memory_rate(seconds: float) -> float:
    """Measure GB/s between a core and memory, with arrays larger than the caches: two are read, one is written."""
    a, b = np.ones(_BIG), np.ones(_BIG)
    return 3.0 * a.nbytes / _median_seconds(lambda: np.add(a, b, out=a), seconds) / 1e9


def _exponential_rate(seconds: float) -> float:
    """Measure 10^9 exponentials a second in float32, with numpy's one thread."""
    values, out = np.linspace(-5.0, 5.0, _ROWS * 64, dtype=np.float32), np.empty(_ROWS * 64, dtype=np.float32)
    return values.size / _median_seconds(lambda: np.exp(values, out=out), seconds) / 1e9


def _median_seconds(work: Callable[[], Any], seconds: float) -> float:
    times: list[float] = []
    work()
    begin = time.perf_counter()
    while not times or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def _mean(comm: Communicator, value: float) -> float:
    return comm.sum_scalars(value)[0] / comm.size
