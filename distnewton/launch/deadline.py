"""Stop a run in time: before the user's time limit, before the batch system ends the job, or on a signal.

Batch systems differ in their signals, and not every launcher forwards them; the clock works everywhere.
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
"""Approximate start of the process: the command line imports this module at once."""
JOB_MARGIN = 30.0
"""Seconds before the end of a Slurm job that are reserved for its last output and its epilog."""


class Stop(IntEnum):
    """Whether a run is to stop before its last iteration, and why."""

    NO, CLOCK, SIGNAL, INTERRUPT = range(4)


class Clock:
    """Decides when a run has to stop.

    Parameters
    ----------
    comm : Communicator
        All ranks.
    max_seconds : float or None
        Time limit of the whole command; inf keeps only the limit of a Slurm job, None sets no limit at all.
    signals : StopSignals or None
        Signals that also stop the run.

    Attributes
    ----------
    save_seconds : float
        Seconds that the last save took or the next one may take; the clock reserves time for two saves.

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
        """Tell whether a signal has come, or another iteration may not end in time; called after each iteration.

        Returns
        -------
        Stop
            Answer of this rank: only rank 0 looks at the clock, and a signal may reach one rank only. The next
            iteration is assumed to take as long as the longest so far.
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
        """Note how long a save took: the clock reserves time for two such saves, outside iterations."""
        self.save_seconds = seconds
        if self._last:
            self._last += seconds


def job_seconds_left() -> float:
    """Return the seconds until Slurm ends this job; inf outside a job, or if Slurm does not say."""
    # newer versions set the second variable; otherwise ask squeue
    job, end = os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURM_JOB_END_TIME", "")
    if end.isdigit():
        return float(end) - time.time()
    if not job:
        return math.inf
    # compute nodes of some sites have no squeue: the limit of the job is then unknown
    return seconds_of(output_of(["squeue", "-h", "-j", job, "-o", "%L"]).strip())


def output_of(command: list[str]) -> str:
    """Return the output of a command; empty if it cannot run, fails, or takes more than 20 seconds."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def seconds_of(text: str) -> float:
    """Convert a time as Slurm writes it to seconds: ``2-12:00:00``, ``1:30:00``, ``5:00``; inf for anything else."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if not match:
        return math.inf
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
