"""Signals that ask a run to stop: they set a flag that the run examines after each iteration.

Batch systems send SIGTERM or SIGUSR1 before the end of a job, and so do users with ``kill`` and ``scancel``; SIGINT is
Ctrl-C, and SIGHUP comes from a terminal that is closed.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import Self

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT)
_SAME_SECONDS = 0.3
"""A second SIGINT within these seconds is the same Ctrl-C, which the terminal and the launcher have both sent."""


class StopSignals:
    """Context in which signals are noted and do not end the process.

    A second SIGINT raises KeyboardInterrupt: a user who presses Ctrl-C twice does not want to wait. Repeats of other
    signals change nothing, because a batch system and a forwarding launcher often send the same signal twice. Signals
    that are ignored (``nohup``) or that the program handles itself are left alone, and outside the main thread all are.
    Python runs handlers between its own instructions, so a signal that comes while MPI waits or BLAS computes is
    handled afterwards.

    Parameters
    ----------
    numbers : sequence of Signals
        The signals.
    notice : str
        Message on stderr if the first signal is SIGINT; empty for none.

    Attributes
    ----------
    received : str
        Name of the first signal received, or SIGINT once that has come; empty before.
    """

    def __init__(self, numbers: Sequence[signal.Signals] = STOP_SIGNALS, notice: str = "") -> None:
        self.received = ""
        self._numbers, self._notice, self._interrupted_at = numbers, notice, 0.0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in self._numbers:
                before = signal.getsignal(number)
                if before in (signal.SIG_DFL, signal.default_int_handler):
                    self._before[number] = before
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number != signal.SIGINT:
            self.received = self.received or signal.Signals(number).name
            return
        now = time.monotonic()
        if self._interrupted_at:
            if now - self._interrupted_at > _SAME_SECONDS:
                raise KeyboardInterrupt
            return
        self.received, self._interrupted_at = "SIGINT", now
        if self._notice:
            # the signal may have interrupted print, which refuses to be called inside itself
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{self._notice}\n".encode())
