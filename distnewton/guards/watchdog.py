"""The watchdog: a thread that warns, and then ends the job, when this rank waits too long for others in a collective.

Every MPI call that waits for others is announced with ``watchdog.inside(name)``, which stores its number and the time
at which it began. After ``warn_seconds`` one rank warns. After ``limit`` seconds the rank writes its collective and all
stacks into the run folder, finds the missing ranks, and ends the job with exit code 76. Announcing is cheap.
"""

from __future__ import annotations

import faulthandler
import platform
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NamedTuple

from distnewton.errors import HANGS
from distnewton.guards.failures import failures, replace
from distnewton.guards.hangs import describe_hang, read_hangs, where
from distnewton.guards.reachability import Hosts
from distnewton.guards.waiting import claim_warning, take_back_warning

DEFAULT_SECONDS, WARN_SECONDS = 600.0, 60.0
PATIENCE = 3.0
"""Factor on the limits while data is read or results are written, since a shared disk may be slow."""
_OTHERS = 0.5
"""Seconds for ranks in the same hang to write where they are, before one of them names the missing ranks."""
_HEAD_START = 3.0
"""Seconds by which other ranks wait longer than rank 0, which asks all hosts whether they answer."""
_WARN_LATER = 1.0
"""Seconds by which other ranks wait longer than rank 0, which should warn first."""
_OWN = {Path(__file__).parent, Path(__file__).parents[1] / "parallel"}  # a place in them does not show the caller
_GAP = 2.0
"""A pause that takes this much longer, in seconds, means that the process or its machine was suspended."""
_N_RECENT = 64
"""Number of collectives that are remembered."""
_N_SHOWN = 8
"""Number of collectives that a report shows."""


class Call(NamedTuple):
    """A call that waits for other ranks.

    Attributes
    ----------
    name : str
        Name of the operation.
    n_numbers : int
        Number of array elements that it moves.
    group, members : str
        The communicator, and its ranks.
    number : int
        Number of the call in the group.
    since : float
        Start of the call, by the monotonic clock.
    """

    name: str
    n_numbers: int
    group: str
    members: str
    number: int
    since: float

    def report(self) -> dict[str, Any]:
        """Describe the call for the report of a failure."""
        name = f"{self.name} of {self.n_numbers} numbers" if self.n_numbers else self.name
        return {"name": name, "group": self.group, "members": self.members, "call": self.number}


