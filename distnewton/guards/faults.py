"""Injected faults, off unless the environment requests one, to test slow, failing and dying ranks.

``DISTNEWTON_FAULT="rank=1 at=cg iter=3 kind=kill"`` ends rank 1 by SIGKILL in the CG of iteration 3. ``at`` names a
point of :data:`POINTS`: the beginning of a phase of the ledger, ``cg`` (a CG step after which a rank checks whether it
may stop early), ``all`` (all of a rank's work, for ``slow``), or a step of writing a checkpoint. ``kind`` says what
happens there:

=================================  =====================================================================================
``raise, exit, _exit, interrupt``  an exception, ``sys.exit(3)``, ``os._exit(3)``, KeyboardInterrupt
``kill, segv, stop``               this signal to the process itself; a stopped process no longer answers
``mpi-error, memory-error``        a message to a rank that does not exist; MemoryError
``enospc, eacces``                 OSError of a full disk, of a missing permission
``skip-collective, wrong-count``   the next sum over ranks is left out, or made with one number too many
``slow, sleep``                    CG steps, or all work, take ``factor`` times as long; a pause of ``seconds``
=================================  =====================================================================================

``iter=N`` waits for iteration N (0 is the start), ``skip=N`` skips the first N passes of the point. All but ``slow``
happen once. Tests that need numbers that are not finite write them into the arrays themselves.
"""

import errno
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, ValidationError

from distnewton.backend import Array
from distnewton.errors import ConfigError
from distnewton.guards.failures import failures
from distnewton.guards.ledger import OUTER_PHASES, PHASES, Ledger

VARIABLE = "DISTNEWTON_FAULT"
CHECKPOINT_WRITE_POINTS = tuple(
    f"checkpoint_write.{point}" for point in (
        "before_part", "mid_part", "before_fsync", "before_manifest", "before_rename", "after_rename"
    )
)  # fmt: skip
EVERYWHERE = "all"
POINTS = (*OUTER_PHASES, *PHASES[:-1], "cg", EVERYWHERE, *CHECKPOINT_WRITE_POINTS)
MESSAGE = "message"
"""Point before each message, at which a slow rank prolongs the work before it."""


class InjectedFaultError(RuntimeError):
    """Raised on request, to test what a failing rank does to the others."""


_SIGNALS = {"kill": signal.SIGKILL, "segv": signal.SIGSEGV, "stop": signal.SIGSTOP}
_ERRORS: dict[str, Callable[[str], BaseException]] = {
    "raise": InjectedFaultError,
    "memory-error": MemoryError,
    "interrupt": lambda _: KeyboardInterrupt(),
    "exit": lambda _: SystemExit(3),
    "enospc": lambda _: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "eacces": lambda _: OSError(errno.EACCES, os.strerror(errno.EACCES)),
}
_WRONG_SUMS = ("skip-collective", "wrong-count")
KINDS = (*_ERRORS, *_SIGNALS, "_exit", "mpi-error", *_WRONG_SUMS, "slow", "sleep")


def _one_of(names: tuple[str, ...]) -> str:
    return f"^({'|'.join(names)})$"


