"""What it costs to say and to ask who has finished, and how soon ranks inside a GEMM notice.

Run as ``mpirun -n 4 python -m benchmarks.early_stop``; rank 0 prints a table. Compared are

* ``counter``: a counter in a window of the last rank, read and raised by one-sided calls;
* ``probed``: messages, looked for by a single ``Iprobe``;
* ``messages`` and ``shared``: :class:`~distnewton.parallel.early_stop.FinishBoard` with one transport.

For a network on one machine, keep MPI from using shared memory: ``MPIR_CVAR_NOLOCAL=1`` (MPICH) or
``--mca pml ob1 --mca btl tcp,self`` (Open MPI; ``shared`` then still works, since it is the same machine).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from distnewton.parallel.early_stop import FinishBoard

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm, Request

N_IDLE, N_BUSY = 300, 20
GEMM_SECONDS = 0.02


class Board(Protocol):
    """What is measured."""

    def begin(self, phase_number: int, enough: int | None = None) -> None: ...
    def announce(self) -> None: ...
    def n_finished(self) -> int: ...
    def end(self, finished_ranks: Sequence[int]) -> None: ...
    def free(self) -> None: ...


class Counter:
    """A counter in a one-sided window on the last rank; it grows over the phases."""

    def __init__(self, comm: Intracomm) -> None:
        from mpi4py import MPI

        self._mpi, self._owner, self._before = MPI, comm.Get_size() - 1, 0
        self._window = MPI.Win.Allocate(8 if comm.Get_rank() == self._owner else 0, comm=comm)
        self._one, self._read = np.ones(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
        self._window.Lock_all()
        if comm.Get_rank() == self._owner:
            self._window.Accumulate(self._read, self._owner, op=MPI.REPLACE)
            self._window.Flush(self._owner)
        comm.Barrier()

    def begin(self, phase_number: int, enough: int | None = None) -> None:
        """Nothing to do: the counter is not reset."""

    def announce(self) -> None:
        """Add one."""
        self._window.Accumulate(self._one, self._owner, op=self._mpi.SUM)
        self._window.Flush(self._owner)

    def n_finished(self) -> int:
        """Read the growth since the last phase.

        Returns
        -------
        int
        """
        self._window.Fetch_and_op(self._one, self._read, self._owner, op=self._mpi.NO_OP)
        self._window.Flush(self._owner)
        return int(self._read[0]) - self._before

    def end(self, finished_ranks: Sequence[int]) -> None:
        """Remember where the next phase starts."""
        self._before += len(finished_ranks)

    def free(self) -> None:
        """Free the window."""
        self._window.Unlock_all()
        self._window.Free()


class Probed:
    """Messages to all others, which look for them by Iprobe."""

    def __init__(self, comm: Intracomm) -> None:
        from mpi4py import MPI

        self._mpi, self._comm, self._rank = MPI, comm.Dup(), comm.Get_rank()
        self._others = [rank for rank in range(comm.Get_size()) if rank != self._rank]
        self._heard, self._phase = np.full(comm.Get_size(), -1, dtype=np.int64), -1
        self._sends: list[Request] = []
        self._status = MPI.Status()

    def begin(self, phase_number: int, enough: int | None = None) -> None:
        """Note the number."""
        self._phase = phase_number

    def announce(self) -> None:
        """Send the number to all others."""
        self._heard[self._rank] = self._phase
        self._sends = [self._comm.Isend(self._heard[self._rank :][:1], rank) for rank in self._others]

    def n_finished(self) -> int:
        """Receive what Iprobe sees.

        Returns
        -------
        int
        """
        while self._comm.Iprobe(status=self._status):
            source = self._status.Get_source()
            self._comm.Recv(self._heard[source : source + 1], source)
        return int(np.count_nonzero(self._heard == self._phase))

    def end(self, finished_ranks: Sequence[int]) -> None:
        """Receive the rest, and wait for what was sent."""
        while self.n_finished() < len(finished_ranks):
            pass
        self._mpi.Request.Waitall(self._sends)

    def free(self) -> None:
        """Free the communicator."""
        self._comm.Free()


BOARDS: dict[str, Callable[[Intracomm], Board]] = {
    "counter": Counter,
    "probed": Probed,
    "messages": lambda comm: FinishBoard(comm, "messages"),
    "shared": lambda comm: FinishBoard(comm, "shared"),
}


def measure_idle(comm: Intracomm, board: Board) -> tuple[float, float]:
    """Measure what rank 0 pays while the others wait in MPI.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        All ranks.
    board : Board
        What is measured; phases 0 to ``N_IDLE`` - 1 are used.

    Returns
    -------
    announce_seconds, poll_seconds : float
        Medians; of use on rank 0.
    """
    seconds = np.zeros((N_IDLE, 2))
    for phase in range(N_IDLE):
        board.begin(phase)
        comm.Barrier()
        if comm.Get_rank() == 0:
            start = time.perf_counter()
            board.announce()
            middle = time.perf_counter()
            board.n_finished()
            seconds[phase] = middle - start, time.perf_counter() - middle
        comm.Barrier()
        board.end([0])
    announce, poll = np.median(seconds, axis=0)
    return float(announce), float(poll)


def measure_busy(comm: Intracomm, board: Board, gemm: Callable[[], None]) -> NDArray[np.float64]:
    """Let rank 0 announce while the others compute and ask between two GEMMs.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        All ranks, on one machine: their clocks are compared.
    board : Board
        What is measured; phases from ``N_IDLE`` on are used.
    gemm : callable
        The computation.

    Returns
    -------
    ndarray of shape (n_ranks * N_BUSY, 4)
        On rank 0: seconds in announce (rank 0), longest poll, seconds from announce to notice, and number of
        polls that began after announce had returned and yet did not see it (other ranks).
    """
    rng, rank = np.random.default_rng(0), comm.Get_rank()
    rows = np.full((N_BUSY, 4), np.nan)
    for i in range(N_BUSY):
        board.begin(N_IDLE + i, 1)
        comm.Barrier()
        announced = np.zeros(2)
        polls: list[tuple[float, float, int]] = []  # start, end, answer
        if rank == 0:
            time.sleep(GEMM_SECONDS * rng.uniform(1, 3))
            start = time.perf_counter()
            board.announce()
            announced[:] = start, time.perf_counter()
            rows[i, 0] = announced[1] - announced[0]
        else:
            while not polls or polls[-1][2] < 1:
                gemm()
                start = time.perf_counter()
                n = board.n_finished()
                polls.append((start, time.perf_counter(), n))
        comm.Bcast(announced, root=0)
        if rank > 0:
            missed = sum(start > announced[1] and n < 1 for start, _, n in polls)
            rows[i, 1:] = max(b - a for a, b, _ in polls), polls[-1][1] - announced[0], missed
        board.end([0])
    every = np.empty((comm.Get_size(), *rows.shape))
    comm.Gather(rows, every, root=0)
    return every.reshape(-1, 4)


def make_gemm(seconds: float) -> Callable[[], None]:
    """Make a matrix product that takes about so long on one thread of this machine.

    Parameters
    ----------
    seconds : float
        How long.

    Returns
    -------
    callable
    """
    n = 512
    a = np.ones((n, n))
    a @ a
    start = time.perf_counter()
    a @ a
    n = int(n * (seconds / (time.perf_counter() - start)) ** (1 / 3))
    a, out = np.ones((n, n)), np.empty((n, n))

    def gemm() -> None:
        np.matmul(a, a, out=out)

    return gemm


def main() -> None:
    """Measure all boards and print the table."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    version = MPI.Get_library_version().split(",")[0].split("\n")[0]
    lines = [
        f"{' '.join(version.split())}, {comm.Get_size()} ranks, rank 0 announces",
        "         | others idle, median |          others in GEMMs of 20 ms: median / largest",
        "         | announce |     poll |          announce |      longest poll |     noticed after | missed",
    ]
    with threadpool_limits(1):
        gemm = make_gemm(GEMM_SECONDS)
        for name, make in BOARDS.items():
            try:
                board = make(comm)
            except (ValueError, RuntimeError) as error:
                lines.append(f"{name:8} | {error}")
                continue
            announce, poll = measure_idle(comm, board)
            rows = measure_busy(comm, board, gemm)
            board.free()
            if comm.Get_rank() == 0:
                pairs = zip(np.nanmedian(rows, axis=0)[:3], np.nanmax(rows, axis=0)[:3], strict=True)
                busy = " | ".join(f"{_time(median)} / {_time(largest)}" for median, largest in pairs)
                missed = f"{np.nansum(rows[:, 3]):.0f}"
                lines.append(f"{name:8} | {_time(announce)} | {_time(poll)} | {busy} | {missed}")
    if comm.Get_rank() == 0:
        print("\n".join(lines))


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:5.1f} us" if seconds < 1e-4 else f"{seconds * 1e3:5.1f} ms"


if __name__ == "__main__":
    main()
