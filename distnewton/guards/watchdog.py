"""The watchdog: a thread that warns, and then ends the job, when this rank waits too long for others in a collective.

Every MPI call that waits for others is announced with ``watchdog.inside(name)``: it gets a number, and the thread sees
when it began. After ``warn_seconds`` one rank says so; after ``limit`` seconds the rank writes what it waits in and all
stacks into the run folder, finds out who is missing, and ends the job with exit code 76. Announcing costs some stores.
"""

from __future__ import annotations

import faulthandler
import json
import os
import platform
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from distnewton.errors import HANGS
from distnewton.guards.failures import failures, replace
from distnewton.guards.hangs import describe_hang, read_hangs, where
from distnewton.guards.reachability import Hosts

DEFAULT_SECONDS, WARN_SECONDS = 600.0, 60.0
PATIENCE = 3.0
"""Factor on the limits while data is read and results are written: a shared disk may be slow."""
_OTHERS = 0.5
"""Seconds that ranks in the same hang have to write where they are, before one of them says who is missing."""
_HEAD_START = 3.0
"""Seconds that other ranks leave to rank 0, which asks all hosts whether they answer."""
_OWN = Path(__file__).parent
_RECENT = 64
_SHOWN = 8
"""Collectives that are remembered, and of those the ones that a report holds."""


