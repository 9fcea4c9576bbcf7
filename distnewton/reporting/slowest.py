"""Find a rank that keeps all others waiting."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import numpy as np

from distnewton.frozen import frozen
from distnewton.method.records import IterationRecord

# share of the training time above which a rank is named
THRESHOLD = 0.2
_LEAST_SECONDS = 0.05


@frozen
class Slowest:
    """The rank that computed longest."""

    rank: int  # number of the rank
    seconds: float  # seconds that it computed longer than the median of the others
    share: float  # these seconds as a share of the training time
    ratio: float  # its computing time divided by the median of the others'

    def text(self, hosts: Sequence[str] = ()) -> str:
        """Say who it is and what it costs."""
        host = f" on {hosts[self.rank]}" if self.rank < len(hosts) and len(set(hosts)) > 1 else ""
        return (
            f"rank {self.rank}{host} is the slowest: it computes {self.ratio:.1f} times as long as the others, which "
            f"costs {100 * self.share:.0f} % of the training time ({self.seconds:.1f} s); see what else runs there, "
            "or give it less (partition.splits)"
        )


def slowest_rank(records: Sequence[IterationRecord], crowding: float = 1.0) -> Slowest | None:
    """Find a rank that costs more than 20 % of the time.

    Parameters
    ----------
    records : sequence of IterationRecord
        Iterations of a run. If the run resumed on another number of ranks, only the last ones count.
    crowding : float
        Number of ranks that share a core, at least 1: a rank may take that many times longer.

    Returns
    -------
    Slowest or None
        None if no rank costs that much, there is one rank, or nothing was recorded.
    """
    if not records:
        return None
    n_ranks, end = len(records[-1].compute_seconds), records[-1].training_seconds
    counted = list(takewhile(lambda record: len(record.compute_seconds) == n_ranks, reversed(records)))
    before = records[: -len(counted)]
    seconds = end - (before[-1].training_seconds if before else 0.0)
    if n_ranks < 2 or seconds <= 0.0:
        return None
    totals = np.sum([record.compute_seconds for record in counted], axis=0)
    rank = int(totals.argmax())
    others = float(np.median(np.delete(totals, rank)))
    lost = float(totals[rank]) - others
    ratio = float(totals[rank]) / max(others, 1e-9)
    if lost < max(THRESHOLD * seconds, _LEAST_SECONDS) or ratio <= crowding:
        return None
    return Slowest(rank, lost, min(1.0, lost / seconds), ratio)
