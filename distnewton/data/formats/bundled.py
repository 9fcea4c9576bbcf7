"""Small data sets that scikit-learn brings along: nothing to download, for first steps and tests."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnewton.data.columns import Wanted
from distnewton.data.description import Description
from distnewton.data.row_selection import RowSelection
from distnewton.data.source import Source
from distnewton.errors import ConfigError, MissingExtraError

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
        raise ConfigError(f"data {name!r}: {base} has the parts {base}:train and {base}:test, or {base} for all")
    return base, part


class BundledSource(Source):
    """A data set of scikit-learn, or a fixed part of it.

    The samples are shuffled by ``numpy.random.RandomState(0).permutation`` (frozen for all numpy versions,
    not stratified). The last fifth, rounded down, is ``test``, the rest ``train``; without a part the
    original order stays.

    Parameters
    ----------
    base : str
        Name of the set.
    part : {"all", "train", "test"}
        Which samples.
    wanted : Wanted
        What the caller wants.
    """

    def __init__(self, base: str, part: str, wanted: Wanted) -> None:
        self.name = base if part == "all" else f"{base}:{part}"
        self._base, self._part, self._wanted = base, part, wanted

    @cached_property
    def _arrays(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Features and labels of the part."""
        try:
            from sklearn import datasets
        except ImportError:
            raise MissingExtraError(f"the data set {self.name!r}", "digits") from None
        X, y = getattr(datasets, f"load_{self._base}")(return_X_y=True)
        order = np.arange(len(y))
        if self._part != "all":
            order = np.random.RandomState(0).permutation(len(y))  # its stream never changes
            n_train = len(y) - len(y) // _TEST_PART
            order = order[:n_train] if self._part == "train" else order[n_train:]
        n_kept = self._wanted.n_kept(self.name, X.shape[1])
        return X[order, :n_kept].astype(np.float64), y[order].astype(np.float64)

    def describe(self) -> Description:
        """Return size and labels."""
        X, y = self._arrays
        n_nonzeros = int(np.count_nonzero(X))
        image_shape = (1, 8, 8) if self._base == "digits" and X.shape[1] == 64 else None
        return Description(self.name, "bundled", len(X), X.shape[1], n_nonzeros, False, y, image_shape=image_shape)

    def _n_readable(self) -> int:
        return len(self._arrays[0][0])

    def _read(self, start: int, stop: int, dtype: np.dtype[Any], wanted: RowSelection) -> NDArray[Any]:
        return np.array(wanted.apply(self._arrays[0])[:, start:stop], dtype=dtype, order="C")