class Watchdog:
    """Follows the collectives of this process; ``with watchdog.inside("sum"): comm.Allreduce(...)``.

    Attributes
    ----------
    number : int
        Number of collectives entered so far.
    current : Call or None
        The collective that this rank is in; None outside. The thread reads it without a lock, since calls never change.
    recent : deque of Call
        The last collectives.
    limit, warn_seconds : float
        Seconds of waiting after which the job ends, and after which a rank warns; 0 is never.
    hosts : Hosts
        Hosts of the ranks.
    """

    def __init__(self) -> None:
        self.number, self.limit, self.warn_seconds = 0, 0.0, WARN_SECONDS
        self.current: Call | None = None
        self.recent: deque[Call] = deque(maxlen=_N_RECENT)
        self.hosts = Hosts([platform.node()])
        self._rank = 0
        self._end: Callable[[str, int], object] = _refuse_to_end
        self._thread: threading.Thread | None = None

    def inside(self, name: str, count: int = 0, group: str = "", members: str = "", number: int = 0) -> Watchdog:
        """Announce a call that waits for other ranks, as a context.

        Parameters
        ----------
        name : str
            Name of the operation.
        count : int
            Number of array elements that it moves.
        group, members : str
            Name of the communicator, the same on all of its ranks, and those ranks.
        number : int
            Number of the call in the group.

        Returns
        -------
        Watchdog
        """
        self.number += 1
        self.current = Call(name, count, group, members, number, time.monotonic())
        self.recent.append(self.current)
        return self

    def __enter__(self) -> Watchdog:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.current = None

    @contextmanager
    def patient(self) -> Iterator[None]:
        """Wait longer in the ``with`` body, in which ranks read or write files.

        Yields
        ------
        None
        """
        before = self.limit, self.warn_seconds
        self.limit, self.warn_seconds = self.limit * PATIENCE, self.warn_seconds * PATIENCE
        try:
            yield
        finally:
            self.limit, self.warn_seconds = before

    def start(
        self,
        rank: int,
        end: Callable[[str, int], object],
        limit: float = DEFAULT_SECONDS,
        warn_seconds: float = WARN_SECONDS,
    ) -> None:
        """Start the watching thread.

        Parameters
        ----------
        rank : int
            This process's rank.
        end : callable
            (message, exit code) ends the whole job; called at most once, on the watching thread.
        limit, warn_seconds : float
            Limits in seconds; both can be changed later.
        """
        self._rank, self._end, self.limit, self.warn_seconds = rank, end, limit, warn_seconds
        failures.waits = self.report
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="distnewton watchdog", daemon=True)
            self._thread.start()

    def meet(self, hosts: Sequence[str], addresses: Sequence[Sequence[str]]) -> None:
        """Store the hosts of the ranks, and find out in the background which of them answer now.

        Parameters
        ----------
        hosts : sequence of str
            Host of each rank.
        addresses : sequence of sequence of str
            Addresses of each rank's host.
        """
        self.hosts = Hosts(hosts)
        # rank 0 asks all hosts, the others only rank 0's: 2 n questions, not n^2
        asked = range(len(hosts)) if self._rank == 0 else range(1)
        others = {hosts[r]: list(addresses[r]) for r in asked if hosts[r] != hosts[self._rank]}
        if others:
            threading.Thread(target=self.hosts.ask, args=(others,), name="distnewton hosts", daemon=True).start()

    def report(self) -> dict[str, Any]:
        """Describe the last collectives, for the report of a failure or a hang."""
        calls = [call.report() for call in list(self.recent)[-_N_SHOWN:]]
        if not calls:
            return {}
        # the line of the program that waits
        frame = sys._current_frames().get(threading.main_thread().ident or 0)
        return {"collective": calls[-1] | {"place": calling_place(frame)}, "recent": calls[:-1]}

    def _watch(self) -> None:
        """Check the clock until the process ends."""
        warned: Call | None = None
        clock = AwakeClock()
        while True:
            clock.sleep(self._pause())
            call = self.current
            if warned is not None and call is not warned:
                self._take_back()
                warned = None
            if call is None:
                continue
            waited = time.monotonic() - max(call.since, clock.since)
            if self.limit and waited > self.limit:
                self._end_job(waited)
                return
            if warned is None and self._is_worth_a_warning(waited):
                self._warn(waited)
                warned = call

    def _pause(self) -> float:
        """Return the seconds between two checks: a small part of the shorter limit."""
        shortest = min((seconds for seconds in (self.limit, self.warn_seconds) if seconds), default=20.0)
        return min(1.0, max(0.05, shortest / 20))

    def _is_worth_a_warning(self, waited: float) -> bool:
        return bool(self.warn_seconds) and waited > self.warn_seconds + _WARN_LATER * (self._rank > 0)

    def _warn(self, waited: float) -> None:
        """Warn that this rank waits, unless another rank has warned."""
        report = {**failures.facts(), "rank": self._rank}
        if claim_warning(failures.meeting_place(), report):
            limit = f"; the job ends after {self.limit:g} s of it" if self.limit else ""
            tell(f"rank {self._rank} on {platform.node()} has waited {waited:.0f} s in {where(report)}{limit}")

    def _take_back(self) -> None:
        """Print that the wait is over, if this rank has warned."""
        if take_back_warning(failures.meeting_place(), self._rank):
            tell(f"rank {self._rank} continues")

    def _end_job(self, waited: float) -> None:
        """Record where this rank waits, name the missing ranks, and end the job."""
        report = {**failures.facts(), "rank": self._rank, "number": self.number}
        place = failures.meeting_place()
        file = place / f"hang-rank-{self._rank:04d}"
        with file.with_suffix(".txt").open("w", encoding="utf-8") as stacks:
            faulthandler.dump_traceback(stacks)
        replace(file.with_suffix(".json"), report)
        time.sleep(_OTHERS if self._rank == 0 else _HEAD_START + _OTHERS)
        cause = self.hosts.describe_silent(self._rank)
        cause = cause or describe_hang(read_hangs(place, failures.launch), self.hosts.names)
        self._end(
            f"waited {waited:.0f} s in {where(report)} for other ranks (run.hang_seconds = {self.limit:g}).\n{cause}",
            HANGS,
        )


class AwakeClock:
    """Measures waiting; it starts anew if this process, and probably the whole job, was suspended.

    Attributes
    ----------
    since : float
        Start of the waiting, by the monotonic clock.
    """

    def __init__(self) -> None:
        self.since = time.monotonic()

    def seconds(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self.since

    def sleep(self, seconds: float) -> None:
        """Sleep; if that takes much longer than it should, start measuring anew."""
        before = time.monotonic()
        time.sleep(seconds)
        now = time.monotonic()
        if now - before > seconds + _GAP:
            self.since = now


def tell(text: str) -> None:
    """Print a line on stderr and flush it."""
    print(f"distnewton: {text}", file=sys.stderr, flush=True)


def calling_place(frame: FrameType | None) -> str:
    """Return ``file.py:line function`` of the innermost frame outside the modules that pass messages.

    Parameters
    ----------
    frame : frame or None
        Frame to start from; outer frames follow.

    Returns
    -------
    str
        Empty if there is none.
    """
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file.parent not in _OWN and "mpi4py" not in file.parts and file.name != "contextlib.py":
            return f"{file.name}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return ""


def _refuse_to_end(message: str, code: int) -> object:
    raise RuntimeError(f"the watchdog ends a job that it was never started for, with exit code {code}: {message}")


watchdog = Watchdog()
"""The watchdog of this process; it watches nothing until it is started."""
