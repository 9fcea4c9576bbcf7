"""Costs of each phase of an iteration: seconds, seconds inside MPI, bytes and messages sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

PHASES = ("gradient", "jacobian", "direction", "combination", "line_search", "evaluation", "other")
"""Phases of an iteration; ``other`` is the time between them."""
OUTER_PHASES = ("config", "data", "allocate", "init", "checkpoint_read", "finalise")
"""Phases outside the iterations; reports of failures name them, and their costs count as ``other``."""
_CHARGED = {**{name: name for name in PHASES}, **dict.fromkeys(OUTER_PHASES, "other")}


@dataclass
class PhaseCost:
    """Cost of one phase on this rank.

    Attributes
    ----------
    seconds : float
        Elapsed time, waiting included.
    wait_seconds : float
        Time inside MPI calls, for transfer and waiting for other ranks.
    sent_bytes : float
        Bytes that this rank sends by the cost model of :func:`allreduce_bytes`.
    n_messages : int
        Number of MPI calls that move data.
    """

    seconds: float = 0.0
    wait_seconds: float = 0.0
    sent_bytes: float = 0.0
    n_messages: int = 0


def _ignore(phase: str) -> None:
    """Do nothing; it is a named function because ledgers are pickled with models."""


@dataclass
class Ledger:
    """Costs by phase since the last :meth:`take`; a rank has one ledger, which all its communicators share."""

    costs: dict[str, PhaseCost] = field(default_factory=dict)
    current: str = "other"
    waited: float = 0.0  # total seconds inside MPI calls
    failed: str = ""  # the innermost phase that an exception has left, for the report
    on_phase: Callable[[str], object] = _ignore  # called with each phase as it begins

    def __post_init__(self) -> None:
        self.take()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge the costs of the ``with`` body to a phase; an inner phase interrupts an outer one.

        Parameters
        ----------
        name : str
            One of :data:`PHASES` or :data:`OUTER_PHASES`.

        Yields
        ------
        None
        """
        charged = _CHARGED[name]
        outer, self.current, self.failed = self.current, name, ""
        start = time.perf_counter()
        try:
            self.on_phase(name)
            yield
        except BaseException:
            self.failed = self.failed or name
            raise
        finally:
            elapsed = time.perf_counter() - start
            self.current = outer
            self.costs[charged].seconds += elapsed
            self._current_cost().seconds -= elapsed
            # the time outside of phases is not measured
            self.costs["other"].seconds = 0.0

    def charge(self, sent_bytes: float, wait_seconds: float) -> None:
        """Add one message to the current phase."""
        cost = self._current_cost()
        cost.sent_bytes += sent_bytes
        cost.wait_seconds += wait_seconds
        cost.n_messages += 1
        self.waited += wait_seconds

    def wait(self, seconds: float) -> None:
        """Add waiting time to the current phase, for a message that has already been charged."""
        self._current_cost().wait_seconds += seconds
        self.waited += seconds

    def _current_cost(self) -> PhaseCost:
        return self.costs[_CHARGED[self.current]]

    def take(self) -> dict[str, PhaseCost]:
        """Return the costs so far and start anew."""
        taken, self.costs = self.costs, {name: PhaseCost() for name in PHASES}
        return taken


def allreduce_bytes(n_bytes: float, n_ranks: int) -> float:
    """Return the bytes that each of p ranks must send to sum ``n_bytes`` over all: 2 (p - 1) / p times ``n_bytes``."""
    return 2.0 * (n_ranks - 1) / n_ranks * n_bytes
