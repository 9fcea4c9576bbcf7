"""Selection of the feature columns of a table, their order, and the label column."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import field
from functools import cached_property
from itertools import zip_longest
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from distnewton.data.encoding import CATEGORY_RULES, MISSING_RULES, StoredColumn, TableEncoding
from distnewton.data.labels import MISSING_VALUES
from distnewton.errors import ConfigError, DataError
from distnewton.frozen import frozen
from distnewton.options import Options

LABEL_NAMES = ("label", "target", "class", "y")
LabelsWanted = Literal["required", "if_there", "none", "apart"]
_SHOWN = 10
"""Most names listed in a message."""
_PANDAS_INDEX = re.compile(r"__index_level_[0-9]+__")
_UNNAMED_INDEX = ("", "Unnamed: 0")
_ROW_NAMES = ("index", "id", "row", "row_id", "rownames")


@frozen
class ColumnNames:
    """Names of the columns of the table on which a model was trained.

    Attributes
    ----------
    features : tuple of str
        Distinct names, in the order of the network's inputs.
    label : str
        Name of the label column.
    encoding : TableEncoding or None
        How columns become network inputs; None if they are the inputs.
    files : tuple of int
        Number of features from each file if there are several; empty for one file.
    """

    features: tuple[str, ...]
    label: str
    encoding: TableEncoding | None = None
    files: tuple[int, ...] = ()

    @property
    def inputs(self) -> list[str]:
        """Names of the network's inputs: the features, or their encoded columns."""
        return list(self.features) if self.encoding is None else self.encoding.feature_names(self.features)

    def to_json(self) -> dict[str, Any]:
        """Convert to plain values for JSON, which :class:`StoredColumns` validates."""
        columns: dict[str, Any] = {"features": list(self.features), "label": self.label}
        columns |= {} if self.encoding is None else {"encoding": self.encoding.to_json()}
        return columns | ({"files": list(self.files)} if self.files else {})

    @classmethod
    def from_json(cls, values: Any) -> ColumnNames | None:
        """Undo :meth:`to_json`; None stays None."""
        if values is None:
            return None
        encoding = TableEncoding.from_json(values.get("encoding"))
        return cls(tuple(values["features"]), values["label"], encoding, tuple(values.get("files") or ()))

    def of_file(self, i: int) -> ColumnNames:
        """Names of the columns of one file."""
        first, last = sum(self.files[:i]), sum(self.files[: i + 1])
        own = None if self.encoding is None else TableEncoding(self.encoding.columns[first:last])
        return ColumnNames(self.features[first:last], self.label, own)

    @property
    def inputs_of_files(self) -> tuple[int, ...]:
        """Number of network inputs from each file."""
        return tuple(len(self.of_file(i).inputs) for i in range(len(self.files)))


class StoredColumns(Options):
    """Columns as :meth:`ColumnNames.to_json` writes them, in stores and model files."""

    features: list[str]
    label: str
    encoding: list[StoredColumn] | None = None
    files: list[Annotated[int, Field(ge=0)]] | None = None

    @property
    def n_features(self) -> int:
        """Number of features after encoding."""
        encoding = TableEncoding.from_json(self.encoding)
        return len(self.features) if encoding is None else encoding.n_features

    @model_validator(mode="after")
    def _usable(self) -> StoredColumns:
        if self.encoding is not None and len(self.encoding) != len(self.features):
            raise ValueError(f"{len(self.features)} columns, but the encoding has {len(self.encoding)}")
        if self.files is not None and sum(self.files) != len(self.features):
            raise ValueError(f"{len(self.features)} columns, but the files have {sum(self.files)}")
        if self.encoding is None and (problem := _unusable([*self.features, self.label])):
            raise ValueError(problem)
        return self


