"""A table with a column of 0 and 1 for each label; the labels are read from the same file like features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from distnewton.data.columns import ColumnNames, LabelsWanted
from distnewton.data.description import DataSource, Description
from distnewton.data.formats.tables import TableSource
from distnewton.errors import ConfigError, DataError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from distnewton.data.description import Features
    from distnewton.data.row_selection import Chosen

LABELS = "labels"
"""Name for the labels in models, which store a single name."""


class LabelColumns:
    """A table with several columns of labels.

    Parameters
    ----------
    open_file : callable
        Opens the table as :func:`~distnewton.data.sources.open_data` does, given how to read it.
    label_columns : sequence of str
        Names of the label columns; each value must be 0 or 1.
    ignored : sequence of (int or str)
        Columns that are neither features nor labels.
    names : ColumnNames or None
        Names in the training data, by which features are selected.
    labels : {"required", "if_there", "none"}
        Whether labels are required, optional or not read.
    """

    def __init__(
        self, open_file: Callable[..., DataSource], label_columns: Sequence[str], ignored: Sequence[int | str],
        names: ColumnNames | None, labels: LabelsWanted,
    ) -> None:  # fmt: skip
        found = open_file(names=ColumnNames((), ""), labels="none")
        if not isinstance(found, TableSource) or not found.columns:
            raise ConfigError(f"data.label_column lists columns by name, but {found.name} does not name its columns")
        there = [name for name in label_columns if name in found.columns]
        self._labels: DataSource | None = None
        if labels == "required" or (labels == "if_there" and there):
            self._labels = open_file(names=ColumnNames(tuple(label_columns), ""), labels="none")
        left_out = {} if names is not None else {"ignore_columns": [*ignored, *there]}
        table = open_file(names=names, labels="none" if names is not None else "apart", **left_out)
        assert isinstance(table, TableSource)  # noqa: S101  (as before)
        self._features: TableSource = table
        self.name, self._columns = table.name, list(label_columns)

    @property
    def reading_bytes(self) -> float:
        """Approximate memory that a rank needs for reading, besides the features."""
        return self._features.reading_bytes

    @property
    def unknown_notes(self) -> list[str]:
        """Columns with texts that did not occur in the training data."""
        return self._features.unknown_notes

    def adopt(self, names: ColumnNames | None) -> None:
        """Adopt an encoding of the columns."""
        self._features.adopt(names)

    def describe(self) -> Description:
        """Check features and labels."""
        table = self._features
        found = table.describe()
        names = ColumnNames(tuple(table.feature_columns()), LABELS, table.encoding)
        if self._labels is None:
            return replace(found, labelled=False, names=names)
        labels: Any = self._labels.read(0, len(self._columns), np.float64)
        wrong = np.argwhere((labels != 0) & (labels != 1))
        if len(wrong):
            i, k = wrong[0].tolist()
            raise DataError(
                f"{self.locate(i)}: the column {self._columns[k]} of a label must hold 0 or 1, got {labels[i, k]:g}"
            )
        return replace(found, labels=labels, labelled=True, names=names, classes=list(self._columns))

    def read(self, start: int, stop: int, dtype: DTypeLike = "float64", rows: Chosen | None = None) -> Features:
        """Read a range of features."""
        return self._features.read(start, stop, dtype, rows)

    def locate(self, i_sample: int) -> str:
        """Where a sample stands."""
        return self._features.locate(i_sample)

    def texts(self, column: int | str, setting: str) -> tuple[str, list[str]]:
        """A column as texts."""
        return self._features.texts(column, setting)
