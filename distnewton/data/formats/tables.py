"""The door for tables: typed columns with names become features and labels, whatever the table is stored in.

Everything behind this door sees the same thing: a block of float64 or float32 features and an Arrow array of labels.
Arrow (pyarrow) parses and holds the columns; what is a header, an index, a label, a missing value, a number is decided
here and in :mod:`distnewton.data.columns` alone.
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
from distnewton.data.formats.numbers import NUMBER
from distnewton.data.labels import join_labels, labels_of, labels_of_texts
from distnewton.data.row_selection import RowSelection
from distnewton.data.source import Source
from distnewton.errors import DataError, MissingInputError

if TYPE_CHECKING:
    import pyarrow as pa

    from distnewton.data.description import Labels

BATCH_VALUES = 1 << 20
"""Values of a block of features, about."""
_NAME_BYTES = 400
"""Of a column's name, in the places where it is looked up; measured with 200,000 columns."""
BLOCKS_BYTES = 70 << 20
"""Of blocks of text and numbers, as Arrow and numpy hold and free them; measured with CSV of 3 and 200,000 columns."""
_FILL_VALUES = 1 << 24
"""Values that are held at once for the medians of columns, about."""
_DATE = re.compile(
    r"\d{4}[-/]\d{1,2}\b|\d{1,2}[./-]\d{1,2}[./-]\d{2,4}|\d{1,2}:\d{2}"
    r"|(\d{1,2}[ -])?(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*[ .,-]+\d",
    re.IGNORECASE,
)
DECIMAL_COMMA = re.compile(r"[+-]?[0-9]*,[0-9]*")
_LABEL_MISSING = "{}: label is missing; remove this sample or give it a label"
_TOLD = 20
"""Problems in a message."""

T = TypeVar("T")
Block = tuple[NDArray[Any], Any]
"""Features, (n_rows, n_wanted), and the Arrow array of labels, or None."""


