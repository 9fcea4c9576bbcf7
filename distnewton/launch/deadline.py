"""Stopping in time: before the time that the user gave or the batch system ends the job, or when a signal asks for it.

Signals of batch systems differ from site to site, and not every launcher hands them on; the clock works everywhere.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import time
from enum import IntEnum

from distnewton.guards.signals import StopSignals
from distnewton.parallel.collectives import Communicator

STARTED = time.monotonic()
"""About when the process began: this module is imported with the command line."""
JOB_MARGIN = 30.0
"""Seconds before the end of a Slurm job that are left to its last output and to its epilog."""


class Stop(IntEnum):
    """Whether a run is to stop before its last iteration, and why."""

    NO, CLOCK, SIGNAL, INTERRUPT = range(4)


class Clock:
    """When a run has to stop.

    Parameters
    ----------
    comm : Communicator
        All ranks.
    max_seconds : float or None
        Of the whole command, from its start on; inf for no limit but that of a Slurm job, None for none at all.
    signals : StopSignals or None
        Signals that stop the run, too.

    Attributes
    ----------
    save_seconds : float
        What the last save took, or the next may take; room for two is kept.

    Notes
    -----
    Construction is collective.
    """

    def __init__(
        self, comm: Communicator, max_seconds: float | None = math.inf, signals: StopSignals | None = None
    ) -> None:
        self._comm, self._signals, self.save_seconds = comm, signals, 0.0
        left = math.inf
        if comm.rank == 0 and max_seconds is not None:
            left = min(max_seconds - (time.monotonic() - STARTED), job_seconds_left() - JOB_MARGIN)
        (left,) = comm.broadcast_json([left])
        self._deadline = time.monotonic() + left
        self._last, self._longest = 0.0, 0.0

    def must_stop(self) -> Stop:
        """Whether another iteration may not end in time, or a signal has come; asked after each.

        Returns
        -------
        Stop
            Of this rank: the clock is rank 0's, and a signal may have reached one rank only. The longest iteration so
            far is what the next one may take.
        """
        if self._signals is not None and self._signals.received:
            return Stop.INTERRUPT if self._signals.received == "SIGINT" else Stop.SIGNAL
        if self._deadline == math.inf:
            return Stop.NO
        now = time.monotonic()
        self._longest = max(self._longest, now - self._last) if self._last else 0.0
        self._last = now
        room = 1.5 * self._longest + 2.0 * self.save_seconds
        return Stop.CLOCK if self._comm.rank == 0 and now + room > self._deadline else Stop.NO

    def saved(self, seconds: float) -> None:
        """Note what a save took: room for two like it is kept, and it is no part of an iteration."""
        self.save_seconds = seconds
        if self._last:
            self._last += seconds


def job_seconds_left() -> float:
    """Seconds until Slurm ends this job; inf outside of a job, or where Slurm does not say."""
    # newer versions set the second variable; else squeue is asked
    job, end = os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURM_JOB_END_TIME", "")
    if end.isdigit():
        return float(end) - time.time()
    if not job:
        return math.inf
    # compute nodes of some sites have no squeue: the job's limit is then unknown here
    return seconds_of(output_of(["squeue", "-h", "-j", job, "-o", "%L"]).strip())


def output_of(command: list[str]) -> str:
    """What a command prints; nothing where it cannot be run, fails, or takes more than 20 seconds."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def seconds_of(text: str) -> float:
    """Seconds of a time as Slurm writes it: ``2-12:00:00``, ``1:30:00``, ``5:00``; inf for anything else."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if not match:
        return math.inf
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