class Watchdog:
    """Follows the collectives of this process; ``with watchdog.inside("sum"): comm.Allreduce(...)``.

    Attributes
    ----------
    number : int
        Collectives entered so far.
    name : str
        The one this rank is in; empty outside.
    limit, warn_seconds : float
        Seconds after which waiting is a hang, and is worth a warning; 0 is never.
    recent : deque of tuple
        The last collectives: name, count of numbers, group, members, number of the call in the group.
    """

    def __init__(self) -> None:
        self.number, self.name, self.limit, self.warn_seconds = 0, "", 0.0, WARN_SECONDS
        self.recent: deque[tuple[str, int, str, str, int]] = deque(maxlen=_RECENT)
        self._since = 0.0
        self._thread: threading.Thread | None = None
        self._end: Callable[[str, int], object] = _never
        self._rank, self._hosts, self._ask_hosts = 0, [platform.node()], Hosts({})

    def inside(self, name: str, count: int = 0, group: str = "", members: str = "", call: int = 0) -> Watchdog:
        """Announce a call that waits for other ranks, as a context.

        Parameters
        ----------
        name : str
            What it is.
        count : int
            Numbers it moves.
        group, members : str
            The communicator, called the same on all of its ranks, and who they are.
        call : int
            Number of the call in the group.

        Returns
        -------
        Watchdog
        """
        self.number += 1
        self._since = time.monotonic()
        self.recent.append((name, count, group, members, call))
        self.name = name
        return self

    def __enter__(self) -> Watchdog:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.name = ""

    @contextmanager
    def patient(self) -> Iterator[None]:
        """Wait longer inside: ranks read or write files.

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
        """Begin to watch.

        Parameters
        ----------
        rank : int
            This process's.
        end : callable
            (message, exit code) ends the whole job; called at most once, on the watching thread.
        limit, warn_seconds : float
            Seconds; can be changed later.
        """
        self._rank, self._end, self.limit, self.warn_seconds = rank, end, limit, warn_seconds
        failures.waits = self.report
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="distnewton watchdog", daemon=True)
            self._thread.start()

    def meet(self, hosts: Sequence[str], addresses: Sequence[Sequence[str]]) -> None:
        """Learn where the ranks are, and in the background which of their hosts answer now.

        Parameters
        ----------
        hosts : sequence of str
            Host of each rank.
        addresses : sequence of sequence of str
            Addresses of each rank's host.
        """
        self._hosts = list(hosts)
        # rank 0 asks all, the others only rank 0's host: 2 n questions, not n^2
        asked = range(len(hosts)) if self._rank == 0 else range(1)
        others = {hosts[r]: list(addresses[r]) for r in asked if hosts[r] != hosts[self._rank]}
        if not others:
            return

        def ask() -> None:
            self._ask_hosts = Hosts(others)

        threading.Thread(target=ask, name="distnewton hosts", daemon=True).start()

    def report(self) -> dict[str, Any]:
        """The last collective and those before it, for the report of a failure or a hang."""
        calls = [
            {"name": f"{name} of {count} numbers" if count else name, "group": group, "members": members, "call": call}
            for name, count, group, members, call in list(self.recent)[-_SHOWN:]
        ]
        if not calls:
            return {}
        return {"collective": calls[-1] | {"place": self._place()}, "recent": calls[:-1]}

    def _place(self) -> str:
        """Line of the program that waits: the innermost outside of this folder and of what is installed."""
        frame: FrameType | None = sys._current_frames().get(threading.main_thread().ident or 0)
        return calling_place(frame)

    def _watch(self) -> None:
        """Look at the clock until the process ends."""
        warned = 0
        while True:
            limit = min((seconds for seconds in (self.limit, self.warn_seconds) if seconds), default=0.0)
            time.sleep(min(1.0, max(0.05, limit / 20)) if limit else 1.0)
            name, number, waited = self.name, self.number, time.monotonic() - self._since
            if warned and (not name or number != warned):
                warned = self._go_on()
            # what changed between two reads is another collective, and no hang
            if not name or (name, number) != (self.name, self.number):
                continue
            if self.limit and waited > self.limit:
                self._bark(number, waited)
                return
            if self.warn_seconds and waited > self.warn_seconds + (1.0 if self._rank else 0.0) and not warned:
                warned = number
                self._warn(waited)

    def _warn(self, waited: float) -> None:
        """Say that this rank waits, unless another has said so."""
        report = {**failures.facts(), "rank": self._rank}
        try:
            first = self._first_to_warn(report)
        except OSError:
            # better said by several than by nobody
            first = True
        if first:
            limit = f"; the job ends after {self.limit:g} s of it" if self.limit else ""
            self._say(f"rank {self._rank} on {platform.node()} has waited {waited:.0f} s in {where(report)}{limit}")

    def _first_to_warn(self, report: dict[str, Any]) -> bool:
        place = failures.meeting_place()
        own, file = place / f"waiting.rank-{self._rank:04d}", place / "waiting.json"
        replace(own, report)
        try:
            # only one rank gets the name
            os.link(own, file)
        except FileExistsError:
            before = json.loads(file.read_text(encoding="utf-8"))
            if all(before.get(key) == report[key] for key in ("launch", "finished_iteration")):
                return False
            os.replace(own, file)
        own.unlink(missing_ok=True)
        return True

    def _go_on(self) -> int:
        """Take the warning back; returns the number of the collective that is warned of: none."""
        place = failures.meeting_place()
        (place / f"waiting.rank-{self._rank:04d}").unlink(missing_ok=True)
        file = place / "waiting.json"
        if file.exists() and json.loads(file.read_text(encoding="utf-8")).get("rank") == self._rank:
            file.unlink(missing_ok=True)
            self._say(f"rank {self._rank} goes on")
        return 0

    @staticmethod
    def _say(text: str) -> None:
        print(f"distnewton: {text}", file=sys.stderr, flush=True)

    def _bark(self, number: int, waited: float) -> None:
        """Write down where this rank is, say who is missing, end the job."""
        report = {**failures.facts(), "rank": self._rank, "number": number}
        place = failures.meeting_place()
        self._write(place, report)
        time.sleep(_OTHERS if self._rank == 0 else _HEAD_START + _OTHERS)
        cause = self._silent_hosts() or describe_hang(read_hangs(place, failures.launch), self._hosts)
        self._end(
            f"waited {waited:.0f} s in {where(report)} for other ranks (run.hang_seconds = {self.limit:g}).\n{cause}",
            HANGS,
        )

    def _silent_hosts(self) -> str:
        """Which hosts are cut off, if any."""
        silent = self._ask_hosts.silent()
        if not silent:
            return ""
        ranks = {host: [str(r) for r, name in enumerate(self._hosts) if name == host] for host in silent}
        named = ", ".join(f"{host} (rank {', '.join(ranks[host])})" for host in silent)
        if self._rank == 0 and len(silent) > 1 and len(silent) == len({*self._hosts} - {platform.node()}):
            return f"No other host answers: {platform.node()} is cut off, or all others are. Look at its network"
        return f"The host {named} answered when the run began and does not now: look at it and at its network"

    def _write(self, place: Path, report: dict[str, Any]) -> None:
        """This rank's place and its stacks."""
        base = place / f"hang-rank-{self._rank:04d}"
        with base.with_suffix(".txt").open("w", encoding="utf-8") as stacks:
            faulthandler.dump_traceback(stacks)
        replace(base.with_suffix(".json"), report)


def calling_place(frame: FrameType | None) -> str:
    """``file.py:line function`` of the innermost frame outside of the modules that pass messages.

    Parameters
    ----------
    frame : frame or None
        Where to begin; outer frames follow.

    Returns
    -------
    str
        Empty where there is none.
    """
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file.parent != _OWN and "mpi4py" not in file.parts and file.name != "contextlib.py":
            return f"{file.name}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return ""


def _never(message: str, code: int) -> None:
    raise RuntimeError(f"the watchdog was not started, and yet ends the job with {code}: {message}")


watchdog = Watchdog()
"""The process's own; it watches nothing until it is started."""
