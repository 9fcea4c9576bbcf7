"""Data sets whose features are one stored array: npy, npz, IDX and HDF5 files."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distnewton.data.columns import Wanted, extra_note
from distnewton.data.description import Description
from distnewton.data.formats.base import Format, Location
from distnewton.data.formats.stored_arrays import StoredArray, TableArray
from distnewton.data.formats.streams import read_head
from distnewton.data.labels import labels_of
from distnewton.data.row_selection import RowSelection
from distnewton.data.source import Source
from distnewton.errors import ConfigError, DataError

if TYPE_CHECKING:
    from distnewton.data.description import Labels


class ArrayFileSource(Source):
    """Features in one stored array; labels in another, or in one of its columns.

    Parameters
    ----------
    array : TableArray
        Features.
    format : str
        Name of the format.
    labels : TableArray or None
        Labels; None if they are a column of `array`, or there are none.
    label_column : int or None
        Number of the label column in `array`, if any.
    wanted : Wanted
        Requests of the caller.

    Raises
    ------
    DataError
        If the shapes do not match, or the array does not hold numbers.
    """

    def __init__(
        self, array: TableArray, format: str, labels: TableArray | None, label_column: int | None, wanted: Wanted
    ) -> None:
        self.name, self._array, self._format, self._labels = array.name, array, format, labels
        _check_shapes(array, labels)
        n_columns = array.table_shape[1]
        if wanted.labels != "required" and labels is None and n_columns == wanted.n_features:
            label_column = None  # all columns are features
        if label_column is not None and not -n_columns <= label_column < n_columns:
            raise ConfigError(f"label_column = {label_column}: {self.name} has {n_columns} columns")
        self._label_column = None if label_column is None else label_column % n_columns
        columns = np.arange(n_columns)
        columns = columns[columns != self._label_column]
        self._columns = columns[: wanted.n_kept(self.name, len(columns))]
        self._n_extra = len(columns) - len(self._columns)

    def describe(self) -> Description:
        """Check all values in one streaming pass."""
        n_nonzeros = 0
        for i_row, i_column, part in self._array.blocks():
            if part.dtype.kind == "f" and not (finite := np.isfinite(part)).all():
                i, j = np.argwhere(~finite)[0].tolist()
                raise not_finite(self.name, i_row + i, i_column + j, part[i, j])
            first, last = np.searchsorted(self._columns, [i_column, i_column + part.shape[1]])
            n_nonzeros += int(np.count_nonzero(part[:, self._columns[first:last] - i_column]))
        n_samples, n_features = self._array.shape[0], len(self._columns)
        return Description(
            self.name, self._format, n_samples, n_features, n_nonzeros, False, self._read_labels(),
            self._n_extra * n_samples, extra_note(self._n_extra, n_features), self._image_shape(),
            labelled=self._labels is not None or self._label_column is not None,
        )  # fmt: skip

    def _image_shape(self) -> tuple[int, int, int] | None:
        """Return (channels, height, width) of an array with 3 or 4 axes, channels first, if no column is left out."""
        shape = self._array.shape
        if len(self._columns) != self._array.table_shape[1] or len(shape) not in (3, 4):
            return None
        return (shape[1] if len(shape) == 4 else 1), shape[-2], shape[-1]

    def _read_labels(self) -> Labels:
        """Return labels as float64 or str; several columns are allowed only for regression targets."""
        if self._label_column is not None:
            array, columns = self._array, np.array([self._label_column])
        elif self._labels is not None:
            array, columns = self._labels, np.arange(self._labels.table_shape[1])
        else:
            return np.full(self._array.shape[0], np.nan)
        return read_labels(array, columns)

    def _n_readable(self) -> int:
        return len(self._columns)

    def _read(self, start: int, stop: int, dtype: np.dtype[Any], wanted: RowSelection) -> NDArray[Any]:
        """Read a range; integers keep their values as floats, so pixels remain 0..255."""
        return self._array.read_columns(self._columns[start:stop], dtype, wanted)


def read_labels(array: TableArray, columns: NDArray[np.int64]) -> Labels:
    """Read labels from columns of an array.

    Parameters
    ----------
    array : TableArray
        Array of labels, or of labels and features.
    columns : ndarray of int64
        Numbers of the label columns.

    Returns
    -------
    ndarray of shape (n_samples,) or (n_samples, n_columns)
        Labels as float64 or str.

    Raises
    ------
    DataError
        If they are neither numbers nor texts, or one is missing.
    """
    if array.dtype.kind not in "fiubUS":
        raise DataError(f"{array.name}: labels must be numbers or text, got dtype {array.dtype}")
    # read in the stored dtype, so that integers beyond 2^53 are not rounded
    values = array.read_columns(columns, array.dtype.newbyteorder("="), RowSelection(None))
    labels = labels_of(values, lambda i: f"{array.name}: sample {i + 1}")
    if labels.dtype.kind == "f" and not (finite := np.isfinite(labels).all(axis=1)).all():
        raise DataError(f"{array.name}: label of sample {np.argmin(finite) + 1} is not a finite number")
    return labels[:, 0] if len(columns) == 1 else labels


def not_finite(name: str, row: int, column: int, value: Any) -> DataError:
    """The error for a feature that is NaN or infinite, in a row and a column counted from 0."""
    return DataError(
        f"{name}: sample {row + 1}, column {column}: {value} is not a finite number; repair the value or remove the "
        "sample"
    )


def check_labels(name: str, n_samples: int, labels: TableArray | None) -> None:
    """Refuse labels of another number of samples."""
    if labels is not None and labels.shape[:1] != (n_samples,):
        raise DataError(f"{name}: has {n_samples} samples, but {labels.name} holds labels of shape {labels.shape}")


def _check_shapes(array: TableArray, labels: TableArray | None) -> None:
    """Refuse features that are not a table of numbers, or a different number of labels."""
    if len(array.shape) < 2:
        raise DataError(f"{array.name}: features must be (n_samples, n_features), got shape {array.shape}")
    if array.dtype.kind not in "fiub":
        raise DataError(f"{array.name}: features must be numbers, got dtype {array.dtype}")
    check_labels(array.name, array.shape[0], labels)
    for what, number in zip(("samples", "features"), array.table_shape, strict=True):
        if not number:
            raise DataError(f"{array.name}: no {what} (shape {array.shape})")


class ArrayFormat(Format):
    """A format with one array per file; labels are in another file, in any format with one array per file."""

    @abstractmethod
    def open_array(self, path: Path) -> StoredArray:
        """Open the array of a file; reads its header."""

    @abstractmethod
    def label_files(self, path: Path) -> list[str]:
        """Usual names of the file, in the same folder, with the labels for `path`."""

    def open(self, location: Location, wanted: Wanted) -> ArrayFileSource:
        """Open the features and their labels."""
        features = self.open_array(location.path)
        column = wanted.label_number if "label_column" in self.settings else None
        labels = self.open_labels(location, wanted) if column is None else None
        return ArrayFileSource(features, self.name, labels, column, wanted)

    def open_labels(self, location: Location, wanted: Wanted) -> StoredArray | None:
        """Open the array in the file of labels; None if the file is neither found nor required."""
        path = location.labels_path or self._find_labels(location.path, needed=wanted.labels == "required")
        return None if path is None else _open_labels(path, location.path)

    def _find_labels(self, path: Path, *, needed: bool) -> Path | None:
        """Find the file with the labels under its usual names."""
        names = self.label_files(path)
        labels_path = next((path.parent / name for name in names if (path.parent / name).is_file()), None)
        if labels_path is None and needed:
            looked = f"looked for {', '.join(names)} beside it" if names else "its name does not contain images-idx3"
            column = ", or label_column if they are a column of this array" if self.settings else ""
            raise DataError(f"{path}: no file with its labels: {looked}; give both as 'features,labels'{column}")
        return labels_path


def _open_labels(path: Path, features: Path) -> StoredArray:
    """Open a file of labels in any format with one array per file."""
    head = read_head(path)
    kinds = [kind for kind in ArrayFormat.__subclasses__() if kind().recognises(path, head)]
    if not kinds:
        raise DataError(f"{path}: labels of {features} must be an npy or IDX file")
    return kinds[0]().open_array(path)
