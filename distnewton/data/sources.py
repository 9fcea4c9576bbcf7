"""One door to all data: a name or a path becomes a source of features and labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from distnewton.data.columns import ColumnNames, LabelsWanted, Wanted
from distnewton.data.description import DataSource, Description
from distnewton.data.formats.array_files import ArraySource, array_parts
from distnewton.data.formats.bundled import BUNDLED, BundledSource, split_name
from distnewton.data.formats.delimited import DelimitedSource
from distnewton.data.formats.hdf5 import Hdf5Array, open_hdf5
from distnewton.data.formats.images import ImageSource
from distnewton.data.formats.libsvm import LibsvmSource
from distnewton.data.formats.libsvm_lines import MAX_INDEX, Rules
from distnewton.data.formats.parquet import ParquetSource
from distnewton.data.formats.sniff import FORMATS, content_format
from distnewton.data.formats.stored_arrays import StoredArray
from distnewton.data.formats.streams import find_file
from distnewton.data.formats.table_layout import find_layout
from distnewton.data.store.reader import StoreSource
from distnewton.errors import ConfigError, DataError

__all__ = ["BUNDLED", "FORMATS", "DataSource", "Description", "open_data"]


def open_data(
    name_or_path: str | Path,
    *,
    data_dir: str | Path | None = None,
    format: str = "auto",
    label_column: int | str | None = None,
    ignore_columns: Sequence[int | str] = (),
    names: ColumnNames | None = None,
    labels: LabelsWanted = "required",
    header: bool | str = "auto",
    n_features: int | None = None,
    zero_based: bool = False,
    ignore_extra_features: bool | Literal["numbered"] = False,
    sort_indices: bool = False,
) -> DataSource:
    """Open a data set; only the beginning of its file is read.

    Parameters
    ----------
    name_or_path : str or Path
        Name of a bundled set (``digits, iris, wine, breast_cancer, diabetes``, each also with ``:train`` or
        ``:test``; write ``./digits`` for a file of that name), or a file, plain or compressed by gzip, bzip2
        or xz under any suffix. For npy and IDX two files may be given as ``features,labels``; else the labels
        of ``X.npy`` are in ``X_labels.npy``, ``X_y.npy`` or ``y.npy`` (``y_train.npy`` for ``X_train.npy``),
        those of ``...images-idx3-ubyte`` in ``...labels-idx1-ubyte``. npz files hold arrays ``X`` and ``y``.
        Arrays of shape ``(n_samples, height, width)`` or ``(n_samples, channels, height, width)`` are images. A
        folder, or a tar archive under any suffix, holds images as ``CLASS/FILE``; ``PATH:FOLDER``, say
        ``cifar10.tar.xz:train``, takes those below a folder in it. Of HDF5 files the data sets ``X`` and ``y`` are
        taken, or those of ``FILE:FEATURES,LABELS``. A folder that ``distnewton convert`` wrote is read as what it
        was made from.
    data_dir : str or Path, optional
        Folder of relative paths; the working directory when not given.
    format : {"auto", "libsvm", "csv", "npy", "npz", "idx", "images", "hdf5", "parquet", "store"}
        ``auto`` decides by content; ``csv`` is any text with commas, tabs, semicolons or blanks between
        fields; ``images``, ``hdf5`` and ``parquet`` need the extras of these names.
    label_column : int or str, optional
        csv and parquet: column of the labels, by number from 0 (negative: from the end) or by name; by default the
        one named label, target, class or y, else the last. npy, npz and hdf5: column of the array, by number.
    ignore_columns : sequence of (int or str)
        csv and parquet: columns that are neither features nor labels, likewise.
    names : ColumnNames, optional
        csv and parquet: names by which columns are taken where the file names its columns, in the order of the
        features; others are left out. Files without names are taken by place.
    labels : {"required", "if_there", "none"}
        Whether there must be labels, may be, or are not read even where they are there: images may then stand anywhere.
        LIBSVM text, stores and bundled sets have some in any case. Without names a table or array that has exactly
        `n_features` columns, and no labels beside it, has none.
    header : bool or "auto"
        csv: whether the first line names the columns; ``auto``: it does when none of its fields is a number.
    n_features : int, optional
        Number of features the caller expects. LIBSVM files may mention fewer; other formats must have as
        many.
    zero_based : bool
        LIBSVM: whether indices count from 0.
    ignore_extra_features : bool or "numbered"
        Leave out features beyond `n_features` and count them, instead of refusing them; not those of image files.
        ``numbered``: only those of LIBSVM text and of stores of it, whose values say which feature they belong to.
    sort_indices : bool
        LIBSVM: put the indices of a row in order instead of refusing it; slow.

    Returns
    -------
    DataSource

    Raises
    ------
    ConfigError
        If an option does not fit.
    MissingInputError
        If there is no such file.
    DataError
        If the beginning of the file is in no format that can be read.
    """
    if header not in (True, False, "auto"):
        raise ConfigError(f"header must be true, false or auto, got {header!r}")
    if n_features is not None and n_features < 1:
        raise ConfigError(f"n_features must be at least 1, got {n_features}")
    lenient, ignore_extra = bool(ignore_extra_features), ignore_extra_features is True
    wanted = Wanted(label_column, tuple(ignore_columns), names, n_features, ignore_extra, labels)
    bundled = split_name(str(name_or_path))
    if bundled:
        return BundledSource(*bundled, n_features, ignore_extra)
    name, subfolder = _split_subfolder(str(name_or_path), data_dir)
    path, labels_path = _find_files(name, data_dir, folders=format in ("auto", "images", "store"))
    found = content_format(path, format)
    if found == "images":
        if labels_path is not None or label_column is not None:
            raise ConfigError(f"{path}: labels of images are their folders; give neither label_column nor other labels")
        return ImageSource(path, subfolder, n_features, labels != "none")
    if found == "hdf5":
        column = _column_number(label_column)
        features, stored = open_hdf5(path, subfolder, with_labels=column is None, needed=labels == "required")
        return _array_source(features, found, stored, column, wanted)
    if subfolder:
        raise ConfigError(f"{path}: is {found}; only a folder or archive of images has folders such as :{subfolder}")
    if found == "store":
        store = StoreSource(path, n_features, lenient)
        columns = store.manifest.columns
        # that of a recipe whose data were converted
        as_stored = label_column is None or (columns is not None and label_column == columns.label)
        if labels_path is not None or not as_stored:
            raise ConfigError(f"{path}: labels of a store are in it; give label_column to distnewton convert")
        n_found, numbered = store.manifest.n_features, store.manifest.sparse
        if n_features is not None and n_found > n_features and not (ignore_extra or numbered):
            raise DataError(f"{path}: has {n_found} features, expected {n_features}; it is other data")
        return store
    if found == "parquet":
        return ParquetSource(path, wanted)
    if found == "libsvm":
        limit = None if n_features is None else min(n_features, MAX_INDEX)
        return LibsvmSource(
            path, Rules(str(path), int(not zero_based), limit, lenient, sort_indices)
        )
    if found == "csv":
        return DelimitedSource(path, find_layout(path, header), wanted)
    column = _column_number(label_column)
    return _array_source(*array_parts(path, found, labels_path, column, needed=labels == "required"), wanted)


def _array_source(
    array: StoredArray | Hdf5Array,
    found: str,
    labels: StoredArray | Hdf5Array | None,
    column: int | None,
    wanted: Wanted,
) -> ArraySource:
    """Return an array as a source; a column of labels is not there where all columns are features."""
    if wanted.labels != "required" and labels is None and array.table_shape[1] == wanted.n_features:
        column = None
    return ArraySource(array, found, labels, column, wanted.n_features, wanted.ignore_extra)


def source_files(name_or_path: str | Path, data_dir: str | Path | None = None) -> list[Path]:
    """Files that a name of :func:`open_data` stands for; none for a bundled set, or a folder.

    Parameters
    ----------
    name_or_path : str or Path
        As for :func:`open_data`.
    data_dir : str or Path, optional
        Folder of relative paths.

    Returns
    -------
    list of Path
    """
    if split_name(str(name_or_path)):
        return []
    name, _ = _split_subfolder(str(name_or_path), data_dir)
    paths = _find_files(name, data_dir, folders=True)
    return [path for path in paths if path is not None and path.is_file()]


def _split_subfolder(name: str, data_dir: str | Path | None) -> tuple[str, str]:
    """Return path and folder of ``PATH:FOLDER``; a file whose own name has a colon is that file."""
    base, _, subfolder = name.rpartition(":")
    if not base or not subfolder or subfolder.startswith("/") or _exists(name, data_dir):
        return name, ""
    return base, subfolder


def _exists(name: str, data_dir: str | Path | None) -> bool:
    """Return whether there is a file or folder of that name."""
    return (Path(data_dir or ".") / Path(name).expanduser()).exists()


def _find_files(name: str, data_dir: str | Path | None, *, folders: bool) -> tuple[Path, Path | None]:
    """Return the file, and that of the labels where two are given."""
    features, comma, labels = name.partition(",")
    if comma and not _exists(name, data_dir):
        return find_file(features.strip(), data_dir, folders=folders), find_file(labels.strip(), data_dir)
    return find_file(name, data_dir, folders=folders), None


def _column_number(label_column: int | str | None) -> int | None:
    """Return the label column of an array."""
    try:
        return None if label_column is None else int(label_column)
    except ValueError:
        raise ConfigError(f"label_column must be a number for arrays, got {label_column!r}") from None