@frozen
class Wanted:
    """Requests of a caller to a data set; each format uses the settings that it names.

    Most attributes are settings of ``[data]``; the others are what the caller already knows.

    Attributes
    ----------
    label_column : int, str or None
        Column of the labels by number from 0 (negative: from the end) or by name; None takes the column named
        ``label``, ``target``, ``class`` or ``y`` (case-insensitive), or else the last one.
    ignored : tuple of (int or str)
        Columns that are neither features nor labels, by number or name.
    names : ColumnNames or None
        Names by which columns are taken if the table has names; the other attributes are then ignored.
    n_features : int or None
        Number of features expected.
    ignore_extra_features : bool or "numbered"
        Whether features beyond `n_features` are left out instead of refused; ``numbered``: only in sparse formats,
        which store the feature's number with each value.
    labels : {"required", "if_there", "none", "apart"}
        Whether labels are required, optional, or never read; ``apart``: no column holds them.
    header : bool or "auto"
        Whether the first line of a text file names the columns.
    comment : str
        Character that begins comment lines of a text table; empty for no comments.
    missing_values : tuple of str
        Texts that mark a missing value in a text table (case-insensitive).
    missing : {"auto", "refuse", "mean", "median", "indicator"}
        How to treat missing values in features of a table; ``indicator`` and ``auto`` fill in the median and add a
        feature. All but ``auto`` store a value to fill in for other tables even if this one has no missing value.
    categories : {"auto", "refuse", "onehot"}
        How to treat texts in features; ``auto`` is ``onehot``, but refuses a few texts among numbers.
    zero_based : bool
        Whether indices in LIBSVM text start at 0.
    sort_indices : bool
        Whether unsorted indices in LIBSVM text are sorted instead of refused.
    multilabel : bool
        Whether rows of LIBSVM text may have any number of labels.
    """

    label_column: int | str | None = None
    ignored: tuple[int | str, ...] = ()
    names: ColumnNames | None = None
    n_features: int | None = None
    ignore_extra_features: bool | Literal["numbered"] = False
    labels: LabelsWanted = "required"
    header: bool | str = "auto"
    zero_based: bool = False
    sort_indices: bool = False
    comment: str = ""
    missing_values: tuple[str, ...] = MISSING_VALUES
    missing: str = "auto"
    categories: str = "auto"
    multilabel: bool = False

    def __post_init__(self) -> None:
        if self.header not in (True, False, "auto"):
            raise ConfigError(f"header must be true, false or auto, got {self.header!r}")
        if self.n_features is not None and self.n_features < 1:
            raise ConfigError(f"n_features must be at least 1, got {self.n_features}")
        if self.missing not in MISSING_RULES or self.categories not in CATEGORY_RULES:
            raise ConfigError(
                f"missing must be one of {', '.join(MISSING_RULES)}, and categories of {', '.join(CATEGORY_RULES)}, "
                f"got {self.missing!r} and {self.categories!r}"
            )
        if len(self.comment.encode()) > 1 or self.comment.isspace():
            raise ConfigError(f"comment must be one ASCII character, got {self.comment!r}")

    @property
    def encodes(self) -> bool:
        """Whether missing values or texts are encoded as numbers."""
        return (self.missing, self.categories) != ("refuse", "refuse")

    @property
    def is_later(self) -> bool:
        """Whether an existing model or training data determine the features."""
        return self.names is not None or self.ignore_extra_features == "numbered"

    @property
    def n_columns(self) -> int | None:
        """Number of columns expected in addition to the labels."""
        names = self.names
        return self.n_features if names is None or names.encoding is None else len(names.features)

    @property
    def label_number(self) -> int | None:
        """Number of the label column of an array, whose columns have no names."""
        try:
            return None if self.label_column is None else int(self.label_column)
        except ValueError:
            raise ConfigError(f"label_column must be a number for arrays, got {self.label_column!r}") from None

    def n_kept(self, name: str, n_found: int, what: str = "features") -> int:
        """Number of features to take from a dense data set.

        Parameters
        ----------
        name : str
            Name of the data set, for messages.
        n_found : int
            Number of features in the data set.
        what : str
            Word for the features in messages.

        Returns
        -------
        int

        Raises
        ------
        DataError
            If there are fewer features than expected, or more and the caller does not allow that.
        """
        n_wanted = n_found if self.n_columns is None else self.n_columns
        if n_wanted > n_found or (n_wanted < n_found and self.ignore_extra_features is not True):
            raise DataError(
                f"{name}: has {n_found} {what}, expected {n_wanted}; check that it belongs to the same data"
            )
        return n_wanted


