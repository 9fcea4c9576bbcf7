"""Whether one rank keeps all others waiting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

THRESHOLD = 0.2
"""Share of the training time from which on a rank is named."""
_LEAST_SECONDS = 0.05


@dataclass(frozen=True)
class Slowest:
    """The rank that computed longest.

    Attributes
    ----------
    rank : int
        Which.
    seconds : float
        By how much it computed longer than the median of the others.
    share : float
        The same as a share of the training time.
    ratio : float
        Its computing time over that of the median of the others.
    """

    rank: int
    seconds: float
    share: float
    ratio: float

    def text(self, hosts: Sequence[str] = ()) -> str:
        """Say who it is and what it costs."""
        host = f" on {hosts[self.rank]}" if self.rank < len(hosts) and len(set(hosts)) > 1 else ""
        return (
            f"rank {self.rank}{host} is the slowest: it computes {self.ratio:.1f} times as long as the others, which "
            f"costs {100 * self.share:.0f} % of the training time ({self.seconds:.1f} s); look what else runs there, "
            "or give it less (partition.splits)"
        )


def slowest_rank(compute_seconds: Sequence[Sequence[float]], training_seconds: float) -> Slowest | None:
    """The rank that costs more than 20 % of the time.

    Parameters
    ----------
    compute_seconds : sequence of sequence of float
        By iteration and rank, as recorded.
    training_seconds : float
        Of these iterations.

    Returns
    -------
    Slowest or None
        None where no rank costs so much, with one rank, or where nothing was recorded.
    """
    rows = [row for row in compute_seconds if row]
    if not rows or len(rows[0]) < 2 or training_seconds <= 0.0:
        return None
    totals = [sum(column) for column in zip(*rows, strict=True)]
    rank = max(range(len(totals)), key=totals.__getitem__)
    others = median(total for i, total in enumerate(totals) if i != rank)
    lost = totals[rank] - others
    if lost < THRESHOLD * training_seconds or lost < _LEAST_SECONDS:
        return None
    return Slowest(rank, lost, min(1.0, lost / training_seconds), totals[rank] / max(others, 1e-9))
