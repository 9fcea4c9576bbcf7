"""Signals that ask a run to stop: they set a flag, and the run looks at it after each iteration.

SIGTERM and SIGUSR1 are what batch systems send ahead of the end of a job, and users by ``kill`` and ``scancel``.
"""

from __future__ import annotations

import signal
from types import FrameType
from typing import Self

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopSignals:
    """Notes signals instead of being ended by them, in a ``with``; on the main thread only.

    Further ones change nothing: a batch system and a launcher that forwards often send the same signal twice. Whoever
    cannot wait for the end of the iteration sends SIGINT or SIGKILL. Python runs handlers between its own instructions:
    a signal that comes while MPI waits or BLAS computes is seen after that.

    Attributes
    ----------
    received : str
        Name of the first signal that came; empty before.
    """

    def __init__(self) -> None:
        self.received = ""
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        for number in STOP_SIGNALS:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number).name
