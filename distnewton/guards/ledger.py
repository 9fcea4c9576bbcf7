"""What each phase of an iteration cost: seconds, seconds waited in MPI, bytes and messages sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

PHASES = ("gradient", "jacobian", "direction", "combination", "line_search", "evaluation", "other")
"""What an iteration consists of; ``other`` is what lies between."""
OUTER_PHASES = ("config", "data", "allocate", "init", "checkpoint_read", "finalise")
"""What happens around the iterations: named in reports of failures, charged to ``other``."""
_CHARGED = {**{name: name for name in PHASES}, **dict.fromkeys(OUTER_PHASES, "other")}


@dataclass
class PhaseCost:
    """Cost of one phase on this rank.

    Attributes
    ----------
    seconds : float
        Elapsed time, waiting included.
    wait_seconds : float
        Time inside MPI calls: waiting for others and transfer.
    sent_bytes : float
        Bytes this rank sends by the cost model of :func:`allreduce_bytes`.
    n_messages : int
        MPI calls that move data.
    """

    seconds: float = 0.0
    wait_seconds: float = 0.0
    sent_bytes: float = 0.0
    n_messages: int = 0


def _ignore(phase: str) -> None:
    """Do nothing; a function with a name, since ledgers are pickled with models."""


@dataclass
class Ledger:
    """Costs by phase since the last :meth:`take`; one a rank, shared by all its communicators."""

    costs: dict[str, PhaseCost] = field(default_factory=dict)
    current: str = "other"
    waited: float = 0.0  # seconds inside MPI calls, ever
    failed: str = ""  # the innermost phase that an exception has left, for the report of it
    on_phase: Callable[[str], object] = _ignore  # told of each phase as it begins

    def __post_init__(self) -> None:
        self.take()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge what happens inside to a phase; phases do not nest in time.

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
        """Add to the waiting of the current phase, for a message that is charged already."""
        self._current_cost().wait_seconds += seconds
        self.waited += seconds

    def _current_cost(self) -> PhaseCost:
        return self.costs[_CHARGED[self.current]]

    def take(self) -> dict[str, PhaseCost]:
        """Return the costs so far and start anew."""
        taken, self.costs = self.costs, {name: PhaseCost() for name in PHASES}
        return taken


def allreduce_bytes(n_bytes: float, n_ranks: int) -> float:
    """Bytes a rank must send to sum ``n_bytes`` over ``n_ranks`` so that all have the result: 2 (p - 1) / p."""
    return 2.0 * (n_ranks - 1) / n_ranks * n_bytes
