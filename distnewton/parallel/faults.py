"""Injected faults, off unless the environment asks: how slow, failing and dying ranks are rehearsed.

``DISTNEWTON_FAULT="rank=1 at=cg kind=slow factor=5"`` makes every CG step of rank 1 take five times as long. Kinds:
``slow`` (with ``factor``), ``raise``, ``exit`` (SystemExit), ``kill`` (SIGKILL). ``at`` names a point of the code:
``data``, ``gradient``, ``cg``, ``line_search``; ``skip=N`` lets the first N passes go by.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time

from distnewton.errors import ConfigError

VARIABLE = "DISTNEWTON_FAULT"
CHECKPOINT_POINTS = (
    *(f"checkpoint_write.{point}" for point in (
        "before_part", "mid_part", "before_fsync", "before_manifest", "before_rename", "after_rename"
    )),
    "checkpoint_read",
)  # fmt: skip
POINTS = ("data", "gradient", "cg", "line_search", *CHECKPOINT_POINTS)
KINDS = ("slow", "raise", "exit", "kill")


class InjectedFaultError(RuntimeError):
    """Raised on request, to see what a failing rank does to the others."""


class FaultInjector:
    """The fault that the environment asks for, if any."""

    def __init__(self) -> None:
        self._spec: dict[str, str] = {}
        self._passes = 0
        self._last = 0.0

    def arm(self, rank: int, text: str | None = None) -> None:
        """Read the request and keep it if it is meant for this rank.

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
        text = os.environ.get(VARIABLE, "") if text is None else text
        self._spec, self._passes = {}, 0
        if not text:
            return
        spec = dict(part.partition("=")[::2] for part in text.split())
        if (
            spec.get("at") not in POINTS
            or spec.get("kind") not in KINDS
            or not spec.get("rank", "").isdigit()
            or not spec.get("skip", "0").isdigit()
            or not re.fullmatch(r"[0-9]+\.?[0-9]*", spec.get("factor", "2"))
        ):
            raise ConfigError(
                f"{VARIABLE}={text!r} is not understood: expected rank=N at=({'|'.join(POINTS)}) "
                f"kind=({'|'.join(KINDS)}) [factor=F] [skip=N]",
                agreed=True,
            )
        if int(spec["rank"]) == rank:
            self._spec = spec

    def start(self, point: str) -> None:
        """Note the time at which repeated work starts, for ``slow``."""
        if self._spec.get("at") == point:
            self._last = time.perf_counter()

    def at(self, point: str) -> None:
        """Pass a point of the code; a no-op unless this rank's fault is set for it."""
        if self._spec.get("at") != point:
            return
        self._passes += 1
        if self._passes <= int(self._spec.get("skip", "0")):
            return
        kind = self._spec["kind"]
        if kind == "slow":
            now = time.perf_counter()
            time.sleep((now - self._last) * (float(self._spec.get("factor", "2")) - 1.0))
            self._last = time.perf_counter()
        elif kind == "raise":
            raise InjectedFaultError(f"injected at {point}")
        elif kind == "exit":
            sys.exit(3)
        else:
            os.kill(os.getpid(), signal.SIGKILL)


faults = FaultInjector()
"""The process's injector; a point costs one dictionary look-up when nothing is injected."""
