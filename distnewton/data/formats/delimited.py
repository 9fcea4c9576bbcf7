"""Delimited text: Arrow parses blocks of lines; blocks that it refuses are parsed line by line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnewton.data.columns import Wanted
from distnewton.data.encoding import NO_FILL
from distnewton.data.formats.base import Format, Location
from distnewton.data.formats.header import (
    BLANK_RUN,
    MOST_QUOTED,
    Layout,
    find_layout,
    has_row,
    numbered_rows,
    opens_quote,
    rows_of,
    split_line,
    unclosed_quote,
)
from distnewton.data.formats.libsvm_lines import show
from distnewton.data.formats.numbers import DECIMAL_COMMA, finite_number
from distnewton.data.formats.streams import first_lines, line_blocks, mark_notes
from distnewton.data.formats.tables import Block, Problems, TableSource

BLOCK_BYTES = 1 << 21
_WIDE = 512
"""Number of features from which a block is parsed as one column: Arrow takes tens of microseconds for each column of a
block, and a few lines of 200,000 columns fill a block."""


_MOST_AT_ONCE = 20_000
"""Most columns that Arrow parses at once, at 15 kB each; wider blocks are parsed line by line."""


class Csv(Format):
    """Delimited text."""

    name = "csv"
    help = "delimited text: commas, tabs, semicolons, vertical bars or blanks between fields"
    settings = ("label_column", "ignore_columns", "names", "header", "comment", "missing_values")
    specificity = 10
    is_text = True

    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether one of the first lines has more than one field."""
        return any(re.search(rb"[^\s][ \t]*[,;|\s][ \t]*[^\s]|[,;|]", line.strip()) for line in first_lines(head))

    def open(self, location: Location, wanted: Wanted) -> DelimitedSource:
        """Open a file with the layout of its first lines."""
        return DelimitedSource(location.path, find_layout(location.path, wanted), wanted)


