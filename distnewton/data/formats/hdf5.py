"""Arrays in HDF5 files; a rank reads only its own columns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnewton.data.columns import Wanted
from distnewton.data.formats.array_files import ArrayFileSource
from distnewton.data.formats.base import Format, Location
from distnewton.data.formats.stored_arrays import TableArray, check_shape
from distnewton.data.formats.streams import check_growth, check_line, is_compressed
from distnewton.data.row_selection import RowSelection
from distnewton.errors import ConfigError, DataError, MissingExtraError, MissingInputError

_BLOCK_BYTES = 1 << 24


class Hdf5(Format):
    """HDF5 files."""

    name = "hdf5"
    help = "HDF5 with data sets X and y, or FILE:FEATURES,LABELS"
    settings = ("label_column",)
    has_parts = True

    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether the content begins with the HDF5 signature."""
        return head.startswith(b"\x89HDF\r\n\x1a\n")

    def open(self, location: Location, wanted: Wanted) -> ArrayFileSource:
        """Open the data sets of a file."""
        column, needed = wanted.label_number, wanted.labels == "required"
        features, labels = open_hdf5(location.path, location.part, with_labels=column is None, needed=needed)
        return ArrayFileSource(features, self.name, labels, column, wanted)


class Hdf5Array(TableArray):
    """A data set in an HDF5 file.

    Parameters
    ----------
    path : Path
        The file.
    key : str
        Path of the data set in it.
    shape : tuple of int
        As stored.
    dtype : dtype
        As stored; ``str`` for text.
    """

    def __init__(self, path: Path, key: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.path, self.key, self.shape, self.dtype = path, key, shape, dtype
        self.name = f"{path}:{key}"
        check_shape(self.name, shape, dtype)
        # values that were never written take no space in the file
        check_line(self.name, 8 * self.table_shape[1], path)
        check_growth(self.name, path, n_bytes=dtype.itemsize * math.prod(shape), n_samples=shape[0])

    def blocks(self) -> Iterator[tuple[int, int, NDArray[Any]]]:
        """Yield blocks of whole rows."""
        n_rows, n_columns = self.table_shape
        height = max(1, _BLOCK_BYTES // max(1, n_columns * self.dtype.itemsize))
        with _open(self.path) as file:
            for i in range(0, n_rows, height):
                yield i, 0, file[self.key][i : i + height].reshape(-1, n_columns)

    def read_columns(self, columns: NDArray[np.int64], dtype: DTypeLike, wanted: RowSelection) -> NDArray[Any]:
        """Read columns of samples, and from a table with two axes nothing else. Text stays text."""
        n_rows = self.shape[0]
        with _open(self.path) as file:
            if self.dtype.kind == "U":
                texts = file[self.key].asstr(errors="strict")[...].astype(np.str_)
                return np.asarray(wanted.apply(np.asarray(texts).reshape(n_rows, -1)[:, columns]))
            result = np.empty((wanted.count(n_rows), len(columns)), dtype=dtype)
            if not result.size:
                return result
            start, stop = int(columns[0]), int(columns[-1]) + 1
            height = max(1, _BLOCK_BYTES // ((stop - start) * self.dtype.itemsize))
            for i in range(0, n_rows, height):
                block = slice(i, min(i + height, n_rows))
                place, chosen = wanted.of(i, block.stop - i)
                if len(self.shape) == 2:
                    part = file[self.key][block, start:stop]
                else:
                    part = file[self.key][block].reshape(block.stop - i, -1)[:, start:stop]
                result[place] = (part if stop - start == len(columns) else part[:, columns - start])[chosen]
            return result


def open_hdf5(path: Path, keys: str, *, with_labels: bool, needed: bool = True) -> tuple[Hdf5Array, Hdf5Array | None]:
    """Open features and labels in an HDF5 file.

    Parameters
    ----------
    path : Path
        An existing file.
    keys : str
        ``FEATURES`` or ``FEATURES,LABELS``, paths of data sets in the file; empty: ``X`` and ``y``, case-insensitive.
    with_labels : bool
        Whether labels are a separate data set rather than a column of the features.
    needed : bool
        Whether the data set of labels is required even if the keys do not name it.

    Returns
    -------
    features : Hdf5Array
    labels : Hdf5Array or None

    Raises
    ------
    DataError
        If there is no such data set; lists the data sets of the file.
    ConfigError
        If the keys do not name one or two data sets.
    MissingExtraError
        If h5py is not installed.
    """
    wanted = [key.strip() for key in keys.split(",")] if keys else ["X", "y"]
    if len(wanted) > 2 or not all(wanted):
        raise ConfigError(f"{path}: name data sets as FILE:FEATURES,LABELS, got {keys!r}")
    named = len(keys.split(",")) == 2
    if len(wanted) == 1:
        wanted.append("y")
    with _open(path) as file:
        features = _array(path, file, wanted[0])
        if not with_labels or not (needed or named or _names(file, wanted[1])):
            return features, None
        return features, _array(path, file, wanted[1])


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Open a file for reading, without a lock, which many cluster file systems do not support."""
    try:
        import h5py
    except ImportError:
        raise MissingExtraError(f"reading {path} (HDF5)", "hdf5") from None
    if is_compressed(path):
        raise DataError(f"{path}: is a compressed HDF5 file; decompress it first")
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        if error.errno:
            raise MissingInputError(f"{path}: cannot be read ({error.strerror or error})") from None
        raise DataError(f"{path}: HDF5 file is cut short or damaged ({error}); copy or download it again") from None
    try:
        yield file
    # HDF5 detects damage only as it reads, and h5py raises a different error for each kind
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{path}: HDF5 file is damaged ({error}); copy or download it again") from None
    finally:
        file.close()


def _all_names(file: Any) -> list[str]:
    """Paths of all data sets."""
    import h5py

    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return names


def _names(file: Any, key: str) -> list[str]:
    """Paths of the data sets that a key may denote."""
    names = _all_names(file)
    return [name for name in names if name == key] or [name for name in names if name.lower() == key.lower()]


def _array(path: Path, file: Any, key: str) -> Hdf5Array:
    """Find a data set by name; case matters only if two names differ in nothing else."""
    import h5py

    same = _names(file, key)
    if not same:
        known = ", ".join(_all_names(file)[:20]) or "none"
        raise DataError(f"{path}: holds no data set {key!r}, only {known}; name them as FILE:FEATURES,LABELS")
    stored = file[same[0]]
    if not stored.shape:
        raise DataError(f"{path}:{same[0]}: is a single value, expected an array")
    text = h5py.check_string_dtype(stored.dtype) is not None
    return Hdf5Array(path, same[0], stored.shape, np.dtype(np.str_) if text else stored.dtype)