def extra_note(n_extra: int, n_kept: int, what: str = "features") -> list[str]:
    """Note to the user about features left out; empty if there are none."""
    return [f"the last {n_extra} {what}, beyond the {n_kept} expected, were ignored"] if n_extra else []


@frozen
class Selection:
    """Columns taken from a table.

    Attributes
    ----------
    features : tuple of int
        Columns in the order of the features.
    label : int or None
        Column of the labels; None if there are none.
    n_extra : int
        Number of features left out because the table has more than requested.
    notes : list of str
        Notices for the user.
    """

    features: tuple[int, ...]
    label: int | None
    n_extra: int = 0
    notes: list[str] = field(default_factory=list)


def column_place(name: str, columns: Sequence[str], named: bool, column: int | str, setting: str) -> int:
    """Find the number of the column that a setting names; raise ConfigError if there is none."""
    return _Table(name, list(columns), named, frozenset()).place(column, setting)


def select_columns(
    name: str, columns: Sequence[str], named: bool, wanted: Wanted, index: Iterable[str] = ()
) -> Selection:
    """Find the features and the labels among the columns of a table.

    Parameters
    ----------
    name : str
        Name of the table, for messages.
    columns : sequence of str
        Names of all columns.
    named : bool
        Whether the table itself names its columns.
    wanted : Wanted
        Requested columns.
    index : iterable of str
        Columns that the table declares as its index. An unnamed first column, and columns whose names pandas made up,
        count as index columns, too: they number rows, and are neither features nor labels.

    Returns
    -------
    Selection

    Raises
    ------
    ConfigError
        If the table lacks a column that a setting names.
    DataError
        If there are fewer features than requested, or more.
    """
    known = set(index)
    places = {i for i, column in enumerate(columns) if named and (column in known or _PANDAS_INDEX.fullmatch(column))}
    if named and len(columns) > 1 and columns[0] in _UNNAMED_INDEX:
        places.add(0)
    table = _Table(name, list(columns), named, frozenset(places))
    if named and wanted.names is not None:
        return table.select_by_name(wanted.names, wanted.labels)
    return table.select_by_place(wanted)


