"""Small data sets included in scikit-learn, for first steps and tests without a download."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnewton.data.columns import Wanted
from distnewton.data.description import Description
from distnewton.data.row_selection import RowSelection
from distnewton.data.source import Source
from distnewton.errors import ConfigError, MissingExtraError

_PARTS = ("all", "train", "test")
_TEST_PART = 5  # one sample in five
_FILES: dict[str, Callable[[Path], tuple[NDArray[np.float64], NDArray[np.float64]]]] = {
    "digits": lambda folder: _last_column(folder / "digits.csv.gz"),
    "iris": lambda folder: _last_column(folder / "iris.csv", skiprows=1),
    "wine": lambda folder: _last_column(folder / "wine_data.csv", skiprows=1),
    "breast_cancer": lambda folder: _last_column(folder / "breast_cancer.csv", skiprows=1),
    "diabetes": lambda folder: _diabetes(folder),
}
BUNDLED = tuple(_FILES)


@lru_cache(maxsize=1)
def _table(base: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Features and labels of a set, read once for all its parts."""
    X, y = _FILES[base](_folder(base))
    X.flags.writeable = y.flags.writeable = False
    return X, y


def _folder(name: str) -> Path:
    """Folder of scikit-learn's data files. Importing the package would take longer than training on them."""
    spec = find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(f"the data set {name!r}", "digits")
    return Path(spec.submodule_search_locations[0]) / "datasets" / "data"


def _last_column(file: Path, skiprows: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read features, and labels from the last column."""
    table = np.loadtxt(file, delimiter=",", skiprows=skiprows)
    return table[:, :-1], table[:, -1]


def _diabetes(folder: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Columns of mean 0 and norm 1, as in ``sklearn.datasets.load_diabetes``, and the disease's progression."""
    X = np.loadtxt(folder / "diabetes_data_raw.csv.gz")
    X -= X.mean(axis=0)
    return X / np.linalg.norm(X, axis=0), np.loadtxt(folder / "diabetes_target.csv.gz")


def split_name(name: str) -> tuple[str, str] | None:
    """Split a name such as ``digits:train`` into bundled set and part; None for other names.

    Parameters
    ----------
    name : str
        Name that the user gave.

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

    For a part the samples are shuffled by ``numpy.random.RandomState(0).permutation`` (the same in all numpy versions,
    not stratified); the last fifth, rounded down, is ``test``, the rest ``train``. The whole set keeps its order.

    Parameters
    ----------
    base : str
        Name of the set.
    part : {"all", "train", "test"}
        Part of the samples.
    wanted : Wanted
        Requests of the caller.
    """

    def __init__(self, base: str, part: str, wanted: Wanted) -> None:
        self.name = base if part == "all" else f"{base}:{part}"
        self._base, self._part, self._wanted = base, part, wanted

    @cached_property
    def _arrays(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Features and labels of the part."""
        X, y = _table(self._base)
        order = np.arange(len(y))
        if self._part != "all":
            order = np.random.RandomState(0).permutation(len(y))  # its stream never changes
            n_train = len(y) - len(y) // _TEST_PART
            order = order[:n_train] if self._part == "train" else order[n_train:]
        n_kept = self._wanted.n_kept(self.name, X.shape[1])
        return X[order, :n_kept].astype(np.float64), y[order].astype(np.float64)

    @property
    def features(self) -> NDArray[np.float64]:
        """Features of all samples of the part."""
        return self._arrays[0]

    def adopt(self, X: NDArray[np.float64], y: NDArray[np.float64]) -> None:
        """Adopt features and labels that another rank has read, so that not every rank opens the file."""
        self.__dict__["_arrays"] = X, y

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