class DelimitedSource(TableSource):
    """A text file with the same number of fields on each line.

    Parameters
    ----------
    path : Path
        An existing file, plain or compressed.
    layout : Layout
        Layout of its lines.
    wanted : Wanted
        Requested columns.
    """

    format = "csv"

    def __init__(self, path: Path, layout: Layout, wanted: Wanted) -> None:
        super().__init__(str(path), layout.names, layout.has_header, wanted)
        self.path, self.layout, self.comment = path, layout, wanted.comment.encode()
        missing = {"", *wanted.missing_values}
        self._missing = {value.lower().encode() for value in missing}
        self.null_values = sorted({
            spell(value) for value in missing for spell in (str.lower, str.upper, str.capitalize, str)
        })

    def locate(self, i_sample: int) -> str:
        """``file:line`` of a sample; reads the file again."""
        rows = numbered_rows(self.path, self.comment, self.layout.delimiter)
        lines = (i_line for i, (i_line, _) in enumerate(rows, -int(self._named)) if i == i_sample)
        return f"{self.name}:{next(lines, '?')}"

    def _notes(self) -> list[str]:
        trailing = f"{self.name}: separators at the ends of lines do not count as a column"
        return mark_notes(self.path) + [trailing] * self.layout.trailing

    def _blocks(self, features: Sequence[int], label: int | None) -> Iterator[Block]:
        places = [*features, *([] if label is None else [label])]
        texts = set(places[len(features) :])
        reader = _Reader(self, places, texts)
        is_wide = len(features) >= _WIDE
        for first_line, lines in self._numbered_blocks():
            block = (is_wide and reader.wide_block(lines, label)) or _strict(reader.arrays(lines), label)
            if block is None:
                block = _strict(self._slow_arrays(first_line, lines, places, texts, strict=True), label)
            assert block is not None  # noqa: S101  (what is not as it should be has been raised)
            yield block

    def _arrays(self, places: Sequence[int], texts: set[int]) -> Iterator[list[Any]]:
        texts = texts | {i for i in places if i == self._selection.label}
        reader = _Reader(self, places, texts)
        for first_line, lines in self._numbered_blocks():
            columns = reader.arrays(lines)
            if columns is None or any(_has_infinite(column) for column in columns):
                columns = self._slow_arrays(first_line, lines, places, texts, strict=False)
            yield columns

    def _text_columns(self, places: Sequence[int]) -> set[int]:
        texts: set[int] = set()
        reader = _Reader(self, places, texts)
        for _, lines in self._numbered_blocks():
            if reader.arrays(lines) is None:
                for _, line in self._rows(0, lines):
                    parts = split_line(line, self.layout.delimiter, self.name)
                    if len(parts) == self.layout.n_fields:
                        texts |= {i for i in places if self._is_text(parts[i])}
                reader = _Reader(self, places, texts)
        return texts

    def _is_text(self, part: bytes) -> bool:
        """Whether a field is neither a number nor missing."""
        return part.lower() not in self._missing and finite_number(part) is None

    def _numbered_blocks(self) -> Iterator[tuple[int, bytes]]:
        """Yield blocks of whole rows after the header, each with the number of its first line, from 1."""
        first_line, n_skipped, pending = 1, 0, b""
        if self._named:
            i_line, header = next(numbered_rows(self.path, self.comment))
            n_skipped = i_line + header.count(b"\n")
        for lines in line_blocks(self.path, BLOCK_BYTES):
            n_lines = lines.count(b"\n")
            if n_skipped >= n_lines:
                n_skipped, first_line = n_skipped - n_lines, first_line + n_lines
                continue
            if n_skipped:
                lines, first_line = lines.split(b"\n", n_skipped)[-1], first_line + n_skipped
                n_skipped = 0
            block, pending = self._cut_open_row(pending + lines, first_line)
            if block:
                yield first_line, block
                first_line += block.count(b"\n")
        if pending:
            raise unclosed_quote(self.name, first_line)

    def _cut_open_row(self, block: bytes, first_line: int) -> tuple[bytes, bytes]:
        """Split a block into whole rows and an incomplete last row with an open quote."""
        if b'"' not in block:
            return block, b""
        text = np.frombuffer(block, np.uint8)
        ends = np.flatnonzero(text == ord("\n"))
        # a line with an odd number of quotes opens or closes one
        n_quotes = np.bincount(np.searchsorted(ends, np.flatnonzero(text == ord('"'))))
        opened = None
        for i in np.flatnonzero(n_quotes % 2).tolist():
            start = int(ends[i - 1]) + 1 if i else 0
            line = block[start : ends[i]]
            is_open = opened is None and has_row(line, self.comment) and opens_quote(line, self.layout.delimiter)
            opened = (start, i) if is_open else None
        if opened is None:
            return block, b""
        start, i = opened
        if len(block) - int(ends[i]) > MOST_QUOTED:
            raise unclosed_quote(self.name, first_line + i)
        return block[:start], block[start:]

    def _rows(self, first_line: int, block: bytes) -> Iterator[tuple[int, bytes]]:
        """Rows of a block."""
        lines = enumerate(block.split(b"\n")[:-1], first_line)
        return rows_of(lines, self.comment, self.layout.delimiter, self.name)

    def _slow_arrays(
        self, first_line: int, block: bytes, places: Sequence[int], texts: set[int], *, strict: bool
    ) -> list[Any]:
        """Parse lines that Arrow refuses, or report all their problems; `strict`: including missing values."""
        problems, columns = Problems(), [list[Any]() for _ in places]
        is_first_enough = strict and self._may_encode  # if columns cannot be encoded, all problems are reported
        for i_line, line in self._rows(first_line, block):
            where = f"{self.name}:{i_line}"
            parts = split_line(line, self.layout.delimiter, where)
            if len(parts) != self.layout.n_fields or (self.layout.trailing and parts[-1]):
                problems.add(-1, self._ragged(where, line, parts))
                break
            for i, values in zip(places, columns, strict=True):
                value, problem = self._checked_value(parts[i], i, is_text=i in texts, strict=strict)
                values.append(value)
                if problem:
                    problems.add(i, f"{where}: {problem}")
                if is_first_enough:
                    problems.raise_any()
        problems.raise_any()
        return _arrow_arrays(columns, places, texts)

    def _checked_value(
        self, part: bytes, place: int, *, is_text: bool, strict: bool
    ) -> tuple[str | float | None, str]:
        """Value of a field, and its problem if any; `strict`: a missing value is a problem, too."""
        is_label = place == self._selection.label
        what = "label" if is_label else f"{self._columns[place]}:"
        try:
            value = self._value(part, is_text=is_text)
        except ValueError as error:
            return None, f"{what} {show(part)} {error}"
        if value is None and (strict or is_label):
            return None, f"{what} {self._missing_problem(part, place)}"
        return value, ""

    def _ragged(self, where: str, line: bytes, parts: list[bytes]) -> str:
        """Message for a line with a different number of fields."""
        n_fields, trailing = self.layout.n_fields, self.layout.trailing
        if trailing and len(parts) == n_fields:
            return f"{where}: {show(parts[-1])} follows the last separator, where the first lines have nothing"
        _, first_line = next(numbered_rows(self.path, self.comment))
        has_sign = any(row.lstrip().startswith(b"#") for row in (line, first_line))
        hint = "; set data.comment to the character that begins a comment" if has_sign else ""
        if bool(parts[-1]) == trailing:
            hint = f"; it ends with {'no' if trailing else 'a'} separator, unlike the first line"
        return f"{where}: expected {n_fields} columns as in the first line, got {len(parts)}{hint}"

    def _missing_problem(self, part: bytes, place: int) -> str:
        """Message for a missing value."""
        if place == self._selection.label:
            return (
                f"{show(part)} is missing; remove this sample, give it a label, or change "
                "data.missing_values"
            )
        if self._wanted.is_later:
            return f"value {show(part)} {NO_FILL}"
        return (
            f"value {show(part)} is missing; set data.missing, fill it in, remove this sample, or leave the column out "
            "(data.ignore_columns)"
        )

    def _value(self, part: bytes, *, is_text: bool) -> str | float | None:
        """Text or number in a field; None if missing."""
        if part.lower() in self._missing:
            return None
        if is_text:
            try:
                return part.decode("utf-8")
            except UnicodeDecodeError:
                raise ValueError("is not UTF-8 text; save the file as UTF-8") from None
        value = finite_number(part)
        if value is not None:
            return value
        if DECIMAL_COMMA.fullmatch(part.decode(errors="replace")):
            raise ValueError("has a decimal comma; write decimals with a point")
        if part.lower().lstrip(b"+-") in (b"inf", b"infinity"):
            raise ValueError("is infinite; repair it, name it in data.missing_values, or remove this sample")
        if self._wanted.is_later:
            if (is_true := part.lower() == b"true") or part.lower() == b"false":
                # a column of Parquet or of a frame, written as text
                return float(is_true)
            raise ValueError(
                "is not a finite decimal number, as all values were in training; repair it or remove this sample"
            )
        raise ValueError(
            "is not a finite decimal number; set data.categories = onehot, write categories as numbers, leave the "
            "column out (data.ignore_columns), or choose another label column (data.label_column)"
        )


