"""The scale by which runs are judged: a metric on one set of data, read from the records of iterations."""

from __future__ import annotations

import math
from collections.abc import Sequence

from distnewton.frozen import frozen
from distnewton.method.records import IterationRecord
from distnewton.models.metrics import LOWER_IS_BETTER, is_reached, metric_text

SETS = ("test", "validation", "train")
"""Sets of data; the first one that was measured judges a run."""


@frozen
class Scale:
    """A metric on a set. Values that were not measured are NaN, and count neither as good nor as bad.

    Attributes
    ----------
    metric : str
        ``accuracy``, ``auc`` or ``rmse``.
    which : str
        One of :data:`SETS`, or empty if none was measured.
    """

    metric: str
    which: str

    @classmethod
    def of_records(cls, metric: str, records: Sequence[IterationRecord]) -> Scale:
        """Make the scale of the first set that was measured."""
        scales = (cls(metric, which) for which in SETS)
        return next((scale for scale in scales if scale.values(records)), cls(metric, ""))

    @property
    def lower(self) -> bool:
        """Whether lower values are better."""
        return self.metric in LOWER_IS_BETTER

    @property
    def title(self) -> str:
        """Name of the metric, with the set."""
        return f"{self.which} {self.metric}"

    def of(self, record: IterationRecord) -> float:
        """Return the metric after an iteration."""
        return float(getattr(record, self.which).get(self.metric, math.nan))

    def error(self, record: IterationRecord) -> float | None:
        """Return the metric as an error, which is 1 minus the metric if more is better; None if it was not measured."""
        value = self.of(record)
        if math.isnan(value):
            return None
        return value if self.lower else 1.0 - value

    def values(self, records: Sequence[IterationRecord]) -> list[float]:
        """Return the metric after each iteration at which it was measured."""
        return [value for value in map(self.of, records) if not math.isnan(value)]

    def best(self, records: Sequence[IterationRecord]) -> float:
        """Return the best metric of a run."""
        return (min if self.lower else max)(self.values(records), default=math.nan)

    def seconds_to(self, records: Sequence[IterationRecord], level: float) -> float:
        """Return the training seconds until a run reached a level; inf if it did not."""
        reached = (record for record in records if is_reached(self.metric, self.of(record), level))
        return next((record.training_seconds for record in reached), math.inf)

    def cost(self, value: float) -> float:
        """Return a number that is lower for better values; inf if the value was not measured."""
        return math.inf if math.isnan(value) else value if self.lower else -value

    def text(self, value: float) -> str:
        """Write a value as tables show it."""
        return metric_text(self.metric, value)
