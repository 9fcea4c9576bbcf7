"""Injected faults, off unless the environment asks: how slow, failing, dying and lying ranks are rehearsed.

``DISTNEWTON_FAULT="rank=1 at=cg iter=3 kind=kill"`` ends rank 1 by SIGKILL in the CG of iteration 3. ``at`` names a
point of :data:`POINTS`, ``kind`` what happens there:

=================================  =====================================================================================
``raise, exit, _exit, interrupt``  an exception, ``sys.exit(3)``, ``os._exit(3)``, KeyboardInterrupt
``kill, segv, stop``               this signal to the process itself; a process that is stopped answers nobody any more
``mpi-error, memory-error``        a message to a rank that does not exist; MemoryError
``enospc, eacces``                 OSError of a full disk, of a missing permission
``nan, inf``                       one of the numbers that are at hand at the point is overwritten
``skip-collective, wrong-count``   the next sum over ranks is left out, or made with one number too many
``slow, sleep``                    CG steps take ``factor`` times as long; a pause of ``seconds`` anywhere
=================================  =====================================================================================

``iter=N`` waits for iteration N (0 is the start), ``skip=N`` lets the first N passes go by. All but ``slow`` happen
once.
"""

from __future__ import annotations

import errno
import math
import os
import re
import signal
import sys
import time
from typing import Any

from distnewton.errors import ConfigError
from distnewton.guards.failures import failures

VARIABLE = "DISTNEWTON_FAULT"
CHECKPOINT_POINTS = (
    *(f"checkpoint_write.{point}" for point in (
        "before_part", "mid_part", "before_fsync", "before_manifest", "before_rename", "after_rename"
    )),
    "checkpoint_read",
)  # fmt: skip
POINTS = (
    "config", "data", "allocate", "init", "forward", "gradient", "jacobian", "cg", "line_search", "finalise",
    *CHECKPOINT_POINTS,
)  # fmt: skip
WITH_NUMBERS = ("data", "init", "forward", "gradient", "jacobian", "cg")
"""Points at which there are numbers to overwrite."""
KINDS = (
    "raise", "exit", "_exit", "interrupt", "kill", "segv", "stop", "mpi-error", "memory-error", "enospc", "eacces",
    "nan", "inf", "skip-collective", "wrong-count", "slow", "sleep",
)  # fmt: skip
_SIGNALS = {"kill": signal.SIGKILL, "segv": signal.SIGSEGV, "stop": signal.SIGSTOP}
_NUMBER = r"[0-9]+\.?[0-9]*"
_FORMS = {"rank": r"[0-9]+", "iter": r"[0-9]+", "skip": r"[0-9]+", "factor": _NUMBER, "seconds": _NUMBER}


class InjectedFaultError(RuntimeError):
    """Raised on request, to see what a failing rank does to the others."""


