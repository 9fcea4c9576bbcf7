"""Common base of tables: converts typed, named columns to features and labels, independent of the file format.

All other code sees blocks of float64 or float32 features and an Arrow array of labels. Arrow (pyarrow) parses and holds
the columns; only this module and :mod:`distnewton.data.columns` decide what is a header, an index, a label, a missing
value or a number.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from distnewton.data.columns import (
    LABEL_NAMES,
    ColumnNames,
    Selection,
    Wanted,
    column_place,
    listed,
    names_of,
    select_columns,
)
from distnewton.data.description import Description
from distnewton.data.encoding import MOST_CATEGORIES, NO_FILL, ColumnEncoding, TableEncoding, coded_texts, fill_value
from distnewton.data.formats.numbers import DECIMAL_COMMA, NUMBER
from distnewton.data.labels import MISSING, join_labels, labels_of, labels_of_texts
from distnewton.data.row_selection import RowSelection
from distnewton.data.source import Source
from distnewton.errors import DataError, MissingInputError

if TYPE_CHECKING:
    import pyarrow as pa

    from distnewton.data.description import Labels

BATCH_VALUES = 1 << 20
"""Approximate number of values in a block of features."""
_NAME_BYTES = 400
"""Memory for a column's name in all lookup tables; measured with 200,000 columns."""
BLOCKS_BYTES = 70 << 20
"""Memory for blocks of text and numbers in Arrow and numpy; measured with CSV of 3 and 200,000 columns."""
_FILL_VALUES = 1 << 24
"""Approximate number of values held at once for the medians of columns."""
_DATE = re.compile(
    r"\d{4}[-/]\d{1,2}\b|\d{1,2}[./-]\d{1,2}[./-]\d{2,4}|\d{1,2}:\d{2}"
    r"|(\d{1,2}[ -])?(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*[ .,-]+\d",
    re.IGNORECASE,
)
_MARKED = re.compile(r"[+-]?[$€£¥]? ?-?([0-9]+|[0-9]{1,3}([,.' ][0-9]{3})+)([.,][0-9]*)? ?[%$€£¥]?")
"""A number with a decimal comma, separators of thousands, or a sign of percent or currency."""
_TOLD = 20
"""Most problems listed in a message."""

T = TypeVar("T")
Block = tuple[NDArray[Any], Any]
"""Features, (n_rows, n_wanted), and the Arrow array of labels, or None."""


