"""Base class of this package's data sources: range checks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from distnewton.data.description import Description
from distnewton.data.row_selection import Chosen, RowSelection

if TYPE_CHECKING:
    from distnewton.data.description import Features


class Source(ABC):
    """A data set that can be read by ranges of features without holding the rest.

    Attributes
    ----------
    name : str
        Path or name, for messages.
    """

    name: str

    @abstractmethod
    def describe(self) -> Description:
        """Check all of the data in one streaming pass; meant for one rank.

        Returns
        -------
        Description

        Raises
        ------
        DataError
            If the data are invalid; says where.
        """

    def read(self, start: int, stop: int, dtype: DTypeLike = "float64", rows: Chosen | None = None) -> Features:
        """Read the features ``start <= feature < stop`` of samples; meant for every rank.

        Parameters
        ----------
        start, stop : int
            Half-open range of features, counted from 0.
        dtype : dtype
            A float dtype.
        rows : Array of int or None
            Ascending numbers of the samples to read; all by default.

        Returns
        -------
        ndarray or csr_array of shape (n_samples, stop - start), or (len(rows), stop - start)
            C-contiguous array, or CSR if the format is sparse.

        Raises
        ------
        ValueError
            If the range exceeds the features of the data.
        """
        if not 0 <= start <= stop:
            raise ValueError(f"start and stop must satisfy 0 <= start <= stop, got {start} and {stop}")
        n_features = self._n_readable()
        if n_features is not None and stop > n_features:
            raise ValueError(f"features {start} to {stop} were requested, but {self.name} has {n_features}")
        features: Features = self._read(start, stop, np.dtype(dtype), RowSelection(rows))
        return features

    def stored_fingerprint(self, dtype: DTypeLike) -> int | None:
        """Return the hash of all values in a dtype (:mod:`distnewton.data.fingerprint`), where the data hold it."""
        return None

    def locate(self, i_sample: int) -> str:
        """Describe the position of a sample as ``name: sample i``, counted from 1, for error messages.

        Parameters
        ----------
        i_sample : int
            Number of the sample from 0.

        Returns
        -------
        str
        """
        return f"{self.name}: sample {i_sample + 1}"

    def prepare(self) -> None:  # noqa: B027
        """Prepare to read on ranks that do not describe the data; problems are left to the rank that does."""

    @property
    def reading_bytes(self) -> float:
        """Approximate memory that a rank needs for reading, besides the features themselves; for plans."""
        return 0.0

    @abstractmethod
    def _n_readable(self) -> int | None:
        """Number of features that can be read; None if any number can, as for sparse text."""

    @abstractmethod
    def _read(self, start: int, stop: int, dtype: np.dtype[Any], wanted: RowSelection) -> Any:
        """Read a valid range of features."""
