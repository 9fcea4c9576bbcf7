"""Which columns of a table are features, in which order, and which one holds the labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from distnewton.errors import ConfigError, DataError

LABEL_NAMES = ("label", "target", "class", "y")
LabelsWanted = Literal["required", "if_there", "none"]
_SHOWN = 10
"""Names in a message."""


@dataclass(frozen=True)
class ColumnNames:
    """Names that the columns of a table had when a model was trained on it.

    Attributes
    ----------
    features : tuple of str
        Distinct, in the order of the network's inputs.
    label : str
        Of the column with the labels.
    """

    features: tuple[str, ...]
    label: str

    def to_json(self) -> list[Any]:
        """Plain values for JSON."""
        return [list(self.features), self.label]

    @classmethod
    def from_json(cls, values: Any) -> ColumnNames | None:
        """Undo :meth:`to_json`; None stays None."""
        return None if values is None else cls(tuple(values[0]), values[1])


@dataclass(frozen=True)
class Wanted:
    """What a caller wants of a table.

    Attributes
    ----------
    label_column : int, str or None
        Column of the labels by number from 0 (negative: from the end) or by name; None takes the one named ``label``,
        ``target``, ``class`` or ``y`` (in any case), and the last one where none is.
    ignored : tuple of (int or str)
        Columns that are neither features nor labels, likewise.
    names : ColumnNames or None
        Names to take columns by, where the table has names; the other attributes then do not count.
    n_features : int or None
        Number of features.
    ignore_extra : bool
        Whether features beyond that are left out instead of refused.
    labels : {"required", "if_there", "none"}
        Whether there must be labels, may be, or are not read even where they are there.
    """

    label_column: int | str | None = None
    ignored: tuple[int | str, ...] = ()
    names: ColumnNames | None = None
    n_features: int | None = None
    ignore_extra: bool = False
    labels: LabelsWanted = "required"


@dataclass(frozen=True)
class Selection:
    """What is taken of a table.

    Attributes
    ----------
    features : tuple of int
        Columns in the order of the features.
    label : int or None
        Column of the labels; None where there are none.
    n_extra : int
        Features left out because more are there than wanted.
    notes : list of str
        What a user should be told.
    """

    features: tuple[int, ...]
    label: int | None
    n_extra: int = 0
    notes: list[str] = field(default_factory=list)


def select_columns(path: Path, columns: Sequence[str], named: bool, wanted: Wanted) -> Selection:
    """Find the features and the labels among the columns of a table.

    Parameters
    ----------
    path : Path
        File, for messages.
    columns : sequence of str
        Names of all columns.
    named : bool
        Whether they are the file's own.
    wanted : Wanted
        What is asked for.

    Returns
    -------
    Selection

    Raises
    ------
    ConfigError
        If a column that a setting names is not there.
    DataError
        If features are missing, or there are more than wanted.
    """
    if named and wanted.names is not None:
        return _by_name(path, columns, wanted.names, wanted.labels)
    return _by_place(path, columns, named, wanted)


def _by_name(path: Path, columns: Sequence[str], names: ColumnNames, labels: LabelsWanted) -> Selection:
    places = {name: i for i, name in enumerate(columns)}
    missing = [name for name in names.features if name not in places]
    if missing:
        raise DataError(
            f"{path}: has no column {_listed(missing)}, which the model was trained on; its columns are "
            f"{_listed(columns)}. Columns are taken by name: rename them"
        )
    used = {*names.features, names.label}
    if twice := [name for name in places if name in used and list(columns).count(name) > 1]:
        raise DataError(f"{path}: has two columns {_listed(twice)}; columns are taken by name: rename one")
    label = places.get(names.label)
    if label is None and labels == "required":
        raise DataError(
            f"{path}: has no column {names.label}, which held the labels in training; its columns are "
            f"{_listed(columns)}"
        )
    others = [name for name in columns if name not in used]
    notes = [f"{path}: columns that the model does not know are left out: {_listed(others)}"] if others else []
    return Selection(tuple(places[name] for name in names.features), None if labels == "none" else label, notes=notes)


def _by_place(path: Path, columns: Sequence[str], named: bool, wanted: Wanted) -> Selection:
    ignored = {column_index(path, columns, named, column, "ignore_columns") for column in wanted.ignored}
    rest = [i for i in range(len(columns)) if i not in ignored]
    label: int | None = _label_place(path, columns, named, wanted, rest)
    if label in ignored:
        raise ConfigError(f"ignore_columns names {columns[label]}, the label column of {path}")
    features = [i for i in rest if i != label]
    n_wanted = len(features) if wanted.n_features is None else wanted.n_features
    if n_wanted > len(features) or (n_wanted < len(features) and not wanted.ignore_extra):
        beside = "" if label is None else f" beside that of the labels ({columns[label]})"
        raise DataError(
            f"{path}: has {len(features)} feature columns{beside}, expected {n_wanted}; check that it belongs to the "
            "same data"
        )
    if not features:
        raise DataError(f"{path}: expected a label and at least one feature, got columns {_listed(columns)}")
    n_extra = len(features) - n_wanted
    notes = []
    if n_extra:
        notes.append(f"the last {n_extra} feature columns, beyond the {n_wanted} expected, were ignored")
    if label is None:
        notes.append(f"{path}: no label column, all {n_wanted} columns are features")
    return Selection(tuple(features[:n_wanted]), None if wanted.labels == "none" else label, n_extra, notes)


def _label_place(path: Path, columns: Sequence[str], named: bool, wanted: Wanted, rest: list[int]) -> int | None:
    """Column of the labels; None where the others are as many as the features, and no name says otherwise."""
    if wanted.labels != "required" and len(rest) == wanted.n_features:
        lower = {name.lower() for name in columns} if named else set()
        if wanted.label_column not in columns and not lower & set(LABEL_NAMES):
            return None
    if wanted.label_column is not None:
        return column_index(path, columns, named, wanted.label_column, "label_column")
    by_name = {columns[i].lower(): i for i in reversed(rest)} if named else {}
    return next((by_name[name] for name in LABEL_NAMES if name in by_name), rest[-1] if rest else None)


def column_index(path: Path, columns: Sequence[str], named: bool, column: int | str, setting: str) -> int:
    """Number of a column that a setting names.

    Parameters
    ----------
    path : Path
        File, for messages.
    columns : sequence of str
        Names of all columns.
    named : bool
        Whether they are the file's own.
    column : int or str
        By number from 0 (negative: from the end) or by name.
    setting : str
        Where it is given.

    Returns
    -------
    int

    Raises
    ------
    ConfigError
        If there is no such column.
    """
    n_columns = len(columns)
    if isinstance(column, str) and column in columns:
        return list(columns).index(column)
    try:
        index = int(column)
    except ValueError:
        known = (
            f"the columns are {_listed(columns)}" if named else "the file has no header; give a number from 0"
        )
        raise ConfigError(f"{setting} = {column!r}: {path} has no such column; {known}") from None
    if not -n_columns <= index < n_columns:
        raise ConfigError(
            f"{setting} = {index}: {path} has {n_columns} columns, so 0 to {n_columns - 1} are possible"
        )
    return index % n_columns


def check_names(name: str, found: ColumnNames | None, expected: ColumnNames | None) -> None:
    """Refuse data whose features have other names than expected, or another order.

    Parameters
    ----------
    name : str
        Of the data.
    found, expected : ColumnNames or None
        Names; None: not known, and not compared.

    Raises
    ------
    DataError
        With the first difference, as an error that all ranks see.
    """
    if found is None or expected is None or found.features == expected.features:
        return
    pairs = zip_longest(found.features, expected.features, fillvalue="nothing")
    i, (own, other) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
    raise DataError(
        f"{name}: feature {i} is the column {own}, in training it was {other}; open the data with names=model.names, "
        "which takes columns by name",
        collective=True,
    )


def names_of(columns: Sequence[str], selection: Selection) -> ColumnNames | None:
    """Names to take the columns of other tables by; None where two are alike, or without labels.

    Parameters
    ----------
    columns : sequence of str
        Names of all columns, the file's own.
    selection : Selection
        What is taken of them.

    Returns
    -------
    ColumnNames or None
    """
    if selection.label is None:
        return None
    used = [*(columns[i] for i in selection.features), columns[selection.label]]
    distinct = all(used) and len(set(columns)) == len(columns)
    return ColumnNames(tuple(used[:-1]), used[-1]) if distinct else None


def names_from_frame(features: Iterable[Any], label: Any) -> ColumnNames | None:
    """Names that a DataFrame has for its columns, and a Series of labels for itself.

    Parameters
    ----------
    features : iterable
        A name each.
    label : object
        Of the labels; ``label`` where it is no text.

    Returns
    -------
    ColumnNames or None
        None where there are no names of features, or some are no texts, empty or alike.
    """
    names = [*features, label if isinstance(label, str) and label else LABEL_NAMES[0]]
    distinct = len(set(names)) == len(names) > 1 and all(isinstance(name, str) and name for name in names)
    return ColumnNames(tuple(names[:-1]), names[-1]) if distinct else None


def _listed(names: Sequence[str]) -> str:
    """Names in a message, of many the first."""
    more = f", ... ({len(names)} in all)" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
