"""A roll call before the first collective of a communicator, which names the ranks that never arrive.

A program that calls a collective function on only some ranks would wait in the first message of all ranks. So the ranks
report to rank 0, which answers; no collective begins before all have arrived.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable
from typing import TYPE_CHECKING

from distnewton.errors import HANGS
from distnewton.guards.failures import failures
from distnewton.guards.hangs import ranges
from distnewton.guards.waiting import claim_warning, take_back_warning
from distnewton.guards.watchdog import AwakeClock, tell
from distnewton.parallel.collectives import Communicator

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm

_TAG = 31_876
_LATER = 3.0
"""Seconds by which other ranks wait longer than rank 0, which knows all missing ranks, before they end the job."""
_LONGEST_PAUSE = 0.01


def call_roll(comm: Communicator, end: Callable[[str, int], object], limit: float, warn_seconds: float) -> None:
    """Return when all ranks have called this (collective).

    Parameters
    ----------
    comm : Communicator
        The ranks.
    end : callable
        (message, exit code) ends the whole job.
    limit, warn_seconds : float
        Seconds after which a missing rank makes the others end the job, and warn; 0 is never.
    """
    if comm.mpi is None or comm.size == 1:
        return
    poll = _poll_others(comm.mpi) if comm.rank == 0 else _poll_first(comm.mpi)
    if _wait(comm, poll, end, limit, warn_seconds) and take_back_warning(failures.meeting_place(), comm.rank):
        tell(f"rank {comm.rank} continues")


def _wait(
    comm: Communicator, poll: Callable[[], list[int]], end: Callable[[str, int], object], limit: float,
    warn_seconds: float,
) -> bool:  # fmt: skip
    """Wait until nobody is missing, or for the end of the job; tells whether it has warned."""
    clock, warned = AwakeClock(), False
    while missing := poll():
        waited = clock.seconds()
        if waited > (limit or math.inf) + _LATER * (comm.rank > 0):
            end(
                f"waited {waited:.0f} s for rank {ranges(missing)} of {comm.size} before the first message of all "
                f"ranks (run.hang_seconds = {limit:g}): it has not made the call that others made, is stopped, or died",
                HANGS,
            )
            return False
        if not warned and waited > (warn_seconds or math.inf):
            warned = True
            _warn(comm, waited, missing, limit)
        clock.sleep(min(_LONGEST_PAUSE, waited / 10))
    return warned


def _warn(comm: Communicator, waited: float, missing: list[int], limit: float) -> None:
    """Name the missing ranks, unless another rank does."""
    if claim_warning(failures.meeting_place(), {**failures.facts(), "rank": comm.rank}):
        limits = f"; the job ends after {limit:g} s of it" if limit else ""
        tell(
            f"rank {comm.rank} on {platform.node()} has waited {waited:.0f} s for rank {ranges(missing)} of "
            f"{comm.size}, before the first message of all ranks{limits}"
        )


def _poll_others(mpi: Intracomm) -> Callable[[], list[int]]:
    """Return a function for rank 0 that answers new reports and lists the ranks still missing."""
    from mpi4py import MPI

    missing, status = set(range(1, mpi.Get_size())), MPI.Status()
    answers: list[MPI.Request] = []

    def poll() -> list[int]:
        while mpi.Iprobe(MPI.ANY_SOURCE, _TAG, status):
            rank = status.Get_source()
            mpi.Recv(bytearray(0), rank, _TAG)
            answers.append(mpi.Isend(b"", rank, _TAG))
            missing.discard(rank)
        return [] if not missing and MPI.Request.Testall(answers) else sorted(missing)

    return poll


def _poll_first(mpi: Intracomm) -> Callable[[], list[int]]:
    """Return a function for other ranks that lists rank 0 until it has answered."""
    requests = [mpi.Isend(b"", 0, _TAG), mpi.Irecv(bytearray(0), 0, _TAG)]
    return lambda: [] if type(requests[0]).Testall(requests) else [0]
