"""MATLAB files (version 5 to 7.2): the arrays ``X`` and ``y``. Each rank reads the whole file and keeps its columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from distnewton.data.columns import Wanted
from distnewton.data.formats.base import Format, Location
from distnewton.data.in_memory import ArraySource
from distnewton.errors import ConfigError, DataError


class Matlab(Format):
    """An array in memory knows how to describe itself, to be read by columns, and to locate samples."""

    name = "matlab"
    help = "MATLAB with arrays X and y"

    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether the content begins as MATLAB writes it."""
        return head.startswith(b"MATLAB 5.0 MAT")

    def open(self, location: Location, wanted: Wanted) -> ArraySource:
        """Open ``X``, dense or sparse, and ``y``."""
        from scipy.io import loadmat

        path = location.path
        if wanted.label_column is not None:
            raise ConfigError(f"{path}: labels of a MATLAB file are its array y; give no label_column")
        try:
            arrays = loadmat(path)
        except Exception as error:  # scipy raises many kinds for damaged files
            raise DataError(f"{path}: cannot be read as a MATLAB file ({error}); save it with -v7") from None
        if missing := {"X", "y"} - set(arrays):
            known = ", ".join(sorted(name for name in arrays if not name.startswith("__")))
            raise DataError(f"{path}: has no array {' and '.join(sorted(missing))}; it has {known}")
        X, y = arrays["X"], np.asarray(arrays["y"])
        if wanted.n_features not in (None, X.shape[1]):
            raise DataError(f"{path}: has {X.shape[1]} features, expected {wanted.n_features}; it is other data")
        # MATLAB knows no vectors: labels are a row or a column
        return ArraySource(X, y.ravel() if 1 in y.shape else y, name=str(path))
