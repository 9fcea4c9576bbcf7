"""Entry point to all data: open a name or a path as a source of features and labels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from distnewton.data.columns import ColumnNames, LabelsWanted, Wanted
from distnewton.data.description import DataSource, Description
from distnewton.data.formats.base import Format, Location
from distnewton.data.formats.bundled import BUNDLED, BundledSource, split_name
from distnewton.data.formats.registry import FORMATS, find_format, named_format
from distnewton.data.formats.streams import find_file
from distnewton.data.labels import MISSING_VALUES
from distnewton.errors import ConfigError
from distnewton.files import user_path

__all__ = ["BUNDLED", "FORMATS", "DataSource", "Description", "Format", "Location", "open_data", "source_files"]


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
    comment: str = "",
    missing_values: Sequence[str] = MISSING_VALUES,
    missing: str = "auto",
    categories: str = "auto",
    n_features: int | None = None,
    zero_based: bool = False,
    ignore_extra_features: bool | Literal["numbered"] = False,
    sort_indices: bool = False,
    multilabel: bool = False,
) -> DataSource:
    """Open a data set; only the beginning of its file is read.

    Parameters
    ----------
    name_or_path : str or Path
        Name of a bundled set (``digits, iris, wine, breast_cancer, diabetes``, each also with ``:train`` or
        ``:test``; write ``./digits`` for a file of that name), or a file, plain or compressed by gzip, bzip2
        or xz under any suffix. For npy and IDX two files may be given as ``features,labels``; otherwise the labels
        of ``X.npy`` are in ``X_labels.npy``, ``X_y.npy`` or ``y.npy`` (``y_train.npy`` for ``X_train.npy``),
        those of ``...images-idx3-ubyte`` in ``...labels-idx1-ubyte``. npz files hold arrays ``X`` and ``y``, or the
        output of ``scipy.sparse.save_npz``, whose labels are in a file beside it as for npy.
        Arrays of shape ``(n_samples, height, width)`` or ``(n_samples, channels, height, width)`` are images. A
        folder, or a tar archive under any suffix, holds images as ``CLASS/FILE``; ``PATH:FOLDER``, say
        ``cifar10.tar.xz:train``, takes the images below a folder in it. HDF5 files hold data sets ``X`` and ``y``, or
        those given by ``FILE:FEATURES,LABELS``. A folder that ``distnewton convert`` wrote is read like its original.
    data_dir : str or Path, optional
        Folder to which paths are relative; by default the working directory.
    format : str
        Name of one of :data:`FORMATS`; ``auto`` decides by content. ``csv`` is any text with commas, tabs,
        semicolons, vertical bars or blanks between fields; ``images`` and ``hdf5`` need the extras of the same names.
    label_column : int or str, optional
        csv, parquet and arrow: column of the labels, by number from 0 (negative: from the end) or by name; by default
        the one named label, target, class or y, else the last. npy, npz and hdf5: column of the array, by number.
    ignore_columns : sequence of (int or str)
        csv, parquet and arrow: columns that are neither features nor labels, by number or name.
    names : ColumnNames, optional
        csv, parquet and arrow: names of the columns to take, in the order of the features, if the file names its
        columns; others are left out. Columns without names are taken by position.
    labels : {"required", "if_there", "none"}
        Whether labels are required, optional, or never read; without labels images may be in any folder. LIBSVM text,
        stores and bundled sets always have labels. A table or array without names that has exactly `n_features`
        columns, and no file of labels, has none.
    header : bool or "auto"
        csv: whether the first line names the columns; ``auto`` compares it with the lines below, and refuses an
        ambiguous line.
    comment : str
        csv: character that begins comment lines; by default there are no comments.
    missing_values : sequence of str
        csv: texts that mark a missing value (case-insensitive).
    missing : {"auto", "refuse", "mean", "median", "indicator"}
        csv, parquet and arrow: how to treat missing values in features; ``indicator`` and ``auto`` fill in the median
        and add a feature. If `names` holds the encoding of the training data, that takes precedence.
    categories : {"auto", "refuse", "onehot"}
        csv, parquet and arrow: how to treat texts in features; `names` takes precedence here, too.
    n_features : int, optional
        Number of features the caller expects. LIBSVM files may mention fewer; other formats must have exactly as many.
    zero_based : bool
        LIBSVM: whether indices count from 0.
    ignore_extra_features : bool or "numbered"
        Leave out and count features beyond `n_features` instead of refusing them, except in image files.
        ``numbered``: only in LIBSVM text and its stores, which store the feature's number with each value.
    sort_indices : bool
        LIBSVM: sort the indices of a row instead of refusing it; slow.
    multilabel : bool
        LIBSVM: whether a row may have any number of labels, as ``1,5,7``; a row without labels begins with a blank.

    Returns
    -------
    DataSource

    Raises
    ------
    ConfigError
        If an option does not fit the data.
    MissingInputError
        If there is no such file.
    DataError
        If the beginning of the file matches no known format.
    """
    wanted = Wanted(
        label_column, tuple(ignore_columns), names, n_features, ignore_extra_features, labels, header, zero_based,
        sort_indices, comment, tuple(missing_values), missing, categories, multilabel,
    )  # fmt: skip
    name = str(name_or_path)
    if bundled := split_name(name):
        return BundledSource(*bundled, wanted)
    chosen = None if format == "auto" else named_format(format)
    location = _find_location(name, data_dir, folders=chosen is None or chosen.has_folders)
    # the table for a model with one feature may consist of this column alone
    kind = find_format(location.path, chosen, is_table=names is not None)
    if location.part and not kind.has_parts:
        raise ConfigError(
            f"{location.path}: is {kind.name}, but :{location.part} names a folder in a folder or archive of images"
        )
    if location.covariates_path is not None and not kind.has_covariates:
        raise ConfigError(f"{location.path}: is {kind.name}; only genotypes take a third file, with covariates")
    return kind.open(location, wanted)


def source_files(name_or_path: str | Path, data_dir: str | Path | None = None) -> list[Path]:
    """List the files that a name of :func:`open_data` denotes; none for a bundled set or a folder.

    Parameters
    ----------
    name_or_path : str or Path
        As for :func:`open_data`.
    data_dir : str or Path, optional
        Folder to which paths are relative.

    Returns
    -------
    list of Path
    """
    if split_name(str(name_or_path)):
        return []
    location = _find_location(str(name_or_path), data_dir, folders=True)
    paths = location.path, location.labels_path, location.covariates_path
    return [path for path in paths if path is not None and path.is_file()]


def _find_location(name: str, data_dir: str | Path | None, *, folders: bool) -> Location:
    """Find a data set; the name of an existing file is that file, even with a colon or a comma."""

    def exists(name: str) -> bool:
        return os.path.exists(user_path(data_dir or ".") / user_path(name))

    def find_features(name: str) -> Path:
        # PLINK files are given by their prefix
        suffix = ".bed" if not exists(name) and exists(f"{name}.bed") else ""
        return find_file(name + suffix, data_dir, folders=folders)

    base, _, part = name.rpartition(":")
    if not base or not part or part.startswith("/") or exists(name):
        base, part = name, ""
    features, comma, labels = base.partition(",")
    if comma and not exists(base):
        covariates = ""
        if not exists(labels.strip()):
            labels, _, covariates = labels.partition(",")
        others = [find_file(name.strip(), data_dir) if name.strip() else None for name in (labels, covariates)]
        return Location(find_features(features.strip()), part, *others)
    return Location(find_features(base), part)