class FaultInjector:
    """The fault that the environment asks for, if any.

    Attributes
    ----------
    pending : str
        What the next sum over ranks is to do wrong: ``skip-collective``, ``wrong-count``, or empty.
    """

    def __init__(self) -> None:
        self._spec: dict[str, str] = {}
        self._passes = 0
        self._last = 0.0
        self._environment = ""
        self.pending = ""

    def arm(self, rank: int, text: str | None = None) -> None:
        """Read the request and keep it if it is meant for this rank; a request that is armed already stays as it is.

        Parameters
        ----------
        rank : int
            This process's rank.
        text : str or None
            The request; by default the environment variable's.

        Raises
        ------
        ConfigError
            If the request is not understood.
        """
        if text is None:
            text = os.environ.get(VARIABLE, "")
            if text == self._environment:
                return
            self._environment = text
        self._spec, self._passes, self.pending = {}, 0, ""
        if not text:
            return
        spec = dict(part.partition("=")[::2] for part in text.split())
        point, kind = spec.get("at"), spec.get("kind")
        wrong = point not in POINTS or kind not in KINDS or "rank" not in spec
        wrong |= any(not re.fullmatch(form, spec.get(key, "1")) for key, form in _FORMS.items())
        wrong |= not spec.keys() <= {"at", "kind", *_FORMS}
        if wrong:
            raise ConfigError(
                f"{VARIABLE}={text!r} is not understood: expected rank=N at=({'|'.join(POINTS)}) "
                f"kind=({'|'.join(KINDS)}) [iter=N] [skip=N] [factor=F] [seconds=S]",
                collective=True,
            )
        if kind == "slow" and point != "cg":
            raise ConfigError(
                f"{VARIABLE}={text!r}: only the steps of cg are timed to be slowed; kind=sleep seconds=S holds a rank "
                "up elsewhere",
                collective=True,
            )
        if kind in ("nan", "inf") and point not in WITH_NUMBERS:
            raise ConfigError(
                f"{VARIABLE}={text!r}: there are no numbers at {point}, but at {', '.join(WITH_NUMBERS)}",
                collective=True,
            )
        if int(spec["rank"]) == rank:
            self._spec = spec

    def start(self, point: str) -> None:
        """Note the time at which repeated work starts, for ``slow``."""
        if self._spec.get("at") == point:
            self._last = time.perf_counter()

    def at(self, point: str, *arrays: Any) -> None:
        """Pass a point of the code; a no-op unless this rank's fault is set for it.

        Parameters
        ----------
        point : str
            One of :data:`POINTS`.
        arrays : Array
            Numbers at hand, dense or sparse, of which ``nan`` and ``inf`` overwrite one.

        Raises
        ------
        InjectedFaultError
            On request; so are the others below.
        MemoryError, OSError, KeyboardInterrupt, SystemExit
            As their kinds say.
        """
        if self._spec.get("at") != point:
            return
        if "iter" in self._spec and int(self._spec["iter"]) != failures.current_iteration:
            return
        self._passes += 1
        if self._passes <= int(self._spec.get("skip", "0")):
            return
        kind = self._spec["kind"]
        if kind == "slow":
            now = time.perf_counter()
            time.sleep((now - self._last) * (float(self._spec.get("factor", "2")) - 1.0))
            self._last = time.perf_counter()
            return
        seconds = float(self._spec.get("seconds", "1"))
        # only where there are numbers is the fault used up
        if kind in ("nan", "inf") and not _overwrite(arrays, math.nan if kind == "nan" else math.inf):
            return
        self._spec = {}
        if kind in ("skip-collective", "wrong-count"):
            self.pending = kind
        elif kind == "sleep":
            time.sleep(seconds)
        elif kind not in ("nan", "inf"):
            _fail(kind, point)

    def take_pending(self) -> str:
        """What the next sum is to do wrong; asked once."""
        pending, self.pending = self.pending, ""
        return pending


def _overwrite(arrays: tuple[Any, ...], value: float) -> bool:
    """Overwrite the middle number of the first array that has one."""
    for array in arrays:
        numbers = getattr(array, "data", array) if hasattr(array, "indptr") else array
        if numbers.size:
            numbers[tuple(n // 2 for n in numbers.shape)] = value
            return True
    return False


def _fail(kind: str, point: str) -> None:
    """Fail in one of the ways that end a rank."""
    if kind in _SIGNALS:
        os.kill(os.getpid(), _SIGNALS[kind])
    elif kind == "exit":
        sys.exit(3)
    elif kind == "_exit":
        os._exit(3)
    elif kind == "interrupt":
        raise KeyboardInterrupt
    elif kind == "memory-error":
        raise MemoryError(f"injected at {point}")
    elif kind in ("enospc", "eacces"):
        number = errno.ENOSPC if kind == "enospc" else errno.EACCES
        raise OSError(number, os.strerror(number))
    elif kind == "mpi-error" and (mpi := sys.modules.get("mpi4py.MPI")) is not None:
        mpi.COMM_WORLD.Send(bytearray(1), dest=mpi.COMM_WORLD.Get_size() + 99)
    else:
        raise InjectedFaultError(f"injected at {point}")


faults = FaultInjector()
"""The process's injector; a point costs one dictionary look-up when nothing is injected."""
