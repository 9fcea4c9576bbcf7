"""How the settings of ``[data]`` open a data set: the one way for training, held-out and other data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from distnewton.config.sections import DataConfig
from distnewton.data.columns import ColumnNames, LabelsWanted, Wanted
from distnewton.data.description import DataSource
from distnewton.data.in_memory import as_source
from distnewton.data.sources import open_data


def opener(
    data: DataConfig,
    given: Any,
    name: str,
    n_features: int | None = None,
    names: ColumnNames | None = None,
    labels: LabelsWanted = "required",
) -> Callable[[], DataSource]:
    """How a data set is opened.

    Parameters
    ----------
    data : DataConfig
        How files are read.
    given : DataSource, tuple of X and y, frame, path or None
        Data that is there already, as of :func:`~distnewton.data.in_memory.as_source`; a path overrules `name`.
    name : str
        Else the file, or the name of a bundled set.
    n_features : int or None
        Of the training data, which other data take over: what LIBSVM text has beyond them is left out.
    names : ColumnNames or None
        Of the columns of the training data, by which those of other tables are taken.
    labels : {"required", "if_there", "none"}
        Whether there must be labels, may be, or are not read.

    Returns
    -------
    callable
    """
    if isinstance(given, str | Path):
        name = str(given)
    elif given is not None or not name:
        wanted = Wanted(
            data.label_column, tuple(data.ignore_columns), missing=data.missing, categories=data.categories
        )
        return lambda: as_source(given, names, labels=labels, wanted=wanted)
    return lambda: open_data(
        name,
        data_dir=data.directory or None,
        format=data.format,
        label_column=data.label_column,
        ignore_columns=data.ignore_columns,
        names=names,
        labels=labels,
        n_features=n_features or data.n_features,
        zero_based=data.zero_based,
        ignore_extra_features=False if n_features is None else "numbered",
        sort_indices=data.sort_indices,
        header=data.header,
        comment=data.comment,
        missing_values=data.missing_values,
        missing=data.missing,
        categories=data.categories,
    )