class TableSource(Source):
    """A table, of which any range of features is read without the other columns.

    Parameters
    ----------
    name : str
        For messages.
    columns : sequence of str
        Names of all columns.
    named : bool
        Whether they are the table's own.
    wanted : Wanted
        Which columns are asked for.
    index : sequence of str
        Columns that the table calls its index.

    Attributes
    ----------
    format : str
        Name of the format.
    n_at_once : int or None
        Features that are read at once, where all of a wide table take too much; then there is a pass for each group.
    unknown_notes : list of str
        Which columns had texts that the training data do not have, when the table was last gone through.
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
        """How columns become features, as far as it is known."""
        return self._encoding

    @property
    def columns(self) -> Sequence[str]:
        """Names of all columns; empty where they are not the table's own."""
        return self._columns if self._named else ()

    def feature_columns(self) -> Iterator[str]:
        """Names of the columns that are features."""
        return (self._columns[i] for i in self._selection.features)

    def adopt(self, names: ColumnNames | None) -> None:
        """Take over how columns are encoded, as one rank has found it.

        Parameters
        ----------
        names : ColumnNames or None
            Of the description; None changes nothing.
        """
        if names is not None:
            self._encoding = names.encoding

    def describe(self) -> Description:
        """Check the whole table in one streaming pass; in more where its columns are to be encoded."""
        return self.as_numbers(lambda: self.scan(lambda _: None))

    def as_numbers(self, work: Callable[[], T]) -> T:
        """Go through the table; once more, encoded, where it is none of numbers alone.

        Parameters
        ----------
        work : callable
            What is to be done, which a DataError ends where a column is not of numbers.

        Returns
        -------
        object
            What `work` returns.
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
        """Find out how columns with text or missing values become numbers.

        Parameters
        ----------
        always : bool
            Whether to encode a table of numbers without gaps, too, since another one may have some.

        Returns
        -------
        bool
            False where it is known already, there are no such columns, or they are not to become any.

        Raises
        ------
        DataError
            With all columns that cannot be encoded.
        """
        if not self._may_encode:
            return False
        self._encoding = self._fit_encoding(always)
        return self._encoding is not None

    @property
    def _may_encode(self) -> bool:
        """Whether columns with text or missing values may still become numbers."""
        return self._encoding is None and self._wanted.encodes and not self._wanted.is_later

    def scan(self, take: Callable[[NDArray[Any]], None]) -> Description:
        """Check the whole table as it is encoded by now, and hand over the samples on the way.

        Parameters
        ----------
        take : callable
            Called with the features, (n, n_features), of block after block; in groups of `n_at_once` features, one
            after the other, where there are more of them.

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
            f"{self.name}: {n} values of column {name} are texts that the training data do not have; all of its "
            "features are 0 there"
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
        """A column as texts, whatever it is: the identifiers of rows, say.

        Parameters
        ----------
        column : int or str
            By name, or by number from 0 (negative: from the end).
        setting : str
            Setting that names it, for messages.

        Returns
        -------
        str and list of str
            Its name, and a text a row; empty where a value is missing.
        """
        place = column_place(self.name, self._columns, self._named, column, setting)
        return self._columns[place], [text for block in self.text_blocks(place) for text in block]

    def text_blocks(self, place: int) -> Iterator[list[str]]:
        """Texts of a column by its number, a block of rows after the other; empty where a value is missing."""
        with self._opened():
            for columns in self._arrays([place], {place}):
                yield ["" if text is None else text.strip() for text in columns[0].to_pylist()]

    @property
    def has_whole_rows(self) -> bool:
        """Whether a block has all features of its samples."""
        return self.n_at_once is None or self._n_readable() <= self.n_at_once

    def locate(self, i_sample: int) -> str:
        """``name: row i``, counted from 1."""
        return f"{self.name}: row {i_sample + 1}"

    @abstractmethod
    def _blocks(self, features: Sequence[int], label: int | None) -> Iterator[Block]:
        """Yield blocks of rows, of bounded size; all features are finite."""

    @abstractmethod
    def _arrays(self, places: Sequence[int], texts: set[int]) -> Iterator[list[Any]]:
        """Yield Arrow arrays of some columns, block after block: of texts, of a label's own type, else of float64."""

    @abstractmethod
    def _text_columns(self, places: Sequence[int]) -> set[int]:
        """Which columns hold text."""

    def _notes(self) -> list[str]:
        """What a user should be told of the table."""
        return []

    def _encoding_notes(self) -> list[str]:
        """Which columns became how many features, and where the labels are if nobody said so."""
        if self._encoding is None:
            return []
        columns, texts, gaps = self._encoding.columns, list[str](), list[str]()
        for i, column in zip(self._selection.features, columns, strict=True):
            if column.categories is not None:
                texts.append(f"{self._columns[i]} ({len(column.categories)})")
            if column.indicator:
                gaps.append(self._columns[i])
        notes = [f"{self.name}: {len(columns)} columns are {self._encoding.n_features} features"]
        if texts:
            notes[0] += f"; one for each text of {listed(texts)} (data.categories)"
        if gaps:
            notes[0] += f"; one more where values are missing in {listed(gaps)} (data.missing)"
        if self._wanted.names is None:
            rule = "mean" if self._wanted.missing == "mean" else "median"
            notes[0] += f"; the {rule} takes the place of missing numbers, in other tables, too"
        if self._selection.label is not None and self._wanted.names is None and self._wanted.label_column is None:
            label = self._columns[self._selection.label]
            notes.append(f"{self.name}: the labels are those of column {label} (data.label_column)")
        return notes

    def _n_readable(self) -> int:
        return len(self._selection.features) if self._encoding is None else self._encoding.n_features

    @property
    def reading_bytes(self) -> float:
        """Of names, and of blocks."""
        return float(_NAME_BYTES * len(self._columns) + BLOCKS_BYTES)

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """Keep open what each pass over the table needs."""
        yield

    def _groups(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges of features, one at least, that are read at once."""
        width = self.n_at_once or max(1, stop - start)
        yield from ((first, min(first + width, stop)) for first in range(start, max(stop, start + 1), width))

    def _range_blocks(
        self, start: int, stop: int, unknown: Counter[str], label: int | None = None
    ) -> Iterator[Block]:
        """Yield blocks of a range of features, and of labels; counts texts that are new."""
        selection, encoding = self._selection, self._encoding
        if start == stop:
            # without columns Arrow would not say how many rows there are
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
        """How the columns become numbers; None where all are numbers, none of them missing, unless it is `always`."""
        missing, unreadable = self._wanted.missing, self._unreadable()
        problems = Problems(unreadable)
        places = [i for i in self._selection.features if i not in unreadable]
        contents = self._contents(places, problems)
        if not contents.n_rows:
            return None  # for want of samples the table is refused where it is scanned
        if contents.is_numeric and not unreadable and not always and missing in ("auto", "refuse"):
            return None
        fills = {} if missing == "refuse" else self._fills(places, contents)
        for i in places:
            self._check_content(i, contents, problems)
        problems.raise_named(self.name, self._columns, self._selection.label)
        return contents.encoding(places, fills, has_indicators=missing in ("auto", "indicator"))

    def _contents(self, places: Sequence[int], problems: Problems) -> _Contents:
        """Go through the columns of features; labels that are missing become problems."""
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
                        problems.add(i, _LABEL_MISSING.format(self.locate(contents.n_rows + row)))
                contents.n_rows += len(columns[0]) if columns else 0
        return contents

    def _check_content(self, place: int, contents: _Contents, problems: Problems) -> None:
        """Add what keeps a column from being encoded."""
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
        """Columns that are neither numbers nor texts, with what to say of each."""
        return {}

    def _stray_text(self, place: int, texts: set[str]) -> str:
        """What to say of a column with a few texts among its numbers; empty where the texts are most of it."""
        strays = sorted(text for text in texts if not _is_numeral(text))
        has_comma = bool(strays) and DECIMAL_COMMA.fullmatch(strays[0]) is not None
        if not strays or (len(strays) * 2 > len(texts) and not has_comma):
            return ""
        where = self.locate(self.texts(place, "data.categories")[1].index(strays[0].strip()))
        if has_comma:
            return f"{strays[0]!r} ({where}) has a decimal comma; write decimals with a point, or"
        return (
            f"{strays[0]!r} stands among numbers ({where}; {len(strays)} of {len(texts)} different values are texts): "
            "repair it, name it in data.missing_values, set data.categories = onehot, or"
        )

    def _fills(self, places: Sequence[int], contents: _Contents) -> dict[int, float]:
        """What takes the place of missing numbers, of all columns, since another table may lack others."""
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
        """Numbers of all types become floats."""
        # of a text nobody knows how many rows there are; pages of a large array are not copied when it grows
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
    """What a pass over a table shows of its columns: the distinct texts, and how many values are missing."""

    texts: dict[int, set[str]]  # of columns of texts alone
    n_missing: Counter[int] = field(default_factory=Counter)
    n_rows: int = 0

    def add(self, place: int, column: Any) -> None:
        """Take note of a block of a column."""
        self.n_missing[place] += column.null_count
        if place in self.texts:
            self.texts[place] |= {text for text in coded_texts(column)[0] if text is not None}

    @property
    def is_numeric(self) -> bool:
        """Whether all values are numbers, none of them missing."""
        return not self.texts and not self.n_missing.total()

    def encoding(self, places: Sequence[int], fills: Mapping[int, float], *, has_indicators: bool) -> TableEncoding:
        """How columns become features, with what fills gaps and whether gaps have features of their own."""
        return TableEncoding(tuple(
            ColumnEncoding(
                tuple(sorted(self.texts[i])) if i in self.texts else None, fills.get(i, 0.0),
                has_indicators and self.n_missing[i] > 0,
            )
            for i in places
        ))  # fmt: skip


class _Labels:
    """Labels of a table as its blocks come along."""

    def __init__(self, source: TableSource) -> None:
        self._source, self._parts = source, list[Any]()

    def add(self, column: Any, first: int) -> None:
        """Labels of a block, whose first sample has a number from 0."""
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
            raise DataError(_LABEL_MISSING.format(locate(int(missing[0]))))
        if pa.types.is_decimal(kind):
            column = column.cast(pa.string())
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            column = compute.call_function("utf8_trim_whitespace", [column])
            # each distinct label is made a text of Python once
            coded = column.dictionary_encode()
            indices, texts = coded.indices.to_numpy(), np.array(coded.dictionary.to_pylist(), np.object_)
            texts = labels_of(texts, lambda i: locate(int(np.argmax(indices == i)))).astype(np.str_)
            self._parts.append((texts, indices))
        elif is_number(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind):
            self._parts.append(labels_of(column.to_numpy(zero_copy_only=False), locate))
        else:
            raise DataError(f"{self._source.name}: labels must be numbers or text, got a column of {kind}")

    def joined(self) -> Labels:
        """All of them."""
        texts = [part for part in self._parts if isinstance(part, tuple)]
        if len(texts) < len(self._parts):
            return join_labels([part if not isinstance(part, tuple) else part[0][part[1]] for part in self._parts])
        distinct = labels_of_texts(np.unique(np.concatenate([part[0] for part in texts])))
        values: Labels = np.concatenate([part[0][part[1]] for part in texts])
        return values.astype(np.float64) if distinct.dtype.kind == "f" else values


class Problems:
    """What is wrong with the columns of a table, the first of each, told at once.

    Parameters
    ----------
    known : mapping of int to str
        Messages by the numbers of columns.
    """

    def __init__(self, known: Mapping[int, str] = MappingProxyType({})) -> None:
        self._of_column: dict[Any, str] = dict(known)

    def add(self, column: int, text: str) -> None:
        """Note what is wrong with a column, unless it has a problem already."""
        self._of_column.setdefault(column, text)

    def raise_named(self, name: str, columns: Sequence[str], label: int | None) -> None:
        """Raise all of them with the names of their columns, and with the setting that leaves these out."""
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
        """Raise all of them as one error."""
        lines = list(self._of_column.values())
        if lines:
            more = [f"... and {len(lines) - _TOLD} more columns"] if len(lines) > _TOLD else []
            raise DataError("\n".join([*lines[:_TOLD], *more]))


class ArrowSource(TableSource):
    """A table of Arrow's: columns that have types.

    Parameters
    ----------
    name : str
        For messages.
    schema : pyarrow.Schema
        Names and types of all columns, with what pandas says of its index.
    wanted : Wanted
        Which columns are asked for.
    """

    def __init__(self, name: str, schema: pa.Schema, wanted: Wanted) -> None:
        super().__init__(name, schema.names, True, wanted, _index_of(schema))
        self._schema_of_table = schema
        if wanted.is_later or not wanted.encodes:
            # else they are told with what else is wrong
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
        """Yield record batches of some columns, in this order, each once."""

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
                        # Arrow itself takes bytes that are no UTF-8, and fails where they become texts of Python
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
        """Finite numbers of a column; as an array of Arrow where some may be missing."""
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
        # float32 stays, since a copy in float64 would double the memory of a block
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
        """Turn what Arrow says of damage into our error."""
        import pyarrow as pa

        try:
            yield
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise DataError(
                f"{self.name}: {self.format.capitalize()} file is cut short or damaged ({error}); copy it again"
            ) from None
        except OSError as error:
            # pyarrow uses the system's class for damaged content, too
            if error.errno:
                raise MissingInputError(f"{self.name}: cannot be read ({error.strerror})") from None
            raise DataError(
                f"{self.name}: {self.format.capitalize()} file is damaged ({error}); copy or download it again"
            ) from None


class FrameSource(ArrowSource):
    """A table in memory: of pandas, polars or pyarrow.

    Parameters
    ----------
    frame : object with ``__arrow_c_stream__``, or pandas.DataFrame
        Under MPI every rank passes the same whole table, of which it then copies its columns.
    wanted : Wanted or None
        Which columns are features and labels; by default as of a file.
    name : str
        As it appears in messages.
    """

    format = "memory"

    def __init__(self, frame: Any, wanted: Wanted | None = None, name: str = "data") -> None:
        import pyarrow as pa

        # pandas says in its own metadata which columns are the index; its stream of Arrow leaves them out
        is_pandas = type(frame).__module__.partition(".")[0] == "pandas"
        self._table = pa.Table.from_pandas(frame) if is_pandas else pa.table(frame)
        super().__init__(name, self._table.schema, wanted or Wanted())

    def _batches(self, places: list[int]) -> Iterator[Any]:
        yield from self._table.select(places).to_batches()


def is_frame(data: Any) -> bool:
    """Whether data are a table in memory that Arrow can read."""
    return hasattr(data, "columns") and hasattr(data, "__arrow_c_stream__")


def encode_frame(
    frame: Any, label: Any = None, wanted: Wanted | None = None, name: str = "data"
) -> tuple[NDArray[np.float64], ColumnNames, list[str]] | None:
    """Features of a table in memory whose labels are elsewhere, where they have texts or missing values.

    Parameters
    ----------
    frame : table
        As :class:`FrameSource` takes it.
    label : object
        Name of the labels; ``label`` where it is no text.
    wanted : Wanted or None
        How columns are encoded, by the names of a model where there are some.
    name : str
        As it appears in messages.

    Returns
    -------
    tuple of ndarray of shape (n_samples, n_features), ColumnNames and list of str, or None
        Numbers, how they came about, and what a user should be told; None where all columns are numbers as they stand,
        or none may be encoded.

    Raises
    ------
    DataError
        With all columns that cannot be encoded, or those that a model knows and the table lacks.
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
    """Columns that pandas has written as the index of its rows."""
    metadata = schema.pandas_metadata or {}
    return [column for column in metadata.get("index_columns", []) if isinstance(column, str)]


def _decoded(column: Any) -> Any:
    """A column without a dictionary, and without the texts of polars, which Arrow takes in few places."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = pa.DictionaryArray.from_arrays(column.indices, _decoded(column.dictionary)).dictionary_decode()
    return column.cast(pa.string()) if pa.types.is_string_view(column.type) else column


def _as_texts(column: Any) -> Any:
    """Values as texts; those that are true or false as pandas writes them."""
    import pyarrow as pa
    from pyarrow import compute

    if pa.types.is_boolean(column.type):
        return compute.call_function("if_else", [column, pa.scalar("True"), pa.scalar("False")])
    return column.cast(pa.string())


def is_number(kind: pa.DataType) -> bool:
    """Whether a column's type is one of numbers."""
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


@lru_cache(1 << 16)
def _is_numeral(text: str) -> bool:
    """Whether a text is a number."""
    return NUMBER.fullmatch(text.strip().encode()) is not None


def _is_text(kind: pa.DataType) -> bool:
    """Whether a column's type is text, or a choice of some."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        # categories are texts, whatever they are called by
        return _is_text(kind.value_type) or is_number(kind.value_type) or pa.types.is_boolean(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def text_problem(texts: set[str], n_rows: int, rule: str) -> str:
    """Why the texts of a column become no features, and what to do; empty where they do."""
    if sum(bool(_DATE.match(text)) for text in texts) > len(texts) / 2:
        problem = "dates ({}): write them as numbers (a year, seconds since a start), or"
    elif len(texts) > MOST_CATEGORIES and len(texts) * 10 > n_rows:
        problem = f"{len(texts)} different texts in {n_rows} rows ({{}}), which looks like identifiers:"
    else:
        problem = "text ({}): set data.categories = onehot, or" if rule == "refuse" else ""
    return problem and problem.format(", ".join(repr(text)[:30] for text in sorted(texts)[:3]))


def _type_problem(kind: pa.DataType, *, texts: bool) -> str:
    """Why a column's type is no feature, and what to do; empty for numbers, booleans, and texts that are encoded."""
    import pyarrow as pa

    if is_number(kind) or pa.types.is_boolean(kind) or (texts and (_is_text(kind) or pa.types.is_null(kind))):
        return ""
    if pa.types.is_temporal(kind):
        return f"is of type {kind}, a time; write it as numbers (a year, seconds since a start), or"
    return f"is of type {kind}, no numbers; set data.categories = onehot, write categories as numbers, or"
