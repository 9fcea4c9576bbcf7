"""What the iterations of a run took: the same figures on the terminal, on the page and in comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distnewton.method.records import IterationRecord

_MEGABYTE = 1e6


@dataclass(frozen=True)
class Totals:
    """What iterations took, without the evaluation of metrics.

    Attributes
    ----------
    seconds : float
        Of training.
    waited : float
        Seconds of it in MPI, the mean over the ranks.
    sent : float
        Megabytes, over all ranks.
    n_directions, n_early : int
        Directions that were sought, and those of them that ended early.
    """

    seconds: float
    waited: float
    sent: float
    n_directions: int
    n_early: int

    @classmethod
    def of(cls, records: Sequence[IterationRecord], before: float = 0.0) -> Totals:
        """Add up records, of which there may be none; `before` are the seconds of an earlier launch."""
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
        """The waiting as a share of the seconds."""
        return self.waited / self.seconds if self.seconds > 0.0 else 0.0

    @property
    def waiting(self) -> str:
        """The waiting in words."""
        return f"{self.waited:.2f} s ({100 * self.share_waited:.0f} %)"

    @property
    def traffic(self) -> str:
        """What was sent, in words."""
        return f"{self.sent:,.1f} MB" if self.sent < 1e4 else f"{self.sent / 1e3:,.1f} GB"
