"""The watchdog: a thread that ends the job when this rank waits too long for others inside a collective.

Every MPI call that waits for others is announced with ``watchdog.inside(name)``: it gets a number, and the thread sees
when it began. After ``limit`` seconds the rank writes what it waits in and all stacks into the run folder, finds out
who is missing, and ends the job with exit code 76. Announcing costs two stores.
"""

from __future__ import annotations

import faulthandler
import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from distnewton.errors import HANGS
from distnewton.parallel.failures import ERRORS_FOLDER, failures
from distnewton.parallel.reachability import Hosts

DEFAULT_SECONDS = 600.0
PATIENCE = 3.0
"""Factor on the limit while data is read and results are written: a shared disk may be slow."""
_OTHERS = 0.5
"""Seconds that ranks in the same hang have to write where they are, before one of them says who is missing."""
_HEAD_START = 3.0
"""Seconds that other ranks leave to rank 0, which asks all hosts whether they answer."""


class Watchdog:
    """Follows the collectives of this process; ``with watchdog.inside("sum"): comm.Allreduce(...)``.

    Attributes
    ----------
    number : int
        Collectives entered so far.
    name : str
        The one this rank is in; empty outside.
    limit : float
        Seconds after which waiting is a hang; 0 is never.
    """

    def __init__(self) -> None:
        self.number, self.name, self.limit = 0, "", 0.0
        self._since = 0.0
        self._thread: threading.Thread | None = None
        self._end: Callable[[str, int], object] = _never
        self._rank, self._hosts, self._ask_hosts = 0, [platform.node()], Hosts({})

    def inside(self, name: str) -> Watchdog:
        """Announce a call that waits for other ranks, as a context."""
        self.number += 1
        self._since = time.monotonic()
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
        before, self.limit = self.limit, self.limit * PATIENCE
        try:
            yield
        finally:
            self.limit = before

    def start(self, rank: int, end: Callable[[str, int], object], limit: float = DEFAULT_SECONDS) -> None:
        """Begin to watch.

        Parameters
        ----------
        rank : int
            This process's.
        end : callable
            (message, exit code) ends the whole job; called at most once, on the watching thread.
        limit : float
            Seconds; can be changed later.
        """
        self._rank, self._end, self.limit = rank, end, limit
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

        def ask() -> None:
            self._ask_hosts = Hosts(others)

        threading.Thread(target=ask, name="distnewton hosts", daemon=True).start()

    def _watch(self) -> None:
        """Look at the clock until the process ends."""
        while True:
            limit = self.limit
            time.sleep(min(1.0, max(0.05, limit / 20)) if limit else 1.0)
            name, number, waited = self.name, self.number, time.monotonic() - self._since
            # what changed between two reads is another collective, and no hang
            if limit and name and waited > limit and (name, number) == (self.name, self.number):
                self._bark(name, number, waited)
                return

    def _bark(self, name: str, number: int, waited: float) -> None:
        """Write down where this rank is, say who is missing, end the job."""
        facts = {**failures.facts(), "rank": self._rank, "collective": number, "name": name}
        self._write(facts)
        time.sleep(_OTHERS if self._rank == 0 else _HEAD_START + _OTHERS)
        where = f"in collective {number} ({name}, phase {facts['phase']})"
        cause = self._silent_hosts() or self._missing_ranks(number)
        self._end(f"waited {waited:.0f} s {where} for other ranks (run.hang_seconds = {self.limit:g}).\n{cause}", HANGS)

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

    def _missing_ranks(self, number: int) -> str:
        """Who is not in the collective in which this rank waits."""
        if failures.folder is None:
            return "No run folder is known in which the ranks could say where they are"
        there: dict[int, Any] = {}
        for file in sorted((failures.folder / ERRORS_FOLDER).glob("hang-rank-*.json")):
            report = json.loads(file.read_text(encoding="utf-8"))
            there[report["rank"]] = report
        missing = [rank for rank in range(len(self._hosts)) if rank not in there]
        if missing:
            named = ", ".join(f"{rank} on {self._hosts[rank]}" for rank in missing)
            return f"Not in any collective is rank {named}: it computes, reads, is stopped, or has died"
        places = ", ".join(f"rank {r}: {report['collective']} ({report['name']})" for r, report in there.items())
        return f"All ranks wait: {places}. The network may be broken, or the ranks are in different collectives"

    def _write(self, facts: dict[str, Any]) -> None:
        """This rank's place and its stacks, in the run folder."""
        if failures.folder is None or not failures.folder.is_dir():
            return
        errors: Path = failures.folder / ERRORS_FOLDER
        errors.mkdir(exist_ok=True)
        base = errors / f"hang-rank-{self._rank:04d}"
        with base.with_suffix(".txt").open("w", encoding="utf-8") as stacks:
            faulthandler.dump_traceback(stacks)
        part = base.with_suffix(".part")
        part.write_text(json.dumps(facts) + "\n", encoding="utf-8")
        os.replace(part, base.with_suffix(".json"))


def _never(message: str, code: int) -> None:
    raise RuntimeError(f"the watchdog was not started, and yet ends the job with {code}: {message}")


watchdog = Watchdog()
"""The process's own; it watches nothing until it is started."""