@frozen
class _Table:
    """Columns of a table: their names, whether the table names them itself, and which ones number the rows."""

    path: str
    columns: list[str]
    named: bool
    index: frozenset[int]

    @cached_property
    def _places(self) -> dict[str, int]:
        """First column with each name."""
        return {name: i for i, name in reversed(list(enumerate(self.columns)))}

    def select_by_name(self, names: ColumnNames, labels: LabelsWanted) -> Selection:
        """Select the columns that a model was trained on."""
        places = {name: i for i, name in enumerate(self.columns)}
        self._require_names(names, places, label_required=labels == "required")
        used = {*names.features, names.label}
        others = [name for name in self.columns if name not in used]
        left_out = f"{self.path}: columns that the model does not know are left out: {listed(others)}"
        label = None if labels in ("none", "apart") else places.get(names.label)
        return Selection(tuple(places[name] for name in names.features), label, notes=[left_out] if others else [])

    def _require_names(self, names: ColumnNames, places: dict[str, int], *, label_required: bool) -> None:
        """Refuse a table in which a required column is missing or occurs twice."""
        if missing := [name for name in names.features if name not in places]:
            raise DataError(
                f"{self.path}: has no column {listed(missing)}, which the model was trained on; its columns are "
                f"{listed(self.columns)}. Columns are taken by name: rename them"
            )
        wanted = {*names.features, names.label}
        if twice := [name for name, count in Counter(self.columns).items() if count > 1 and name in wanted]:
            raise DataError(f"{self.path}: has two columns {listed(twice)}; columns are taken by name: rename one")
        if label_required and names.label not in places:
            raise DataError(
                f"{self.path}: has no column {names.label}, which held the labels in training; its columns are "
                f"{listed(self.columns)}"
            )

    def select_by_place(self, wanted: Wanted) -> Selection:
        """Select features in file order, without labels and ignored columns."""
        ignored = {self.place(column, "ignore_columns") for column in wanted.ignored}
        label, features = self._split_columns(wanted, ignored)
        beside = "" if label is None else f" besides the label ({self.columns[label]})"
        n_kept = wanted.n_kept(str(self.path), len(features), f"feature columns{beside}")
        if not features:
            raise DataError(
                f"{self.path}: expected a label and at least one feature, got columns {listed(self.columns)}"
            )
        n_extra = len(features) - n_kept
        notes = extra_note(n_extra, n_kept, "feature columns")
        if label is None and wanted.labels != "apart":
            notes.append(f"{self.path}: no label column, all {n_kept} columns are features")
        notes += self._notes_on_names(features, label, ignored)
        return Selection(tuple(features[:n_kept]), None if wanted.labels == "none" else label, n_extra, notes)

    def _split_columns(self, wanted: Wanted, ignored: set[int]) -> tuple[int | None, list[int]]:
        """Find the label column and the feature columns."""
        rest = [i for i in range(len(self.columns)) if i not in ignored and i not in self.index]
        label = None if wanted.labels == "apart" else self._label_place(wanted, rest)
        if label in ignored:
            raise ConfigError(f"ignore_columns names {self.columns[label]}, the label column of {self.path}")
        return label, [i for i in rest if i != label]

    def _notes_on_names(self, features: Sequence[int], label: int | None, ignored: set[int]) -> Iterator[str]:
        """Notices about columns whose names are repeated or suggest that they number rows."""
        if left_out := sorted(self.index - ignored - {label}):
            names = listed([self.columns[i] or "without a name" for i in left_out])
            yield f"{self.path}: the index column ({names}) numbers the rows and is not a feature"
        if not self.named:
            return
        name = self.columns[0]
        if 0 in features and name.lower() in _ROW_NAMES:
            yield f"{self.path}: column {name} is a feature; if it numbers rows, set data.ignore_columns = {name}"
        selected = [self.columns[i] for i in (*features, *([] if label is None else [label]))]
        if problem := _unusable(selected):
            yield f"{self.path}: {problem}, so columns are taken by position, also in other tables"

    def _label_place(self, wanted: Wanted, rest: list[int]) -> int | None:
        """Find the label column; None if `rest` has just the expected number of features and none is named a label."""
        by_name = {self.columns[i].lower(): i for i in reversed(rest)} if self.named else {}
        usual = [by_name[name] for name in LABEL_NAMES if name in by_name]
        may_be_absent = wanted.labels != "required" and len(rest) == wanted.n_columns
        if may_be_absent and not usual and wanted.label_column not in self._places:
            return None
        if wanted.label_column is not None:
            return self.place(wanted.label_column, "label_column")
        return next(iter([*usual, *rest[-1:]]), None)

    def place(self, column: int | str, setting: str) -> int:
        """Find a column that a setting gives by number from 0 (negative: from the end) or by name."""
        if column in self._places:
            return self._places[str(column)]
        n_columns = len(self.columns)
        try:
            index = int(column)
        except ValueError:
            unnamed = "the file has no header; give a number from 0"
            known = f"the columns are {listed(self.columns)}" if self.named else unnamed
            raise ConfigError(f"{setting} = {column!r}: {self.path} has no such column; {known}") from None
        if not -n_columns <= index < n_columns:
            raise ConfigError(
                f"{setting} = {index}: {self.path} has {n_columns} columns, so 0 to {n_columns - 1} are possible"
            )
        return index % n_columns