class Fault(BaseModel):
    """A fault that the environment requests.

    Attributes
    ----------
    rank : int
        Rank on which it happens.
    at, kind : str
        One of :data:`POINTS` and of :data:`KINDS`.
    iter : int or None
        Iteration to wait for; None takes any.
    skip : int
        Number of passes of the point that are skipped.
    factor, seconds : float
        Slowdown of ``slow``, and duration of ``sleep``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    rank: NonNegativeInt
    at: Annotated[str, Field(pattern=_one_of(POINTS))]
    kind: Annotated[str, Field(pattern=_one_of(KINDS))]
    iter: NonNegativeInt | None = None
    skip: NonNegativeInt = 0
    factor: NonNegativeFloat = 2.0
    seconds: NonNegativeFloat = 1.0


class FaultInjector:
    """The fault that the environment requests, if any.

    Attributes
    ----------
    wrong_sum : str
        What will be wrong with the next sum over ranks: ``skip-collective``, ``wrong-count``, or empty.
    """

    def __init__(self) -> None:
        self._fault: Fault | None = None
        self._n_passes = 0
        self._last_pass, self._ledger = 0.0, Ledger()
        self._environment = ""
        self.wrong_sum = ""

    def arm(self, rank: int, ledger: Ledger, text: str | None = None) -> None:
        """Read the request and keep it if it is meant for this rank.

        Parameters
        ----------
        rank : int
            This process's rank.
        ledger : Ledger
            Ledger whose phases become points.
        text : str or None
            The request, by default from the environment variable. A fault that is already armed stays as it is.

        Raises
        ------
        ConfigError
            If the request is not understood.
        """
        ledger.on_phase, self._ledger = self.at, ledger
        if text is None:
            text = os.environ.get(VARIABLE, "")
            if text == self._environment:
                return
            self._environment = text
        fault = _parse(text) if text else None
        self._fault = fault if fault is not None and fault.rank == rank else None
        self._n_passes, self.wrong_sum = 0, ""
        self._last_pass = time.perf_counter() - ledger.waited

    def at(self, point: str) -> None:
        """Pass a point of the code; do nothing unless this rank's fault is set for it.

        Parameters
        ----------
        point : str
            One of :data:`POINTS`, or :data:`MESSAGE`.

        Raises
        ------
        InjectedFaultError
            On request; so are the others below.
        MemoryError, OSError, KeyboardInterrupt, SystemExit
            As their kinds say.
        """
        fault = self._fault
        if fault is None:
            return
        if self._is_due(fault, point):
            self._do(fault)
        self._last_pass = time.perf_counter() - self._ledger.waited

    def _is_due(self, fault: Fault, point: str) -> bool:
        """Whether the fault is set for this pass."""
        if fault.at not in {point, EVERYWHERE} or fault.iter not in {None, failures.current_iteration}:
            return False
        self._n_passes += 1
        return self._n_passes > fault.skip

    def _do(self, fault: Fault) -> None:
        if fault.kind == "slow":
            # the time since the last point is that of a CG step, the beginning of a phase, or work before a message
            worked = time.perf_counter() - self._ledger.waited - self._last_pass
            time.sleep(max(0.0, worked) * (fault.factor - 1.0))
            return
        self._fault = None
        if fault.kind == "sleep":
            time.sleep(fault.seconds)
        elif fault.kind in _WRONG_SUMS:
            self.wrong_sum = fault.kind
        else:
            _end_rank(fault)

    def spoil(self, array: Array) -> Array | None:
        """Return the array to sum instead when a sum shall go wrong; None leaves the sum out. Happens once."""
        kind, self.wrong_sum = self.wrong_sum, ""
        return None if kind == "skip-collective" else np.zeros(array.size + 1, array.dtype)


def _end_rank(fault: Fault) -> None:
    mpi = sys.modules.get("mpi4py.MPI")
    if fault.kind in _SIGNALS:
        os.kill(os.getpid(), _SIGNALS[fault.kind])
    elif fault.kind == "_exit":
        os._exit(3)
    elif fault.kind == "mpi-error" and mpi is not None:
        mpi.COMM_WORLD.Send(bytearray(1), dest=mpi.COMM_WORLD.Get_size() + 99)
    else:
        raise _ERRORS.get(fault.kind, InjectedFaultError)(f"injected at {fault.at}")


def _parse(text: str) -> Fault:
    """Parse a request; an error is raised on every rank alike."""
    try:
        fault = Fault.model_validate(dict(part.partition("=")[::2] for part in text.split()))
    except ValidationError:
        raise ConfigError(
            f"{VARIABLE}={text!r} is not understood: expected rank=N at=({'|'.join(POINTS)}) "
            f"kind=({'|'.join(KINDS)}) [iter=N] [skip=N] [factor=F] [seconds=S]",
            collective=True,
        ) from None
    fits = fault.at in {"cg", EVERYWHERE} if fault.kind == "slow" else fault.at != EVERYWHERE
    if not fits:
        raise ConfigError(
            f"{VARIABLE}={text!r}: kind=slow is for at=cg (CG steps) and at=all (all work), and at=all for kind=slow; "
            "kind=sleep seconds=S holds a rank up elsewhere",
            collective=True,
        )
    return fault


faults = FaultInjector()
"""The injector of this process; without a fault, a point costs one comparison."""
