"""Signals that ask a run to stop: they set a flag, and the run looks at it after each iteration.

SIGTERM and SIGUSR1 are what batch systems send ahead of the end of a job, and users by ``kill`` and ``scancel``; SIGINT
is Ctrl-C, and SIGHUP comes from a terminal that is closed.
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
"""A second SIGINT within these is the same Ctrl-C, which reached a rank from the terminal and from its launcher."""


class StopSignals:
    """Notes signals instead of being ended by them, in a ``with``.

    A second SIGINT raises KeyboardInterrupt: whoever presses Ctrl-C twice does not wait. Further ones of the other
    signals change nothing, since a batch system and a launcher that forwards often send the same one twice. Signals
    that are ignored (``nohup``), or that the program itself handles, stay so; outside of the main thread all do. Python
    runs handlers between its own instructions: a signal that comes while MPI waits or BLAS computes is seen after that.

    Parameters
    ----------
    numbers : sequence of Signals
        The signals.
    notice : str
        Said on stderr when the first of them is SIGINT; empty for nothing.

    Attributes
    ----------
    received : str
        Name of the first signal that came, and SIGINT from when that came on; empty before.
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
            # print may be what was interrupted, and refuses to be called inside itself
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{self._notice}\n".encode())
