"""Some samples of a data set as a data set of their own, and a data set that is read once for several of them."""

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
    """A data source that keeps what it has read, so that parts of it need not parse the file anew.

    Parameters
    ----------
    source : DataSource
        The data.
    description : Description
        Of it, known already.
    """

    def __init__(self, source: DataSource, description: Description) -> None:
        self._source, self._description = source, description
        self._read: dict[tuple[int, int, str], Any] = {}

    @property
    def name(self) -> str:
        """Path or name, as it appears in messages."""
        return self._source.name

    def describe(self) -> Description:
        """The known description."""
        return self._description

    def read(self, start: int, stop: int, dtype: DTypeLike = "float64", rows: Chosen | None = None) -> Features:
        """A range of features, read once with all samples; not to be changed."""
        key = start, stop, str(np.dtype(dtype))
        if any(kept[0] <= start <= stop <= kept[1] and kept[2] != key[2] for kept in self._read):
            # a part of what is kept, in another precision
            return self._source.read(start, stop, dtype, rows)
        if key not in self._read:
            # another range, say of another grid, takes the place of the last one
            self._read = {key: self._source.read(start, stop, dtype)}
        features: Features = self._read[key]
        return features if rows is None else features[rows]

    def forget(self) -> None:
        """Free what was read."""
        self._read = {}

    def locate(self, i_sample: int) -> str:
        """Where a sample stands."""
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
        As it appears in messages.
    """

    def __init__(self, whole: CachedSource, rows: NDArray[np.int64], name: str) -> None:
        self._whole, self._rows, self.name = whole, rows, name

    def describe(self) -> Description:
        """Size and labels of these samples; of their non-zeros the mean share."""
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
        """A copy of a range of features of these samples, or of some of them."""
        return self._whole.read(start, stop, dtype, self._rows if rows is None else self._rows[rows])

    def locate(self, i_sample: int) -> str:
        """Where a sample stands in the whole data set."""
        return self._whole.locate(int(self._rows[i_sample]))
