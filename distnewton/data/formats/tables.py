"""The door for tables: typed columns with names become features and labels, whatever the table is stored in.

Everything behind this door sees the same thing: a block of float64 or float32 features and an Arrow array of labels.
Arrow (pyarrow) parses and holds the columns; what is a header, an index, a label, a missing value, a number is decided
here and in :mod:`distnewton.data.columns` alone.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from distnewton.data.columns import Selection, Wanted, names_of, select_columns
from distnewton.data.description import Description
from distnewton.data.labels import join_labels, labels_of, labels_of_texts
from distnewton.data.row_selection import RowSelection
from distnewton.data.source import Source
from distnewton.errors import DataError, MissingInputError

if TYPE_CHECKING:
    import pyarrow as pa

    from distnewton.data.description import Labels

BATCH_VALUES = 1 << 20
"""Values of a block of features, about."""
_TOLD = 20
"""Problems in a message."""

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
    """

    format: ClassVar[str]

    def __init__(
        self, name: str, columns: Sequence[str], named: bool, wanted: Wanted, index: Sequence[str] = ()
    ) -> None:
        self.name, self._columns, self._named = name, columns, named
        self._selection: Selection = select_columns(name, columns, named, wanted, index)

    def describe(self) -> Description:
        """Check the whole table in one streaming pass."""
        return self.scan(lambda _: None)

    def scan(self, take: Callable[[NDArray[Any]], None]) -> Description:
        """Do what `describe` does, and hand over the samples on the way.

        Parameters
        ----------
        take : callable
            Called with the features, (n, n_features), of block after block.

        Returns
        -------
        Description
        """
        selection, labels = self._selection, _Labels(self)
        n_samples = n_nonzeros = 0
        for X, label in self._blocks(selection.features, selection.label):
            if label is not None:
                labels.add(label, n_samples)
            n_samples += len(X)
            n_nonzeros += int(np.count_nonzero(X))
            take(X)
        if not n_samples:
            raise DataError(f"{self.name}: no samples (it is empty, or holds only a header)")
        return Description(
            self.name, self.format, n_samples, len(selection.features), n_nonzeros, False,
            np.full(n_samples, np.nan) if selection.label is None else labels.joined(),
            selection.n_extra * n_samples, self._notes() + selection.notes, labelled=selection.label is not None,
            names=names_of(self._columns, selection) if self._named else None,
        )  # fmt: skip

    def locate(self, i_sample: int) -> str:
        """``name: row i``, counted from 1."""
        return f"{self.name}: row {i_sample + 1}"

    @abstractmethod
    def _blocks(self, features: Sequence[int], label: int | None) -> Iterator[Block]:
        """Yield blocks of rows, of bounded size; all features are finite."""

    def _notes(self) -> list[str]:
        """What a user should be told of the table."""
        return []

    def _n_readable(self) -> int:
        return len(self._selection.features)

    def _read(self, start: int, stop: int, dtype: np.dtype[Any], wanted: RowSelection) -> NDArray[Any]:
        """Numbers of all types become floats."""
        n_samples, pieces = 0, []
        features = self._selection.features[start:stop]
        for X, _ in self._blocks(features, None if features else self._selection.label):
            _, chosen = wanted.of(n_samples, len(X))
            n_samples += len(X)
            pieces.append(X[chosen].astype(dtype, copy=False))
        result = np.empty((sum(map(len, pieces)), stop - start), dtype)
        # a piece is freed as it is copied: pages of the result are there only once they are written
        end = len(result)
        while pieces:
            piece = pieces.pop()
            result[end - len(piece) : end] = piece
            end -= len(piece)
        return result


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
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        kind: Any = column.type

        def locate(i: int) -> str:
            return self._source.locate(first + i)

        missing: Any = np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)) if column.null_count else ()
        if len(missing):
            raise DataError(f"{locate(int(missing[0]))}: label is missing; remove this sample or give it a label")
        if pa.types.is_decimal(kind):
            column = column.cast(pa.string())
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            column = compute.call_function("utf8_trim_whitespace", [column])
            # each distinct label is made a text of Python once
            coded = column.dictionary_encode()
            texts = np.array(coded.dictionary.to_pylist(), dtype=np.str_)
            labels_of(texts, lambda i: locate(int(np.argmax(coded.indices.to_numpy() == i))))
            self._parts.append((texts, coded.indices.to_numpy()))
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
    lines : sequence of str
        A message each.
    """

    def __init__(self, lines: Sequence[str] = ()) -> None:
        self._of_column: dict[Any, str] = dict(enumerate(lines))

    def add(self, column: int, text: str) -> None:
        """Note what is wrong with a column, unless it has a problem already."""
        self._of_column.setdefault(column, text)

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
        Problems([
            f"{name}: column {schema.names[i]} {problem}, leave the column out (data.ignore_columns), or choose "
            "another label column (data.label_column)"
            for i in self._selection.features
            if (problem := _type_problem(schema.field(i).type))
        ]).raise_any()

    @abstractmethod
    def _batches(self, places: list[int]) -> Iterator[Any]:
        """Yield record batches of some columns, in this order, each once."""

    def _blocks(self, features: Sequence[int], label: int | None) -> Iterator[Block]:
        places = list(dict.fromkeys([*features, *([] if label is None else [label])]))
        row, height = 0, max(1, BATCH_VALUES // max(1, len(places)))
        with self._damage_named():
            for whole in self._batches(places):
                for start in range(0, whole.num_rows, height):
                    batch = whole.slice(start, height)
                    columns = [self._numbers(batch.column(k), i, row) for k, i in enumerate(features)]
                    X = np.column_stack(columns) if columns else np.zeros((batch.num_rows, 0))
                    yield X, None if label is None else batch.column(places.index(label))
                    row += batch.num_rows

    def _numbers(self, column: Any, place: int, row: int) -> NDArray[Any]:
        """Finite numbers of a column."""
        import pyarrow as pa

        what = f"column {self._columns[place]}: value"
        if column.null_count:
            i = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
            raise DataError(f"{self.locate(row + i)}: {what} is missing; fill it in or remove this sample")
        column = column.cast(pa.float64()) if pa.types.is_decimal(column.type) else column
        values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
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
        except pa.ArrowException as error:
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


def _index_of(schema: pa.Schema) -> list[str]:
    """Columns that pandas has written as the index of its rows."""
    metadata = schema.pandas_metadata or {}
    return [column for column in metadata.get("index_columns", []) if isinstance(column, str)]


def is_number(kind: pa.DataType) -> bool:
    """Whether a column's type is one of numbers."""
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _type_problem(kind: pa.DataType) -> str:
    """Why a column's type is no feature, and what to do; empty for numbers and booleans."""
    import pyarrow as pa

    if is_number(kind) or pa.types.is_boolean(kind):
        return ""
    if pa.types.is_temporal(kind):
        return f"is of type {kind}, a time; write it as numbers (a year, seconds since a start)"
    return f"is of type {kind}, no numbers; write categories as numbers"
