"""Subsets of the samples of a data set, and a cache to read a data set once for several subsets."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from distnewton.data.description import DataSource, Description

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from distnewton.data.description import Features
    from distnewton.data.row_selection import Chosen


class CachedSource:
    """A data source that keeps the features it has read, which saves subsets from parsing the file again.

    Parameters
    ----------
    source : DataSource
        The data.
    description : Description
        Its description, already known.
    """

    def __init__(self, source: DataSource, description: Description) -> None:
        self._source, self._description = source, description
        self._read: dict[tuple[int, int, str], Any] = {}

    @property
    def name(self) -> str:
        """Path or name, for messages."""
        return self._source.name

    def describe(self) -> Description:
        """The known description."""
        return self._description

    def read(self, start: int, stop: int, dtype: DTypeLike = "float64", rows: Chosen | None = None) -> Features:
        """Read a range of features once, with all samples; callers must not change the result."""
        key = start, stop, str(np.dtype(dtype))
        if any(kept[0] <= start <= stop <= kept[1] and kept[2] != key[2] for kept in self._read):
            # part of the kept range in another precision: read it without keeping it
            return self._source.read(start, stop, dtype, rows)
        if key not in self._read:
            # another range, for example of another grid, replaces the last one
            self._read = {key: self._source.read(start, stop, dtype)}
        features: Features = self._read[key]
        return features if rows is None else features[rows]

    def forget(self) -> None:
        """Free the features that were read."""
        self._read = {}

    def locate(self, i_sample: int) -> str:
        """Describe the position of a sample."""
        return self._source.locate(i_sample)


class Subset:
    """Some samples of a data set.

    Parameters
    ----------
    whole : CachedSource
        The data set.
    rows : ndarray of int64 of shape (n_samples,)
        Its samples, in this order.
    name : str
        Name of the subset, for messages.
    """

    def __init__(self, whole: CachedSource, rows: NDArray[np.int64], name: str) -> None:
        self._whole, self._rows, self.name = whole, rows, name

    def describe(self) -> Description:
        """Size and labels of these samples; non-zeros are estimated in proportion to the number of samples."""
        whole = self._whole.describe()
        share = len(self._rows) / whole.n_samples
        return replace(
            whole,
            name=self.name,
            n_samples=len(self._rows),
            n_nonzeros=round(share * whole.n_nonzeros),
            n_ignored_values=round(share * whole.n_ignored_values),
            labels=whole.labels[self._rows],
            weights=None if whole.weights is None else whole.weights[self._rows],
            notes=[],
        )

    def read(self, start: int, stop: int, dtype: DTypeLike = "float64", rows: Chosen | None = None) -> Features:
        """Copy a range of features of all or some of these samples."""
        return self._whole.read(start, stop, dtype, self._rows if rows is None else self._rows[rows])

    def locate(self, i_sample: int) -> str:
        """Describe the position of a sample in the whole data set."""
        return self._whole.locate(int(self._rows[i_sample]))
