"""Samples that a rank wants of a source, as its blocks come along."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Chosen = NDArray[np.intp]
"""Ascending numbers of samples, from 0."""


class RowSelection:
    """Where the samples of a block go in the result.

    Parameters
    ----------
    rows : Array of int or None
        Ascending numbers of the samples wanted; None for all.
    """

    def __init__(self, rows: Chosen | None) -> None:
        self.rows = rows

    def count(self, n_samples: int) -> int:
        """Samples of the result, of a source with so many."""
        return n_samples if self.rows is None else len(self.rows)

    def of(self, first: int, n: int) -> tuple[slice, slice | Chosen]:
        """What is wanted of some consecutive samples.

        Parameters
        ----------
        first, n : int
            Number of the first, and how many.

        Returns
        -------
        slice
            Where they go in the result.
        slice or Array of int
            Which of the block.
        """
        if self.rows is None:
            return slice(first, first + n), slice(0, n)
        i, j = np.searchsorted(self.rows, [first, first + n]).tolist()
        return slice(i, j), self.rows[i:j] - first

    def apply(self, X: Any) -> Any:
        """The samples wanted of an array that holds all, as a view where all are."""
        return X if self.rows is None else X[self.rows]


def chosen_values(lengths: NDArray[Any], chosen: slice | Chosen) -> Chosen | slice:
    """Which values of a block of sparse rows belong to some of them.

    Parameters
    ----------
    lengths : Array of int
        Values of each row.
    chosen : slice or Array of int
        Rows.

    Returns
    -------
    slice or Array of int
        Numbers of the values, in their order.
    """
    if isinstance(chosen, slice):
        return slice(None)
    starts = np.cumsum(lengths, dtype=np.intp) - lengths
    kept = lengths[chosen].astype(np.intp)
    first = np.cumsum(kept) - kept
    return np.repeat(starts[chosen] - first, kept) + np.arange(int(kept.sum()), dtype=np.intp)
