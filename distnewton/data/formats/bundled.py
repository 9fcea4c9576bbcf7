"""Small data sets that scikit-learn brings along: nothing to download, for first steps and tests."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnewton.data.description import Description
from distnewton.data.row_selection import Chosen, RowSelection
from distnewton.errors import ConfigError, DataError, MissingExtraError

BUNDLED = ("digits", "iris", "wine", "breast_cancer", "diabetes")
_PARTS = ("all", "train", "test")
_TEST_PART = 5  # one sample in so many


def split_name(name: str) -> tuple[str, str] | None:
    """Bundled set and part of a name such as ``digits:train``; None for other names.

    Parameters
    ----------
    name : str
        What the user gave.

    Returns
    -------
    tuple of str or None

    Raises
    ------
    ConfigError
        If the set has no such part.
    """
    base, colon, part = name.partition(":")
    if base not in BUNDLED:
        return None
    part = part if colon else "all"
    if part not in _PARTS:
        raise ConfigError(
            f"data {name!r}: {base} has the parts {base}:train and {base}:test, or {base} for all"
        )
    return base, part


@dataclass
class BundledSource:
    """A data set of scikit-learn, or a fixed part of it.

    The samples are shuffled by ``numpy.random.RandomState(0).permutation`` (frozen for all numpy versions,
    not stratified). The last fifth, rounded down, is ``test``, the rest ``train``; without a part the
    original order stays.

    Attributes
    ----------
    base : str
        Name of the set.
    part : {"all", "train", "test"}
        Which samples.
    n_features : int or None
        Number of features asked for.
    ignore_extra : bool
        Whether features beyond that are left out instead of refused.
    """

    base: str
    part: str = "all"
    n_features: int | None = None
    ignore_extra: bool = False

    @property
    def name(self) -> str:
        """Name as given."""
        return self.base if self.part == "all" else f"{self.base}:{self.part}"

    @cached_property
    def _arrays(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Features and labels of the part."""
        try:
            from sklearn import datasets
        except ImportError:
            raise MissingExtraError(f"the data set {self.name!r}", "digits") from None
        X, y = getattr(datasets, f"load_{self.base}")(return_X_y=True)
        order = np.arange(len(y))
        if self.part != "all":
            order = np.random.RandomState(0).permutation(len(y))  # its stream never changes
            n_train = len(y) - len(y) // _TEST_PART
            order = order[:n_train] if self.part == "train" else order[n_train:]
        found, wanted = X.shape[1], X.shape[1] if self.n_features is None else self.n_features
        if wanted > found or (wanted < found and not self.ignore_extra):
            raise DataError(f"{self.name}: has {found} features, expected {wanted}; it is other data")
        return X[order, :wanted].astype(np.float64), y[order].astype(np.float64)

    def describe(self) -> Description:
        """Return size and labels.

        Returns
        -------
        Description
        """
        X, y = self._arrays
        n_nonzeros = int(np.count_nonzero(X))
        image_shape = (1, 8, 8) if self.base == "digits" and X.shape[1] == 64 else None
        return Description(self.name, "bundled", len(X), X.shape[1], n_nonzeros, False, y, image_shape=image_shape)

    def read(self, start: int, stop: int, dtype: DTypeLike = "float64", rows: Chosen | None = None) -> NDArray[Any]:
        """Return a range of features.

        Parameters
        ----------
        start, stop : int
            Half-open range of features, counted from 0.
        dtype : dtype
            Of the result.
        rows : Array of int or None
            Samples wanted, ascending; all by default.

        Returns
        -------
        ndarray of shape (n_samples, stop - start)
        """
        X = RowSelection(rows).apply(self._arrays[0])
        if not 0 <= start <= stop <= X.shape[1]:
            raise ValueError(f"features {start} to {stop} asked for, {self.name} has {X.shape[1]}")
        return np.array(X[:, start:stop], dtype=dtype, order="C")

    def locate(self, i_sample: int) -> str:
        """``name: sample i``, counted from 1.

        Parameters
        ----------
        i_sample : int
            Number of the sample from 0.

        Returns
        -------
        str
        """
        return f"{self.name}: sample {i_sample + 1}"
