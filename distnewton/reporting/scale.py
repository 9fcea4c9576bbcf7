"""What runs are judged by: a metric of one set of data, read from the records of their iterations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from distnewton.method.records import IterationRecord
from distnewton.models.metrics import LOWER_IS_BETTER, is_reached, metric_text

SETS = ("test", "validation", "train")
"""Sets of data, of which the first that was measured says most of a run."""


@dataclass(frozen=True)
class Scale:
    """A metric of a set. What was not measured is NaN, and counts neither as good nor as bad.

    Attributes
    ----------
    metric : str
        ``accuracy``, ``auc`` or ``rmse``.
    which : str
        One of :data:`SETS`, or empty where none was measured.
    """

    metric: str
    which: str

    @classmethod
    def of_records(cls, metric: str, records: Sequence[IterationRecord]) -> Scale:
        """The scale of the set that says most of a run."""
        scales = (cls(metric, which) for which in SETS)
        return next((scale for scale in scales if scale.values(records)), cls(metric, ""))

    @property
    def lower(self) -> bool:
        """Whether less is better."""
        return self.metric in LOWER_IS_BETTER

    @property
    def title(self) -> str:
        """Name of the metric, with the set."""
        return f"{self.which} {self.metric}"

    def of(self, record: IterationRecord) -> float:
        """The metric after an iteration."""
        return float(getattr(record, self.which).get(self.metric, math.nan))

    def error(self, record: IterationRecord) -> float | None:
        """The metric as an error, what is missing to 1 where more is better; None where it was not measured."""
        value = self.of(record)
        if math.isnan(value):
            return None
        return value if self.lower else 1.0 - value

    def values(self, records: Sequence[IterationRecord]) -> list[float]:
        """The metric after each iteration at which it was measured."""
        return [value for value in map(self.of, records) if not math.isnan(value)]

    def best(self, records: Sequence[IterationRecord]) -> float:
        """Best metric of a run."""
        return (min if self.lower else max)(self.values(records), default=math.nan)

    def seconds_to(self, records: Sequence[IterationRecord], level: float) -> float:
        """Training seconds until a run has reached a level; inf if it has not."""
        reached = (record for record in records if is_reached(self.metric, self.of(record), level))
        return next((record.training_seconds for record in reached), math.inf)

    def cost(self, value: float) -> float:
        """A number that is the lower the better a value is; inf of what was not measured."""
        return math.inf if math.isnan(value) else value if self.lower else -value

    def text(self, value: float) -> str:
        """A value as tables show it."""
        return metric_text(self.metric, value)
