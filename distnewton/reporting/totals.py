"""Total costs of the iterations of a run, as shown on the terminal, on the page and in comparisons."""

from __future__ import annotations

from collections.abc import Sequence

from distnewton.frozen import frozen
from distnewton.method.records import IterationRecord

_MEGABYTE = 1e6


@frozen
class Totals:
    """Total costs of iterations, without the evaluation of metrics.

    Attributes
    ----------
    seconds : float
        Seconds of training.
    waited : float
        Seconds inside MPI, averaged over the ranks.
    sent : float
        Megabytes sent by all ranks.
    n_directions, n_early : int
        Number of directions, and of those that ended early.
    """

    seconds: float
    waited: float
    sent: float
    n_directions: int
    n_early: int

    @classmethod
    def of(cls, records: Sequence[IterationRecord], before: float = 0.0) -> Totals:
        """Add up records, possibly none; `before` is the number of seconds of an earlier launch."""
        directions = [record.direction for record in records if record.direction is not None]
        return cls(
            records[-1].training_seconds - before if records else 0.0,
            sum(sum(record.wait_seconds) / len(record.wait_seconds) for record in records if record.wait_seconds),
            sum(record.training_bytes for record in records) / _MEGABYTE,
            len(directions),
            sum(direction.stopped_early for direction in directions),
        )

    @property
    def share_waited(self) -> float:
        """Waiting, as a share of the seconds."""
        return self.waited / self.seconds if self.seconds > 0.0 else 0.0

    @property
    def waiting(self) -> str:
        """Waiting, as text."""
        return f"{self.waited:.2f} s ({100 * self.share_waited:.0f} %)"

    @property
    def traffic(self) -> str:
        """Traffic, as text."""
        return f"{self.sent:,.1f} MB" if self.sent < 1e4 else f"{self.sent / 1e3:,.1f} GB"
