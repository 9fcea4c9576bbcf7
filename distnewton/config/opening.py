"""Open a data set as ``[data]`` says; training, held-out and all other data are opened here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from distnewton.config.sections import DataConfig, DataName, PartitionConfig
from distnewton.data.columns import ColumnNames, LabelsWanted, Wanted
from distnewton.data.description import DataSource
from distnewton.data.in_memory import as_source
from distnewton.data.joined import FilesByColumns
from distnewton.data.label_columns import LabelColumns
from distnewton.data.sources import open_data
from distnewton.errors import ConfigError
from distnewton.parallel.cuts import FileOwners, Range, files_of_ranks
from distnewton.parallel.replicas import ranks_of_a_grid

Owned = Callable[[int, int], Sequence[Range]]
"""Maps the number of files and the number of all ranks to the files that each rank of a grid owns."""


def files_owned(partition: PartitionConfig) -> Owned:
    """Return the function that assigns files by columns to the ranks of a run."""

    def owned(n_files: int, n_ranks: int) -> Sequence[Range]:
        splits = () if partition.splits == "auto" else partition.splits
        return files_of_ranks(n_files, ranks_of_a_grid(n_ranks, partition.replicas), splits, partition.files)

    return owned


def owned_by(owners: FileOwners | None) -> Owned:
    """Return the function that assigns files by columns to ranks as the model does where it knows as many files."""

    def owned(n_files: int, n_ranks: int) -> Sequence[Range]:
        known = owners is not None and len(owners.columns) == n_files
        return owners.files if owners is not None and known else files_of_ranks(n_files, n_ranks)

    return owned


def _by_columns(
    data: DataConfig, files: tuple[str, ...], open_file: Callable[..., DataSource], owned: Owned,
    labels: LabelsWanted, names: ColumnNames | None,
) -> FilesByColumns:  # fmt: skip
    """Open files by columns."""
    if isinstance(data.label_column, list):
        raise ConfigError("files by columns have one column of labels: give its name in data.label_column")
    if not data.id_column:
        raise ConfigError("files by columns are joined on an identifier: name its column in data.id_column")
    label = None if data.label_column is None else str(data.label_column)
    ignored = tuple(map(str, data.ignore_columns))
    return FilesByColumns(
        files, open_file, partial(owned, len(files)), data.id_column, label, ignored, labels, names
    )


def opener(
    data: DataConfig,
    given: Any,
    name: DataName,
    n_features: int | None = None,
    names: ColumnNames | None = None,
    labels: LabelsWanted = "required",
    owned: Owned = files_of_ranks,
) -> Callable[[], DataSource]:
    """Return a function that opens a data set.

    Parameters
    ----------
    data : DataConfig
        How files are read.
    given : DataSource, tuple of X and y, frame, path or None
        Data in memory, as :func:`~distnewton.data.in_memory.as_source` takes it; a path, or a list of paths, replaces
        `name`.
    name : str or list of str
        File or bundled set that is opened where no data is given; a list names files by columns.
    n_features : int or None
        Number of features of the training data, for other data: features of LIBSVM text beyond it are dropped.
    names : ColumnNames or None
        Column names of the training data, by which the columns of other tables are chosen.
    labels : {"required", "if_there", "none"}
        Whether labels are required, optional, or not read.
    owned : callable
        Assigns files by columns to ranks; by default it deals them out evenly.

    Returns
    -------
    callable
        For files by columns a :class:`~distnewton.data.joined.FilesByColumns`.
    """
    if (named := named_data(given)) is not None:
        name = named
    elif given is not None or not name:
        return partial(as_source, given, names, labels=labels, wanted=_wanted_in_memory(data))
    open_file = partial(
        open_data,
        data_dir=data.directory or None,
        format=data.format,
        header=data.header,
        comment=data.comment,
        missing_values=data.missing_values,
        missing=data.missing,
        categories=data.categories,
    )
    ignored = [*data.ignore_columns, *([data.id_column] if data.id_column else [])]
    if not isinstance(name, str):
        return _by_columns(data, tuple(name), open_file, owned, labels, names)
    if isinstance(data.label_column, list):
        return partial(LabelColumns, partial(open_file, name), data.label_column, ignored, names, labels)
    return partial(
        open_file,
        name,
        label_column=data.label_column,
        ignore_columns=ignored,
        multilabel=data.task == "multilabel",
        names=names,
        labels=labels,
        n_features=n_features or data.n_features,
        zero_based=data.zero_based,
        ignore_extra_features=False if n_features is None else "numbered",
        sort_indices=data.sort_indices,
    )


def _wanted_in_memory(data: DataConfig) -> Wanted:
    """Return what is wanted of data in memory, whose labels come apart where several columns hold them in files."""
    return Wanted(
        None if isinstance(data.label_column, list) else data.label_column, tuple(data.ignore_columns),
        missing=data.missing, categories=data.categories,
    )  # fmt: skip


def named_data(given: Any) -> DataName | None:
    """Return the name, or the names of files by columns, that a program passed as data; None if it passed the data."""
    if isinstance(given, str | Path):
        return str(given)
    if isinstance(given, list) and given and all(isinstance(name, str | Path) for name in given):
        return [str(name) for name in given]
    return None