def _arrow_arrays(columns: Sequence[list[Any]], places: Sequence[int], texts: set[int]) -> list[Any]:
    """Convert columns of texts and of numbers to Arrow arrays."""
    import pyarrow as pa

    # create one Arrow array for each type and slice it: creating an array takes ten times as long as a slice
    arrays: dict[int, Any] = {}
    for kind, members in (
        (pa.string(), [k for k, i in enumerate(places) if i in texts]),
        (pa.float64(), [k for k, i in enumerate(places) if i not in texts]),
    ):
        whole = pa.array(list(chain.from_iterable(columns[k] for k in members)), kind)
        n = len(whole) // max(1, len(members))
        arrays |= {k: whole.slice(j * n, n) for j, k in enumerate(members)}
    return [arrays[k] for k in range(len(places))]


def _strict(columns: list[Any] | None, label: int | None) -> Block | None:
    """Split columns into features and labels (last column); None if a value is missing or infinite."""
    if columns is None or any(column.null_count for column in columns):
        return None
    labels = None if label is None else columns.pop()
    X = np.empty((len(columns), len(labels if labels is not None else columns[0])))
    for i, column in enumerate(columns):
        X[i] = column.to_numpy()
    return (X.T, labels) if np.isfinite(X).all() else None


def _has_infinite(column: Any) -> bool:
    """Whether a column of numbers holds an infinite one."""
    import pyarrow as pa

    return bool(pa.types.is_floating(column.type) and np.isinf(column.to_numpy(zero_copy_only=False)).any())