class TableSource(Source):
    """A table from which any range of features can be read without the other columns.

    Parameters
    ----------
    name : str
        For messages.
    columns : sequence of str
        Names of all columns.
    named : bool
        Whether the table itself names its columns.
    wanted : Wanted
        Requested columns.
    index : sequence of str
        Columns that the table declares as its index.

    Attributes
    ----------
    format : str
        Name of the format.
    n_at_once : int or None
        Most features read at once; a wider table is read in one pass for each group of so many. None for no limit.
    unknown_notes : list of str
        Notes on columns with texts that the training data lack, from the last pass over the table.
    """

    format: ClassVar[str]
    n_at_once: ClassVar[int | None] = None

    def __init__(
        self, name: str, columns: Sequence[str], named: bool, wanted: Wanted, index: Sequence[str] = ()
    ) -> None:
        self.name, self._columns, self._named, self._wanted = name, columns, named, wanted
        self._selection: Selection = select_columns(name, columns, named, wanted, index)
        self._encoding = None if wanted.names is None else wanted.names.encoding
        self.unknown_notes: list[str] = []

    @property
    def encoding(self) -> TableEncoding | None:
        """How columns become features; None if not known."""
        return self._encoding

    @property
    def columns(self) -> Sequence[str]:
        """Names of all columns; empty if the table does not name them itself."""
        return self._columns if self._named else ()

    def feature_columns(self) -> Iterator[str]:
        """Names of the feature columns."""
        return (self._columns[i] for i in self._selection.features)

    def adopt(self, names: ColumnNames | None) -> None:
        """Adopt the encoding of columns that one rank determined.

        Parameters
        ----------
        names : ColumnNames or None
            Names from the description; None changes nothing.
        """
        if names is not None:
            self._encoding = names.encoding

    def describe(self) -> Description:
        """Check the whole table in one streaming pass, or more if columns must be encoded."""
        return self.as_numbers(lambda: self.scan(lambda _: None))

    def as_numbers(self, work: Callable[[], T]) -> T:
        """Go through the table; if not all columns are numbers, encode it and go through it again.

        Parameters
        ----------
        work : callable
            Work on the table, which raises DataError if a column is not numeric.

        Returns
        -------
        object
            Result of `work`.
        """
        if self._wanted.missing not in ("auto", "refuse"):
            self.encode()
        try:
            return work()
        except DataError:
            if not self.encode():
                raise
        return work()

    def encode(self, *, always: bool = False) -> bool:
        """Determine how columns with text or missing values become numbers.

        Parameters
        ----------
        always : bool
            Whether to encode even a table of numbers without missing values, since another table may have some.

        Returns
        -------
        bool
            False if the encoding is already known, there are no such columns, or they may not be encoded.

        Raises
        ------
        DataError
            Lists all columns that cannot be encoded.
        """
        if not self._may_encode:
            return False
        self._encoding = self._fit_encoding(always)
        return self._encoding is not None

    @property
    def _may_encode(self) -> bool:
        """Whether columns with text or missing values may still be encoded."""
        return self._encoding is None and self._wanted.encodes and not self._wanted.is_later

    def scan(self, take: Callable[[NDArray[Any]], None]) -> Description:
        """Check the whole table with its current encoding, and pass the samples to `take`.

        Parameters
        ----------
        take : callable
            Called with the features of each block, (n, n_features); if there are more than `n_at_once` features, with
            one group of them after the other.

        Returns
        -------
        Description
        """
        selection, labels, unknown = self._selection, _Labels(self), Counter[str]()
        n_samples = n_nonzeros = 0
        with self._opened():
            for first, last in self._groups(0, self._n_readable()):
                for X, label in self._range_blocks(first, last, unknown, None if first else selection.label):
                    if label is not None:
                        labels.add(label, n_samples)
                    n_samples += 0 if first else len(X)
                    n_nonzeros += int(np.count_nonzero(X))
                    take(X)
        if not n_samples:
            raise DataError(f"{self.name}: no samples (it is empty, or holds only a header)")
        self.unknown_notes = [
            f"{self.name}: {n} values of column {name} are texts that the training data lack; their features "
            "are 0"
            for name, n in unknown.items()
        ]
        named = self._named or self._encoding is not None
        return Description(
            self.name, self.format, n_samples, self._n_readable(), n_nonzeros, False,
            np.full(n_samples, np.nan) if selection.label is None else labels.joined(),
            selection.n_extra * n_samples,
            self._notes() + selection.notes + self._encoding_notes() + self.unknown_notes,
            labelled=selection.label is not None,
            names=names_of(self._columns, selection, self._encoding) if named else None,
        )  # fmt: skip

    def texts(self, column: int | str, setting: str) -> tuple[str, list[str]]:
        """Read a column of any type as texts, for example row identifiers.

        Parameters
        ----------
        column : int or str
            Column by name, or by number from 0 (negative: from the end).
        setting : str
            Setting that names it, for messages.

        Returns
        -------
        str and list of str
            Name of the column, and one text for each row; empty if missing.
        """
        place = column_place(self.name, self._columns, self._named, column, setting)
        return self._columns[place], [text for block in self.text_blocks(place) for text in block]

    def text_blocks(self, place: int) -> Iterator[list[str]]:
        """Yield blocks of texts of column number `place`; a missing value is an empty text."""
        with self._opened():
            for columns in self._arrays([place], {place}):
                yield ["" if text is None else text.strip() for text in columns[0].to_pylist()]

    @property
    def has_whole_rows(self) -> bool:
        """Whether each block holds all features of its samples."""
        return self.n_at_once is None or self._n_readable() <= self.n_at_once

    def locate(self, i_sample: int) -> str:
        """``name: row i``, counted from 1."""
        return f"{self.name}: row {i_sample + 1}"

    @abstractmethod
    def _blocks(self, features: Sequence[int], label: int | None) -> Iterator[Block]:
        """Yield blocks of rows of bounded size; all features are finite."""

    @abstractmethod
    def _arrays(self, places: Sequence[int], texts: set[int]) -> Iterator[list[Any]]:
        """Yield blocks of columns as Arrow arrays: texts, labels in their own type, all others float64."""

    @abstractmethod
    def _text_columns(self, places: Sequence[int]) -> set[int]:
        """Numbers of the columns that hold text."""

    def _notes(self) -> list[str]:
        """Notices for the user about the table."""
        return []

    def _encoding_notes(self) -> list[str]:
        """Notes on the features of each encoded column, and on the label column if no setting names it."""
        if self._encoding is None:
            return []
        columns, texts, gaps = self._encoding.columns, list[str](), list[str]()
        for i, column in zip(self._selection.features, columns, strict=True):
            if column.categories is not None:
                texts.append(f"{self._columns[i]} ({len(column.categories)})")
            if column.indicator:
                gaps.append(self._columns[i])
        notes = [f"{self.name}: {len(columns)} columns become {self._encoding.n_features} features"]
        if texts:
            notes[0] += f"; one for each text of {listed(texts)} (data.categories)"
        if gaps:
            notes[0] += f"; one more marks missing values of {listed(gaps)} (data.missing)"
        if self._wanted.names is None:
            rule = "mean" if self._wanted.missing == "mean" else "median"
            notes[0] += f"; the {rule} replaces missing numbers, also in other tables"
        if self._selection.label is not None and self._wanted.names is None and self._wanted.label_column is None:
            label = self._columns[self._selection.label]
            notes.append(f"{self.name}: the labels are in column {label} (data.label_column)")
        return notes

    def _n_readable(self) -> int:
        return len(self._selection.features) if self._encoding is None else self._encoding.n_features

    @property
    def reading_bytes(self) -> float:
        """Memory for names and blocks."""
        return float(_NAME_BYTES * len(self._columns) + BLOCKS_BYTES)

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """Keep resources open that each pass over the table needs."""
        yield

    def _groups(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield ranges of features, at least one range, that are read at once."""
        width = self.n_at_once or max(1, stop - start)
        yield from ((first, min(first + width, stop)) for first in range(start, max(stop, start + 1), width))

    def _range_blocks(
        self, start: int, stop: int, unknown: Counter[str], label: int | None = None
    ) -> Iterator[Block]:
        """Yield blocks of a range of features, and of labels; count unknown texts."""
        selection, encoding = self._selection, self._encoding
        if start == stop:
            # without columns Arrow would not give the number of rows
            yield from ((X[:, :0], labels) for X, labels in self._range_blocks(0, 1, unknown, label))
            return
        if encoding is None:
            yield from self._blocks(selection.features[start:stop], label)
            return
        covering = encoding.covering(start, stop)
        places = [selection.features[j] for j in covering]
        texts = {selection.features[j] for j in covering if encoding.columns[j].categories is not None}
        starts = encoding.starts[covering.start : covering.stop + 1].tolist()
        for columns in self._arrays([*places, *([] if label is None else [label])], texts):
            X = np.zeros((len(columns[0]), starts[-1] - starts[0]))
            for j, place, column, first, last in zip(covering, places, columns, starts, starts[1:], strict=False):
                n_unknown = encoding.columns[j].encode(column, X[:, first - starts[0] : last - starts[0]])
                if n_unknown and first >= start:
                    unknown[self._columns[place]] += n_unknown
            yield X[:, start - starts[0] : stop - starts[0]], None if label is None else columns[-1]

    def _fit_encoding(self, always: bool) -> TableEncoding | None:
        """Fit the encoding of columns; None if all values are numbers and none is missing, unless `always`."""
        missing, unreadable = self._wanted.missing, self._unreadable()
        problems = Problems(unreadable)
        places = [i for i in self._selection.features if i not in unreadable]
        contents = self._contents(places, problems)
        if not contents.n_rows:
            return None  # the scan refuses a table without samples
        if contents.is_numeric and not unreadable and not always and missing in ("auto", "refuse"):
            return None
        fills = {} if missing == "refuse" else self._fills(places, contents)
        for i in places:
            self._check_content(i, contents, problems)
        problems.raise_named(self.name, self._columns, self._selection.label)
        return contents.encoding(places, fills, has_indicators=missing in ("auto", "indicator"))

    def _contents(self, places: Sequence[int], problems: Problems) -> _Contents:
        """Collect the contents of feature columns; missing labels become problems."""
        texts, label = self._text_columns(places), self._selection.label
        contents = _Contents({i: set() for i in texts})
        for first, last in self._groups(0, len(places)):
            contents.n_rows, group = 0, places[first:last]
            labels = [] if label is None or first else [label]
            for columns in self._arrays([*group, *labels], texts):
                for i, column in zip(group, columns, strict=False):
                    contents.add(i, column)
                for i, column in zip(labels, columns[len(group) :], strict=True):
                    if column.null_count:
                        row = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
                        problems.add(i, f"{self.locate(contents.n_rows + row)}: {MISSING}")
                contents.n_rows += len(columns[0]) if columns else 0
        return contents

    def _check_content(self, place: int, contents: _Contents, problems: Problems) -> None:
        """Add the problem that prevents a column from being encoded, if any."""
        n_missing, categories = contents.n_missing[place], self._wanted.categories
        if n_missing and self._wanted.missing == "refuse":
            problems.add(place, f"{n_missing} of {contents.n_rows} values are missing: set data.missing, or")
        if place not in contents.texts:
            return
        texts = contents.texts[place]
        problem = text_problem(texts, contents.n_rows, categories)
        if not problem and categories == "auto":
            problem = self._stray_text(place, texts)
        if problem:
            problems.add(place, problem)

    def _unreadable(self) -> dict[int, str]:
        """Messages for the columns that are neither numbers nor texts."""
        return {}

    def _stray_text(self, place: int, texts: set[str]) -> str:
        """Message for a column with a few texts among its numbers; empty if most values are texts."""
        strays = sorted(text for text in texts if not _is_numeral(text))
        has_comma = bool(strays) and DECIMAL_COMMA.fullmatch(strays[0]) is not None
        if not strays or (len(strays) * 2 > len(texts) and not has_comma):
            return ""
        where = self.locate(self.texts(place, "data.categories")[1].index(strays[0].strip()))
        if has_comma:
            return f"{strays[0]!r} ({where}) has a decimal comma; write decimals with a point, or"
        return (
            f"{strays[0]!r} appears among numbers ({where}; {len(strays)} of {len(texts)} different values are texts): "
            "repair it, name it in data.missing_values, set data.categories = onehot, or"
        )

    def _fills(self, places: Sequence[int], contents: _Contents) -> dict[int, float]:
        """Fill values of all numeric columns, since in another table other values may be missing."""
        fills, numbers = dict[int, float](), [i for i in places if i not in contents.texts]
        width = max(1, min(self.n_at_once or len(numbers), _FILL_VALUES // contents.n_rows))
        for first in range(0, len(numbers), width):
            group = numbers[first : first + width]
            blocks = [
                np.column_stack([column.to_numpy(zero_copy_only=False) for column in columns])
                for columns in self._arrays(group, set())
            ]
            values = np.concatenate(blocks)
            fills |= {i: fill_value(values[:, k], self._wanted.missing) for k, i in enumerate(group)}
        return fills

    def _read(self, start: int, stop: int, dtype: np.dtype[Any], wanted: RowSelection) -> NDArray[Any]:
        """Read a range of features; numbers of all types become floats."""
        # the number of rows in a text is unknown; pages of a large array are not copied when it grows
        result = np.empty((0, stop - start), dtype)
        with self._opened():
            for first, last in self._groups(start, stop):
                n_samples = n_rows = 0
                for X, _ in self._range_blocks(first, last, Counter()):
                    place, chosen = wanted.of(n_samples, len(X))
                    n_samples, n_rows = n_samples + len(X), place.stop
                    if n_rows > len(result):
                        result.resize((max(n_rows, len(result) * 17 // 16), stop - start), refcheck=False)
                    result[place, first - start : last - start] = X[chosen]
                result.resize((n_rows, stop - start), refcheck=False)
        return result


@dataclass
class _Contents:
    """Distinct texts and number of missing values in each column, from a pass over a table."""

    texts: dict[int, set[str]]  # only for columns of texts
    n_missing: Counter[int] = field(default_factory=Counter)
    n_rows: int = 0

    def add(self, place: int, column: Any) -> None:
        """Add a block of a column."""
        self.n_missing[place] += column.null_count
        if place in self.texts:
            self.texts[place] |= {text for text in coded_texts(column)[0] if text is not None}

    @property
    def is_numeric(self) -> bool:
        """Whether all values are numbers and none is missing."""
        return not self.texts and not self.n_missing.total()

    def encoding(self, places: Sequence[int], fills: Mapping[int, float], *, has_indicators: bool) -> TableEncoding:
        """Build the encoding from the fill values; `has_indicators`: missing values get their own features."""
        return TableEncoding(tuple(
            ColumnEncoding(
                tuple(sorted(self.texts[i])) if i in self.texts else None, fills.get(i, 0.0),
                has_indicators and self.n_missing[i] > 0,
            )
            for i in places
        ))  # fmt: skip


class _Labels:
    """Labels of a table, collected block by block."""

    def __init__(self, source: TableSource) -> None:
        self._source, self._parts = source, list[Any]()

    def add(self, column: Any, first: int) -> None:
        """Add the labels of a block, whose first sample is number `first`, from 0."""
        import pyarrow as pa
        from pyarrow import compute

        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        column = _decoded(column)
        kind: Any = column.type

        def locate(i: int) -> str:
            return self._source.locate(first + i)

        missing: Any = np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)) if column.null_count else ()
        if len(missing):
            raise DataError(f"{locate(int(missing[0]))}: {MISSING}")
        if pa.types.is_decimal(kind):
            column = column.cast(pa.string())
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            column = compute.call_function("utf8_trim_whitespace", [column])
            # convert each distinct label to a Python str only once
            coded = column.dictionary_encode()
            indices, texts = coded.indices.to_numpy(), np.array(coded.dictionary.to_pylist(), np.object_)
            texts = labels_of(texts, lambda i: locate(int(np.argmax(indices == i)))).astype(np.str_)
            self._parts.append((texts, indices))
        elif is_number(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind):
            self._parts.append(labels_of(column.to_numpy(zero_copy_only=False), locate))
        else:
            raise DataError(f"{self._source.name}: labels must be numbers or text, got a column of {kind}")

    def joined(self) -> Labels:
        """All labels."""
        texts = [part for part in self._parts if isinstance(part, tuple)]
        if len(texts) < len(self._parts):
            return join_labels([part if not isinstance(part, tuple) else part[0][part[1]] for part in self._parts])
        distinct = labels_of_texts(np.unique(np.concatenate([part[0] for part in texts])))
        values: Labels = np.concatenate([part[0][part[1]] for part in texts])
        return values.astype(np.float64) if distinct.dtype.kind == "f" else values


class Problems:
    """Problems with the columns of a table, the first in each column, reported together.

    Parameters
    ----------
    known : mapping of int to str
        Messages by column number.
    """

    def __init__(self, known: Mapping[int, str] = MappingProxyType({})) -> None:
        self._of_column: dict[Any, str] = dict(known)

    def add(self, column: int, text: str) -> None:
        """Add the problem of a column, unless it already has one."""
        self._of_column.setdefault(column, text)

    def raise_named(self, name: str, columns: Sequence[str], label: int | None) -> None:
        """Raise all problems as one error with the column names, and the setting that leaves the columns out."""
        of_label = self._of_column.pop(label, "")
        if names := [columns[i] for i in self._of_column]:
            self._of_column = {
                i: f"{name}: column {columns[i]}: {text} leave it out" for i, text in self._of_column.items()
            }
            self._of_column[None] = f"data.ignore_columns = {names[:_TOLD]} leaves these columns out"
        if of_label:
            self._of_column = {label: of_label, **self._of_column}
        self.raise_any()

    def raise_any(self) -> None:
        """Raise all problems as one error."""
        lines = list(self._of_column.values())
        if lines:
            more = [f"... and {len(lines) - _TOLD} more columns"] if len(lines) > _TOLD else []
            raise DataError("\n".join([*lines[:_TOLD], *more]))


class ArrowSource(TableSource):
    """A table of typed Arrow columns.

    Parameters
    ----------
    name : str
        For messages.
    schema : pyarrow.Schema
        Names and types of all columns, with the pandas metadata about the index.
    wanted : Wanted
        Requested columns.
    """

    def __init__(self, name: str, schema: pa.Schema, wanted: Wanted) -> None:
        super().__init__(name, schema.names, True, wanted, _index_of(schema))
        self._schema_of_table = schema
        if wanted.is_later or not wanted.encodes:
            # otherwise they are reported with all other problems
            Problems({
                i: f"{name}: column {schema.names[i]} {problem} leave the column out (data.ignore_columns), or choose "
                "another label column (data.label_column)"
                for i, problem in self._unreadable().items()
            }).raise_any()

    def _unreadable(self) -> dict[int, str]:
        texts = self._encoding is not None or self._wanted.encodes
        schema = self._schema_of_table
        problems = {i: _type_problem(schema.field(i).type, texts=texts) for i in self._selection.features}
        return {i: problem for i, problem in problems.items() if problem}

    @abstractmethod
    def _batches(self, places: list[int]) -> Iterator[Any]:
        """Yield record batches of distinct columns, in this order."""

    def _blocks(self, features: Sequence[int], label: int | None) -> Iterator[Block]:
        places = list(dict.fromkeys([*features, *([] if label is None else [label])]))
        row = 0
        for batch in self._slices(places):
            columns = [self._numbers(batch.column(k), i, row) for k, i in enumerate(features)]
            X = np.column_stack(columns) if columns else np.zeros((batch.num_rows, 0))
            yield X, None if label is None else batch.column(places.index(label))
            row += batch.num_rows

    def _slices(self, places: list[int]) -> Iterator[Any]:
        """Yield batches of bounded size."""
        height = max(1, BATCH_VALUES // max(1, len(places)))
        with self._damage_named():
            for whole in self._batches(places):
                for column in whole.columns:
                    if _is_text(column.type):
                        # Arrow accepts bytes that are not UTF-8, but fails to convert them to Python str
                        column.validate(full=True)
                for start in range(0, whole.num_rows, height):
                    yield whole.slice(start, height)

    def _arrays(self, places: Sequence[int], texts: set[int]) -> Iterator[list[Any]]:

        row = 0
        for batch in self._slices(list(places)):
            columns = []
            for i, column in zip(places, batch.columns, strict=True):
                if i in texts:
                    column = _as_texts(_decoded(column))
                elif i != self._selection.label:
                    column = self._numbers(column, i, row, missing=True)
                columns.append(column)
            yield columns
            row += batch.num_rows

    def _text_columns(self, places: Sequence[int]) -> set[int]:
        return {i for i in places if _is_text(self._schema_of_table.field(i).type)}

    def _numbers(self, column: Any, place: int, row: int, *, missing: bool = False) -> Any:
        """Finite numbers of a column; as an Arrow array if some may be missing."""
        import pyarrow as pa

        what = f"column {self._columns[place]}: value"
        if not pa.types.is_null(column.type) and (problem := _type_problem(column.type, texts=False)):
            raise DataError(f"{self.name}: column {self._columns[place]} {problem} leave the column out")
        if missing:
            values = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
            if np.isinf(values).any():
                raise DataError(f"{self.locate(row + int(np.argmax(np.isinf(values))))}: {what} is infinite; repair it")
            return pa.array(values, pa.float64(), from_pandas=True)
        if column.null_count:
            i = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
            advice = "is missing; set data.missing, fill it in or remove this sample"
            advice = NO_FILL if self._wanted.is_later else advice
            raise DataError(f"{self.locate(row + i)}: {what} {advice}")
        column = column.cast(pa.float64()) if pa.types.is_decimal(column.type) else column
        values = column.to_numpy(zero_copy_only=False)
        # float32 is kept, since a copy in float64 would double the memory of a block
        if values.dtype.kind != "f" or values.dtype.itemsize < 4:
            values = values.astype(np.float64)
        if not (finite := np.isfinite(values)).all():
            i = int(np.argmin(finite))
            raise DataError(
                f"{self.locate(row + i)}: {what} {values[i]} is not a finite number; repair it or remove the sample"
            )
        return values

    @contextmanager
    def _damage_named(self) -> Iterator[None]:
        """Convert Arrow's errors about damage to DataError."""
        import pyarrow as pa

        try:
            yield
        except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
            # pyarrow raises OSError for damaged content, too
            if isinstance(error, OSError) and error.errno:
                raise MissingInputError(f"{self.name}: cannot be read ({error.strerror})") from None
            raise DataError(
                f"{self.name}: {self.format.capitalize()} file is cut short or damaged ({error}); copy or download it "
                "again"
            ) from None


class FrameSource(ArrowSource):
    """A table in memory from pandas, polars or pyarrow.

    Parameters
    ----------
    frame : object with ``__arrow_c_stream__``, or pandas.DataFrame
        The table. Under MPI every rank passes the same whole table, and then copies its columns.
    wanted : Wanted or None
        Choice of features and labels; by default as for a file.
    name : str
        As it appears in messages.
    """

    format = "memory"

    def __init__(self, frame: Any, wanted: Wanted | None = None, name: str = "data") -> None:
        import pyarrow as pa

        # pandas names the index columns in its own metadata; its Arrow stream leaves them out
        is_pandas = type(frame).__module__.partition(".")[0] == "pandas"
        self._table = pa.Table.from_pandas(frame) if is_pandas else pa.table(frame)
        super().__init__(name, self._table.schema, wanted or Wanted())

    def _batches(self, places: list[int]) -> Iterator[Any]:
        yield from self._table.select(places).to_batches()


def is_frame(data: Any) -> bool:
    """Whether `data` is a table in memory that Arrow can read."""
    return hasattr(data, "columns") and hasattr(data, "__arrow_c_stream__")


def encode_frame(
    frame: Any, label: Any = None, wanted: Wanted | None = None, name: str = "data"
) -> tuple[NDArray[np.float64], ColumnNames, list[str]] | None:
    """Encode the features of a table in memory, without its labels, if they have texts or missing values.

    Parameters
    ----------
    frame : table
        Table that :class:`FrameSource` accepts.
    label : object
        Name of the labels; replaced by ``label`` if it is not a text.
    wanted : Wanted or None
        Rules for the encoding, including the names of a model if there is one.
    name : str
        As it appears in messages.

    Returns
    -------
    tuple of ndarray of shape (n_samples, n_features), ColumnNames and list of str, or None
        Features, names with their encoding, and notices for the user; None if all columns are already numbers, or none
        may be encoded.

    Raises
    ------
    DataError
        Lists all columns that cannot be encoded, or that a model requires and the table lacks.
    """
    wanted = replace(wanted or Wanted(), labels="apart", label_column=None, n_features=None)
    source = FrameSource(frame, wanted, name)
    names = wanted.names
    if names is None:
        if not source.encode():
            return None
        own = list(source.feature_columns())
        label = label if isinstance(label, str) and label and label not in own else LABEL_NAMES[0]
        names = ColumnNames(tuple(own), label, source.encoding)
    description = source.describe()
    notes = description.notes if wanted.names is None else source.unknown_notes
    return np.asarray(source.read(0, description.n_features)), names, notes


def _index_of(schema: pa.Schema) -> list[str]:
    """Columns that pandas wrote as the index of its rows."""
    metadata = schema.pandas_metadata or {}
    return [column for column in metadata.get("index_columns", []) if isinstance(column, str)]


def _decoded(column: Any) -> Any:
    """Convert a column from dictionaries and from the text type of polars, which few Arrow functions support."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = pa.DictionaryArray.from_arrays(column.indices, _decoded(column.dictionary)).dictionary_decode()
    return column.cast(pa.string()) if pa.types.is_string_view(column.type) else column


def _as_texts(column: Any) -> Any:
    """Convert values to texts; booleans as pandas writes them."""
    import pyarrow as pa
    from pyarrow import compute

    if pa.types.is_boolean(column.type):
        return compute.call_function("if_else", [column, pa.scalar("True"), pa.scalar("False")])
    return column.cast(pa.string())


def is_number(kind: pa.DataType) -> bool:
    """Whether a column's type is numeric."""
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


@lru_cache(1 << 16)
def _is_numeral(text: str) -> bool:
    """Whether a text is a number."""
    return NUMBER.fullmatch(text.strip().encode()) is not None


def _is_text(kind: pa.DataType) -> bool:
    """Whether a column's type is text or categorical."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        # categories count as texts, whatever the type of their values
        return _is_text(kind.value_type) or is_number(kind.value_type) or pa.types.is_boolean(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def text_problem(texts: set[str], n_rows: int, rule: str) -> str:
    """Reason why the texts of a column cannot become features, and the remedy; empty if they can."""
    if sum(bool(_DATE.match(text)) for text in texts) > len(texts) / 2:
        problem = "dates ({}): write them as numbers (a year, seconds since a start), or"
    elif len(texts) > MOST_CATEGORIES and len(texts) * 10 > n_rows and all(map(_MARKED.fullmatch, texts)):
        problem = "numbers with signs, commas or separators ({}): write them as plain numbers, or"
    elif len(texts) > MOST_CATEGORIES and len(texts) * 10 > n_rows:
        problem = f"{len(texts)} different texts in {n_rows} rows ({{}}), which looks like identifiers:"
    else:
        problem = "text ({}): set data.categories = onehot, or" if rule == "refuse" else ""
    return problem and problem.format(", ".join(repr(text)[:30] for text in sorted(texts)[:3]))


def _type_problem(kind: pa.DataType, *, texts: bool) -> str:
    """Reason why a column's type cannot be a feature, and the remedy; empty for numbers, booleans and encoded texts."""
    import pyarrow as pa

    if is_number(kind) or pa.types.is_boolean(kind) or (texts and (_is_text(kind) or pa.types.is_null(kind))):
        return ""
    if pa.types.is_temporal(kind):
        return f"is of type {kind}, a time; write it as numbers (a year, seconds since a start), or"
    remedy = "set data.categories = onehot, write categories as numbers" if _is_text(kind) else "write it as numbers"
    return f"is of type {kind}, not numbers; {remedy}, or"
