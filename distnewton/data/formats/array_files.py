"""Data sets in npy, npz, IDX and HDF5 files."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnewton.data.description import Description
from distnewton.data.formats.hdf5 import Hdf5Array
from distnewton.data.formats.sniff import content_format
from distnewton.data.formats.stored_arrays import StoredArray, open_idx, open_npy, open_npz
from distnewton.data.row_selection import Chosen
from distnewton.errors import ConfigError, DataError

if TYPE_CHECKING:
    from distnewton.data.description import Labels

_LABEL_STEMS = ("{stem}_labels", "{stem}_y")


@dataclass
class ArraySource:
    """Features in one stored array; labels in another, or in one of its columns.

    Attributes
    ----------
    array : StoredArray or Hdf5Array
        Features.
    format : str
        ``npy``, ``npz``, ``idx`` or ``hdf5``.
    labels : StoredArray or Hdf5Array or None
        Labels; None where they are a column of the features' array, or there are none.
    label_column : int or None
        That column.
    n_features : int or None
        Number of features asked for.
    ignore_extra : bool
        Whether features beyond that are left out instead of refused.
    """

    array: StoredArray | Hdf5Array
    format: str
    labels: StoredArray | Hdf5Array | None
    label_column: int | None = None
    n_features: int | None = None
    ignore_extra: bool = False
    _columns: NDArray[np.int64] = field(init=False, repr=False)
    _n_dropped: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.array.shape) < 2:
            raise DataError(
                f"{self.name}: features must be (n_samples, n_features), got shape {self.array.shape}"
            )
        if self.array.dtype.kind not in "fiub":
            raise DataError(f"{self.name}: features must be numbers, got dtype {self.array.dtype}")
        if self.labels is not None and (not self.labels.shape or self.labels.shape[0] != self.array.shape[0]):
            raise DataError(
                f"{self.name}: has {self.array.shape[0]} samples, but {self.labels.name} holds labels of "
                "shape "
                f"{self.labels.shape}"
            )
        if not self.array.shape[0]:
            raise DataError(f"{self.name}: no samples (shape {self.array.shape})")
        self._columns = self._feature_columns()

    def _feature_columns(self) -> NDArray[np.int64]:
        """Return the columns of the array that are features."""
        n_columns = self.array.table_shape[1]
        columns = np.arange(n_columns)
        if self.label_column is not None:
            if not -n_columns <= self.label_column < n_columns:
                raise ConfigError(f"label_column = {self.label_column}: {self.name} has {n_columns} columns")
            columns = np.delete(columns, self.label_column)
        wanted = len(columns) if self.n_features is None else self.n_features
        if wanted > len(columns) or (wanted < len(columns) and not self.ignore_extra):
            raise DataError(
                f"{self.name}: has {len(columns)} features, expected {wanted}; check that it belongs to "
                "the same data"
            )
        self._n_dropped = len(columns) - wanted
        return columns[:wanted]

    @property
    def name(self) -> str:
        """Path, with the name of the array for npz."""
        return self.array.name

    def describe(self) -> Description:
        """Check all values in one streaming pass.

        Returns
        -------
        Description

        Raises
        ------
        DataError
            With the sample and feature of a value that is not finite.
        """
        n_nonzeros = 0
        for i_row, i_column, part in self.array.blocks():
            if part.dtype.kind == "f" and not (finite := np.isfinite(part)).all():
                i, j = np.argwhere(~finite)[0].tolist()
                raise DataError(
                    f"{self.name}: sample {i_row + i + 1}, column {i_column + j}: {part[i, j]} is not a "
                    "finite "
                    "number; repair the value or remove the sample"
                )
            first, last = np.searchsorted(self._columns, [i_column, i_column + part.shape[1]])
            n_nonzeros += int(np.count_nonzero(part[:, self._columns[first:last] - i_column]))
        n_samples, notes = self.array.shape[0], []
        if self._n_dropped:
            notes.append(
                f"the last {self._n_dropped} features, beyond the {len(self._columns)} expected, were ignored"
            )
        return Description(
            self.name, self.format, n_samples, len(self._columns), n_nonzeros, False, self._read_labels(),
            self._n_dropped * n_samples, notes, self._image_shape(), labelled=self._labelled,
        )  # fmt: skip

    @property
    def _labelled(self) -> bool:
        """Whether there are labels."""
        return self.labels is not None or self.label_column is not None

    def _image_shape(self) -> tuple[int, int, int] | None:
        """Return (channels, height, width) of an array with 3 or 4 axes, channels first, none of it left out."""
        shape = self.array.shape
        if len(self._columns) != self.array.table_shape[1] or len(shape) not in (3, 4):
            return None
        return (shape[1] if len(shape) == 4 else 1), shape[-2], shape[-1]

    def _read_labels(self) -> Labels:
        """Return labels as float64 or str; of several columns only if they are targets."""
        if not self._labelled:
            return np.full(self.array.shape[0], np.nan)
        if self.labels is None:
            column = np.array([(self.label_column or 0) % self.array.table_shape[1]])
            return self.array.read_columns(column, np.float64)[:, 0]
        shape, dtype = self.labels.table_shape, self.labels.dtype
        if dtype.kind not in "fiubUS":
            raise DataError(f"{self.labels.name}: labels must be numbers or text, got dtype {dtype}")
        values = self.labels.read_columns(np.arange(shape[1]), dtype.newbyteorder("="))
        if dtype.kind in "US":
            values = values.astype(np.str_)
        else:
            values = values.astype(np.float64)
            wrong = np.flatnonzero(~np.isfinite(values).all(axis=1))
            if wrong.size:
                raise DataError(f"{self.labels.name}: label of sample {wrong[0] + 1} is not a finite number")
        return values[:, 0] if shape[1] == 1 else values

    def read(self, start: int, stop: int, dtype: DTypeLike = "float64", rows: Chosen | None = None) -> NDArray[Any]:
        """Read a range of features; integers become floats of the same value (pixels 0..255 stay so).

        Parameters
        ----------
        start, stop : int
            Half-open range of features, counted from 0 without a label column.
        dtype : dtype
            Of the result.
        rows : Array of int or None
            Samples wanted, ascending; all by default.

        Returns
        -------
        ndarray of shape (n_samples, stop - start)
        """
        if not 0 <= start <= stop <= len(self._columns):
            raise ValueError(f"features {start} to {stop} asked for, {self.name} has {len(self._columns)}")
        return self.array.read_columns(self._columns[start:stop], dtype, rows)

    def locate(self, i_sample: int) -> str:
        """``file: sample i``, counted from 1.

        Parameters
        ----------
        i_sample : int
            Number of the sample from 0.

        Returns
        -------
        str
        """
        return f"{self.name}: sample {i_sample + 1}"


def array_parts(
    path: Path, found: str, labels_path: Path | None, label_column: int | None, *, needed: bool = True
) -> tuple[StoredArray, str, StoredArray | None, int | None]:
    """Features, format, labels, and the column of the labels where they are in the features' array.

    Parameters
    ----------
    path : Path
        File with the features.
    found : str
        Its format, ``npy``, ``npz`` or ``idx``.
    labels_path : Path or None
        File with the labels, where it is given.
    label_column : int or None
        Column with the labels; npy and npz only.
    needed : bool
        Whether there must be labels.

    Returns
    -------
    features : StoredArray
    found : str
    labels : StoredArray or None
    label_column : int or None

    Raises
    ------
    DataError
        If labels or arrays are missing.
    """
    if found == "npz":
        arrays = open_npz(path)
        names = {"x": "X", "y": "y"} | {name.lower(): name for name in sorted(arrays, reverse=True)}
        alone = label_column is not None or not (needed or names["y"] in arrays)
        wanted = ["x"] if alone else ["x", "y"]
        if any(names[key] not in arrays for key in wanted):
            advice = "" if arrays else "; images are read from folders and tar archives, not from zip"
            raise DataError(f"{path}: expected arrays X and y, got {', '.join(sorted(arrays)) or 'none'}{advice}")
        return arrays[names["x"]], found, None if alone else arrays[names["y"]], label_column
    features = open_npy(path) if found == "npy" else open_idx(path)
    if label_column is not None and found == "npy":
        return features, found, None, label_column
    labels_path = labels_path or _label_file(path, found, needed)
    if labels_path is None:
        return features, found, None, None
    labels_format = content_format(labels_path)
    if labels_format not in ("npy", "idx"):
        raise DataError(f"{labels_path}: labels of {path} must be an npy or IDX file, got {labels_format}")
    return features, found, open_npy(labels_path) if labels_format == "npy" else open_idx(labels_path), None


def _label_file(path: Path, found: str, needed: bool) -> Path | None:
    """Return the file with the labels by the usual names."""
    stem, dot, suffix = path.name.partition(".npy") if found == "npy" else (path.name, "", "")
    if found == "idx":
        bare = re.sub(r"images([-.])idx\d", r"labels\1idx1", stem.removesuffix(".gz"))
        names = [bare, f"{bare}.gz"] if bare != stem.removesuffix(".gz") else []
        names.sort(key=lambda name: name.endswith(".gz") != stem.endswith(".gz"))
    else:
        names = [pattern.format(stem=stem) + dot + suffix for pattern in _LABEL_STEMS]
        if re.match(r"[xX](?![a-zA-Z])", stem):
            names += [f"y{stem[1:]}{dot}{suffix}"]
    for name in names:
        if (path.parent / name).is_file():
            return path.parent / name
    if not needed:
        return None
    looked = f"looked for {', '.join(names)} beside it" if names else "its name holds no images-idx3"
    column = "" if found == "idx" else ", or label_column if they are a column of this array"
    raise DataError(f"{path}: no file with its labels: {looked}; give both as 'features,labels'{column}")
