"""Encoding of missing values and categories as numbers, fitted on the training data and stored with the model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from distnewton.frozen import frozen

MISSING_RULES = ("auto", "refuse", "mean", "median", "indicator")
CATEGORY_RULES = ("auto", "refuse", "onehot")
NO_FILL = (
    "is missing, but the model was trained on a table without missing values: fill it in, remove this sample, or train "
    "again with data.missing = median"
)
"""Of a value in a table that is to be read as the training data."""
MOST_CATEGORIES = 100
"""Number of distinct texts above which a column counts as identifiers, unless each text occurs ten times on average."""

_FEW = 64
"""Number of rows up to which Python is faster than an Arrow call; short tables may have very many columns."""


@frozen
class ColumnEncoding:
    """How one column becomes numbers.

    Attributes
    ----------
    categories : tuple of str or None
        Texts sorted by code points; each becomes a column of 0 and 1. None for a column of numbers.
    fill : float
        Replacement for a missing number.
    indicator : bool
        Whether an additional last column is 1 where the value is missing.
    """

    categories: tuple[str, ...] | None = None
    fill: float = 0.0
    indicator: bool = False

    @property
    def width(self) -> int:
        """Number of features that encode the column."""
        return (1 if self.categories is None else len(self.categories)) + self.indicator

    def encode(self, column: Any, X: NDArray[np.float64]) -> int:
        """Write the features of an Arrow column into an array of zeros.

        Parameters
        ----------
        column : pyarrow.Array
            Values of type float64 or text; null where missing.
        X : ndarray of float64 of shape (n_rows, width)
            Zeros on entry; an unknown category leaves all columns at 0.

        Returns
        -------
        int
            Number of values that are not a known category.
        """
        if self.categories is None:
            missing = column.is_null().to_numpy(zero_copy_only=False)
            X[:, 0] = np.where(missing, self.fill, column.to_numpy(zero_copy_only=False))
            n_unknown = 0
        else:
            texts, codes = coded_texts(column)
            places = {None: -1} | {text: k for k, text in enumerate(self.categories)}
            known = np.array([places.get(text, -2) for text in texts], np.intp)[codes]
            rows = (known >= 0).nonzero()[0]
            X[rows, known[rows]] = 1.0
            missing, n_unknown = known == -1, int((known == -2).sum())
        if self.indicator:
            X[:, -1] = missing
        return n_unknown


def coded_texts(column: Any) -> tuple[list[str | None], NDArray[np.intp]]:
    """Find the distinct texts of a column, and the number of the text in each row.

    Parameters
    ----------
    column : pyarrow.Array
        Texts; null where missing.

    Returns
    -------
    list of (str or None)
    ndarray of intp of shape (n_rows,)
    """
    if len(column) < _FEW:
        values = column.to_pylist()
        place_of = {text: k for k, text in enumerate(dict.fromkeys(values))}
        return list(place_of), np.array([place_of[text] for text in values], np.intp)
    coded = column.dictionary_encode(null_encoding="encode")
    return coded.dictionary.to_pylist(), coded.indices.to_numpy().astype(np.intp)


StoredColumn = Annotated[
    tuple[list[str] | None, Annotated[float, Field(allow_inf_nan=False)], bool], Field(strict=False)
]
"""A column as :meth:`TableEncoding.to_json` writes it; JSON turns the tuple into a list."""


@frozen
class TableEncoding:
    """How the columns of a table become features.

    Attributes
    ----------
    columns : tuple of ColumnEncoding
        One for each non-label column, in order.
    """

    columns: tuple[ColumnEncoding, ...]

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """First feature of each column, followed by the number of features, (n_columns + 1,)."""
        return np.cumsum([0, *(column.width for column in self.columns)])

    @property
    def n_features(self) -> int:
        """Features of all columns."""
        return int(self.starts[-1])

    def covering(self, start: int, stop: int) -> range:
        """Columns with at least one feature in a range."""
        if start >= stop:
            return range(0)
        first = int(np.searchsorted(self.starts, start, side="right")) - 1
        return range(first, int(np.searchsorted(self.starts, stop, side="left")))

    def feature_names(self, names: Sequence[str]) -> list[str]:
        """Names of the features: ``island=Dream``, ``age``, ``age (missing)``."""
        found = []
        for name, column in zip(names, self.columns, strict=True):
            found += [name] if column.categories is None else [f"{name}={category}" for category in column.categories]
            found += [f"{name} (missing)"] * column.indicator
        return found

    def to_json(self) -> list[Any]:
        """Plain values for JSON."""
        return [
            [None if column.categories is None else list(column.categories), column.fill, column.indicator]
            for column in self.columns
        ]

    @classmethod
    def from_json(cls, values: Iterable[Any] | None) -> TableEncoding | None:
        """Undo :meth:`to_json`; None stays None."""
        if values is None:
            return None
        return cls(tuple(ColumnEncoding(c if c is None else tuple(c), float(f), bool(i)) for c, f, i in values))


def fill_value(values: NDArray[np.float64], rule: str) -> float:
    """Compute the replacement for the missing numbers of a column.

    Parameters
    ----------
    values : ndarray of float64 of shape (n_samples,)
        NaN where missing.
    rule : str
        ``mean`` for the mean; anything else for the median.

    Returns
    -------
    float
        The mean or median of the present values; 0 if all are missing.
    """
    there = values[~np.isnan(values)]
    if not there.size:
        return 0.0
    return float(there.mean() if rule == "mean" else np.median(there))
