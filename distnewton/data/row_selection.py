"""Selection of a rank's samples from the consecutive blocks of a source."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Chosen = NDArray[np.intp]
"""Ascending numbers of samples, from 0."""


class RowSelection:
    """Maps the samples of a block to their places in the result.

    Parameters
    ----------
    rows : Array of int or None
        Ascending numbers of the samples wanted; None for all.
    """

    def __init__(self, rows: Chosen | None) -> None:
        self.rows = rows

    def count(self, n_samples: int) -> int:
        """Number of samples in the result, for a source with `n_samples`."""
        return n_samples if self.rows is None else len(self.rows)

    def of(self, first: int, n: int) -> tuple[slice, slice | Chosen]:
        """Select from consecutive samples.

        Parameters
        ----------
        first, n : int
            Number of the first sample, and number of samples.

        Returns
        -------
        slice
            Places of the selected samples in the result.
        slice or Array of int
            Selected samples of the block.
        """
        if self.rows is None:
            return slice(first, first + n), slice(0, n)
        i, j = np.searchsorted(self.rows, [first, first + n]).tolist()
        return slice(i, j), self.rows[i:j] - first

    def apply(self, X: Any) -> Any:
        """Select the wanted samples of an array of all; a view if all are wanted."""
        return X if self.rows is None else X[self.rows]


def chosen_values(lengths: NDArray[Any], chosen: slice | Chosen) -> Chosen | slice:
    """Find the values of chosen rows in a block of sparse rows.

    Parameters
    ----------
    lengths : Array of int
        Number of values in each row.
    chosen : slice or Array of int
        Chosen rows.

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