class _Reader:
    """Arrow's block reader, set up once for the wanted columns.

    Parameters
    ----------
    source : DelimitedSource
        The file.
    places : sequence of int
        Wanted columns, in this order.
    texts : set of int
        Columns of texts; the others are numbers.
    """

    def __init__(self, source: DelimitedSource, places: Sequence[int], texts: set[int]) -> None:
        from pyarrow import csv

        self._csv, self._delimiter, self._comment = csv, source.layout.delimiter, source.comment
        self._layout, self._n_fields, self._null_values = source.layout, source.layout.n_fields, source.null_values
        self._numbers = np.array([i for i in places if i not in texts], np.intp)
        self._places, self._texts = places, texts

    @cached_property
    def _narrow(self) -> dict[str, Any]:
        return self._options(self._n_fields, self._places, self._texts, nothing=self._layout.trailing)

    def arrays(self, lines: bytes) -> list[Any] | None:
        """Columns of lines; None if the block must be parsed line by line."""
        import pyarrow as pa

        if not lines.strip() or len(self._places) > _MOST_AT_ONCE:
            return None
        try:
            return self._parse(self._plain(lines), self._narrow)[: len(self._places)]
        except pa.ArrowException:
            return None

    def _plain(self, lines: bytes) -> bytes:
        """Remove comments, and leave a single delimiter between fields."""
        if self._comment and self._comment in lines:
            lines = re.sub(rb"(?m)^[ \t]*%b[^\n]*\n" % re.escape(self._comment), b"", lines)
        if self._delimiter == BLANK_RUN:
            return lines if b'"' in lines else b"\n".join([b" ".join(line.split()) for line in lines.split(b"\n")])
        # searching for a single byte is ten times faster
        if b" " in lines and self._delimiter + b" " in lines:
            # Arrow would treat the blank, and a quote after it, as part of the field
            pattern = rb'(?m)(^|%b) *("[^"]*(?:""[^"]*)*")|%b +' % ((re.escape(self._delimiter),) * 2)
            lines = re.sub(pattern, lambda match: match[1] + match[2] if match[2] else self._delimiter, lines)
        return lines

    def _options(
        self, n_columns: int, places: Sequence[int], texts: set[int], *, nothing: bool = False
    ) -> dict[str, Any]:
        """Options of Arrow's reader; `nothing`: the last column must be empty."""
        import pyarrow as pa

        types = {str(i): pa.string() if i in texts else pa.float64() for i in places}
        types |= {str(n_columns - 1): pa.null()} if nothing else {}
        return {
            "convert_options": self._csv.ConvertOptions(
                column_types=types, include_columns=list(types), null_values=self._null_values,
                strings_can_be_null=True,
            ),
            "parse_options": self._csv.ParseOptions(
                delimiter=self._delimiter.decode(), ignore_empty_lines=n_columns > 1
            ),
            "read_options": self._csv.ReadOptions(use_threads=False, column_names=[str(i) for i in range(n_columns)]),
        }  # fmt: skip

    def _parse(self, lines: bytes, options: dict[str, Any]) -> list[Any]:
        """Parse lines into columns."""
        import pyarrow as pa

        options["read_options"].block_size = len(lines) + 1
        return [column.combine_chunks() for column in self._csv.read_csv(pa.BufferReader(lines), **options).columns]

    def wide_block(self, lines: bytes, label: int | None) -> Block | None:
        """Cut out the numbers of a block and parse them as one column."""
        if b'"' in lines or not lines or lines.isspace():
            return None
        lines = self._plain(lines)
        lines = lines.replace(b"\r\n", b"\n") if b"\r" in lines else lines
        ends = self._field_ends(lines)
        X = None if ends is None else self._wide_numbers(lines, ends)
        if X is None or label is None:
            return None if X is None else (X, None)
        labels = self._wide_labels(lines, ends, label)
        return None if labels is None else (X, labels)

    def _field_ends(self, lines: bytes) -> NDArray[np.intp] | None:
        """Ends of the fields, shape (n_lines, n_fields); None if a line has another number of fields."""
        text = np.frombuffer(lines, np.uint8)
        newlines = text == ord("\n")
        flat = np.flatnonzero((text == ord(self._delimiter)) | newlines)
        if len(flat) % self._n_fields:
            return None
        ends: NDArray[np.intp] = flat.reshape(-1, self._n_fields)
        if not newlines[ends[:, -1]].all() or np.count_nonzero(newlines) != len(ends):
            return None
        if self._layout.trailing and (ends[:, -1] - ends[:, -2] > 1).any():
            return None
        return ends

    def _wide_numbers(self, lines: bytes, ends: NDArray[np.intp]) -> NDArray[np.float64] | None:
        """Features of lines; None if one is missing or infinite."""
        import pyarrow as pa

        order = np.argsort(self._numbers, kind="stable")
        places = self._numbers[order]
        # adjacent columns are cut out together
        breaks = np.flatnonzero(np.diff(places) != 1) + 1
        first, last = places[np.concatenate([[0], breaks])], places[np.concatenate([breaks - 1, [-1]])]
        fields = b"\n".join(self._cut(lines, ends, first, last)).replace(self._delimiter, b"\n") + b"\n"
        try:
            values = self._parse(fields, self._options(1, [0], set()))[0]
        except pa.ArrowException:
            return None
        if values.null_count or len(values) != len(ends) * len(places):
            return None
        X: NDArray[np.float64] = values.to_numpy().reshape(len(ends), len(places))
        if not np.array_equal(places, self._numbers):
            X = np.take(X, np.argsort(order), axis=1)
        return X if np.isfinite(X).all() else None

    def _wide_labels(self, lines: bytes, ends: Any, label: int) -> Any:
        """Labels of lines; None if one is missing or has control characters."""
        import pyarrow as pa

        fields = self._cut(lines, ends, np.array([label]), np.array([label]))
        texts = [field.decode("utf-8", "surrogateescape") for field in fields]
        if any(text.strip().lower() in self._null_values or not text.isprintable() for text in texts):
            return None
        return pa.array(texts, pa.string())

    def _cut(self, lines: bytes, ends: Any, first: Any, last: Any) -> list[bytes]:
        """Text of each line from the start of each column in `first` to the end of the matching column in `last`."""
        before = np.concatenate([[-1], ends[:-1, -1]])
        starts = np.where(first > 0, ends[:, first - 1], before[:, np.newaxis]) + 1
        cuts = zip(starts.ravel().tolist(), ends[:, last].ravel().tolist(), strict=True)
        return [lines[i:j] for i, j in cuts]