def check_names(name: str, found: ColumnNames | None, expected: ColumnNames | None) -> None:
    """Refuse data whose features differ from the expected ones in name or order.

    Parameters
    ----------
    name : str
        Of the data.
    found, expected : ColumnNames or None
        Names to compare; None if unknown, which skips the comparison.

    Raises
    ------
    DataError
        At the first difference, as an error on all ranks.
    """
    if found is None or expected is None:
        return
    if found.encoding != expected.encoding:
        raise DataError(
            f"{name}: its missing values and categories are not encoded as in training; open the original table with "
            "names=model.names",
            collective=True,
        )
    if found.features == expected.features:
        return
    pairs = zip_longest(found.features, expected.features, fillvalue="nothing")
    i, (own, other) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
    raise DataError(
        f"{name}: feature {i} is the column {own}, but in training it was {other}; open the data with "
        "names=model.names, which takes columns by name",
        collective=True,
    )


def names_of(columns: Sequence[str], selection: Selection, encoding: TableEncoding | None = None) -> ColumnNames | None:
    """Names by which columns of other tables are taken; None if names are repeated or there are no labels.

    Parameters
    ----------
    columns : sequence of str
        Names of all columns, from the file.
    selection : Selection
        Columns that are taken.
    encoding : TableEncoding or None
        How the columns become features.

    Returns
    -------
    ColumnNames or None
    """
    if selection.label is None:
        return None
    used = [*(columns[i] for i in selection.features), columns[selection.label]]
    if encoding is None and _unusable(used):
        return None
    return ColumnNames(tuple(used[:-1]), used[-1], encoding)


def _unusable(names: Sequence[str]) -> str:
    """Reason why columns cannot be taken by these names; empty if they can."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice and twice != [""]:
        return f"two columns are named {listed([name for name in twice if name])}"
    return "" if all(names) else "a column has no name"


def matching_inputs(names: ColumnNames | None, patterns: Sequence[str], name: str) -> NDArray[np.intp]:
    """Find the network inputs whose names match given names or patterns.

    Parameters
    ----------
    names : ColumnNames or None
        Of the data.
    patterns : sequence of str
        Names, or patterns in which ``*`` stands for any text.
    name : str
        Of the data, for messages.

    Returns
    -------
    ndarray of int
        Numbers of the inputs, ascending.

    Raises
    ------
    ConfigError
        If the data have no names, or a pattern matches none; an error on all ranks.
    """
    if patterns and names is None:
        raise ConfigError(f"data.unpenalised names features, but those of {name} have no names", collective=True)
    inputs = [] if names is None else names.inputs
    found = np.zeros(len(inputs), bool)
    for pattern in patterns:
        fits = re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL).fullmatch
        own = np.array([fits(text) is not None for text in inputs], bool)
        if not own.any():
            raise ConfigError(
                f"data.unpenalised = {pattern}: {name} has no such feature; its features are {listed(inputs)}",
                collective=True,
            )
        found |= own
    return np.flatnonzero(found)


def names_from_frame(features: Iterable[Any], label: Any) -> ColumnNames | None:
    """Names of the columns of a DataFrame and of its Series of labels.

    Parameters
    ----------
    features : iterable
        Names of the features.
    label : object
        Name of the labels; replaced by ``label`` if it is not a text.

    Returns
    -------
    ColumnNames or None
        None if there are no features, or a feature's name is not a text, is empty or is repeated.
    """
    names = [*features, label if isinstance(label, str) and label else LABEL_NAMES[0]]
    distinct = len(set(names)) == len(names) > 1 and all(isinstance(name, str) and name for name in names)
    return ColumnNames(tuple(names[:-1]), names[-1]) if distinct else None


def listed(names: Sequence[str]) -> str:
    """List names for a message; of many only the first."""
    more = f", ... ({len(names)} in all)" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
