"""Delimited text: Arrow parses blocks of lines; lines that it does not take are looked at one by one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distnewton.data.columns import Wanted
from distnewton.data.formats.base import Format, Location
from distnewton.data.formats.header import BLANK_RUN, Layout, find_layout, has_row, numbered_rows, split_line
from distnewton.data.formats.libsvm_lines import show
from distnewton.data.formats.numbers import finite_number
from distnewton.data.formats.streams import BYTE_ORDER_MARK, first_lines, line_blocks, read_head
from distnewton.data.formats.tables import Block, Problems, TableSource

BLOCK_BYTES = 1 << 21
_WIDE = 512
"""Features from which a block is parsed as one column of numbers: Arrow takes tens of microseconds for each column of
each block, and a few lines of 200,000 columns make a block."""
_DECIMAL_COMMA = re.compile(rb"[+-]?[0-9]*,[0-9]*")


class Csv(Format):
    """Delimited text."""

    name = "csv"
    help = "delimited text: commas, tabs, semicolons or blanks between fields"
    settings = ("label_column", "ignore_columns", "names", "header", "comment", "missing_values")
    specificity = 10
    is_text = True

    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether one of the first lines has more than one field."""
        return any(re.search(rb"[^\s][ \t]*[,;\s][ \t]*[^\s]|[,;]", line.strip()) for line in first_lines(head))

    def open(self, location: Location, wanted: Wanted) -> DelimitedSource:
        """Open a file, divided as its first lines are."""
        return DelimitedSource(location.path, find_layout(location.path, wanted), wanted)


class DelimitedSource(TableSource):
    """A text file with as many fields on each line.

    Parameters
    ----------
    path : Path
        An existing file, plain or compressed.
    layout : Layout
        How its lines are divided.
    wanted : Wanted
        Which columns are asked for.
    """

    format = "csv"

    def __init__(self, path: Path, layout: Layout, wanted: Wanted) -> None:
        super().__init__(str(path), layout.names, layout.has_header, wanted)
        self.path, self.layout, self._comment = path, layout, wanted.comment.encode()
        missing = {"", *wanted.missing_values}
        self._missing = {value.lower().encode() for value in missing}
        self._null_values = sorted({
            spell(value) for value in missing for spell in (str.lower, str.upper, str.capitalize, str)
        })

    def locate(self, i_sample: int) -> str:
        """``file:line`` of a sample; reads the file anew."""
        rows = numbered_rows(self.path, self._comment)
        lines = (i_line for i, (i_line, _) in enumerate(rows, -int(self._named)) if i == i_sample)
        return f"{self.name}:{next(lines, '?')}"

    def _notes(self) -> list[str]:
        marked = read_head(self.path).startswith(BYTE_ORDER_MARK)
        return ["a byte-order mark at the beginning was skipped"] if marked else []

    def _blocks(self, features: Sequence[int], label: int | None) -> Iterator[Block]:
        reader = _Reader(self, features, label)
        for first_line, lines in self._numbered_blocks():
            block = reader.fast_block(lines) if lines.strip() else None
            if block is None:
                block = self._slow_block(first_line, lines, features, label)
            yield block

    def _numbered_blocks(self) -> Iterator[tuple[int, bytes]]:
        """Yield blocks of whole lines behind the header, each with the number of its first line, from 1."""
        first_line, n_skipped = 1, 0
        if self._named:
            n_skipped = next(numbered_rows(self.path, self._comment))[0]
        for block in line_blocks(self.path, BLOCK_BYTES):
            n_lines = block.count(b"\n")
            if n_skipped >= n_lines:
                n_skipped -= n_lines
            else:
                rest = block.split(b"\n", n_skipped)[-1]
                yield first_line + n_skipped, rest
                n_skipped = 0
            first_line += n_lines

    def _slow_block(self, first_line: int, block: bytes, features: Sequence[int], label: int | None) -> Block:
        """A block of lines that Arrow does not take, or all that is wrong with it and what follows."""
        import pyarrow as pa

        problems, rows, labels = Problems(), [], []
        for i_line, line in enumerate(block.split(b"\n"), first_line):
            if has_row(line, self._comment):
                where = f"{self.name}:{i_line}"
                parts = split_line(line, self.layout.delimiter, where)
                if len(parts) != len(self._columns):
                    problems.add(-2, self._ragged(where, line, len(parts)))
                    break
                if label is not None:
                    labels.append(self._label(parts[label], where, problems))
                rows.append([self._value(parts[i], i, where, problems) for i in features])
        problems.raise_any()
        X = np.array(rows, np.float64).reshape(len(rows), len(features))
        return X, None if label is None else pa.array(labels, pa.string())

    def _ragged(self, where: str, line: bytes, n: int) -> str:
        """What to say of a line with another number of fields."""
        hint = "; name the character that begins a comment (data.comment)" if line.lstrip().startswith(b"#") else ""
        return f"{where}: expected {len(self._columns)} columns as in the first line, got {n}{hint}"

    def _label(self, part: bytes, where: str, problems: Problems) -> str:
        """Label of a field."""
        if part.lower() in self._missing:
            problems.add(-1, (
                f"{where}: label {show(part)} is missing; remove this sample, give it a label, or say what else means "
                "missing (data.missing_values)"
            ))  # fmt: skip
        try:
            return part.decode("utf-8")
        except UnicodeDecodeError:
            problems.add(-1, f"{where}: label {show(part)} is not UTF-8 text; save the file as UTF-8")
            return ""

    def _value(self, part: bytes, place: int, where: str, problems: Problems) -> float:
        """Number in a field."""
        value = None if part.lower() in self._missing else finite_number(part)
        if value is not None:
            return value
        where = f"{where}: {self._columns[place]}"
        if part.lower() in self._missing:
            advice = "is missing; fill it in, remove this sample, or leave the column out (data.ignore_columns)"
            problems.add(place, f"{where}: value {show(part)} {advice}")
        elif _DECIMAL_COMMA.fullmatch(part):
            problems.add(place, f"{where}: {show(part)} has a decimal comma; write decimals with a point")
        else:
            problems.add(place, (
                f"{where}: {show(part)} is not a finite decimal number; write categories as numbers, leave the column "
                "out (data.ignore_columns), or choose another label column (data.label_column)"
            ))  # fmt: skip
        return np.nan


class _Reader:
    """Arrow's reader of blocks, set up once for some columns.

    Parameters
    ----------
    source : DelimitedSource
        The file.
    features : sequence of int
        Columns of numbers, in the order wanted.
    label : int or None
        Column of texts.
    """

    def __init__(self, source: DelimitedSource, features: Sequence[int], label: int | None) -> None:
        from pyarrow import csv

        self._delimiter, self._comment = source.layout.delimiter, source._comment
        self._n_columns, self._features, self._label = len(source._columns), np.array(features, np.intp), label
        self._null_values = source._null_values
        self._csv, self._is_wide = csv, len(features) >= _WIDE
        self._narrow = None if self._is_wide else self._options(self._n_columns, list(features), label)

    def fast_block(self, lines: bytes) -> Block | None:
        """Features and labels of lines; None where one of them must be looked at by itself."""
        import pyarrow as pa

        try:
            lines = self._plain(lines)
            return self._wide_block(lines) if self._is_wide else self._narrow_block(lines)
        except pa.ArrowException:
            return None

    def _plain(self, lines: bytes) -> bytes:
        """Lines without comments, and with one delimiter between fields."""
        if self._comment and self._comment in lines:
            lines = re.sub(rb"(?m)^[ \t]*%b[^\n]*\n" % re.escape(self._comment), b"", lines)
        if self._delimiter == BLANK_RUN:
            return lines if b'"' in lines else b"\n".join([b" ".join(line.split()) for line in lines.split(b"\n")])
        if self._delimiter + b" " in lines:
            # Arrow would take the blank for a part of the field, and a quote behind it, too
            pattern = rb'("[^"\n]*")|%b +' % re.escape(self._delimiter)
            lines = re.sub(pattern, lambda match: match[1] or self._delimiter, lines)
        return lines

    def _options(self, n_columns: int, features: list[int], label: int | None) -> dict[str, Any]:
        """Options of Arrow's reader: features are float64, the label is text."""
        import pyarrow as pa

        used = [*features, *([] if label is None else [label])]
        types = {str(i): pa.float64() for i in features} | ({} if label is None else {str(label): pa.string()})
        return {
            "convert_options": self._csv.ConvertOptions(
                column_types=types, include_columns=[str(i) for i in used], null_values=self._null_values,
                strings_can_be_null=True,
            ),
            "parse_options": self._csv.ParseOptions(
                delimiter=self._delimiter.decode(), ignore_empty_lines=n_columns > 1
            ),
            "read_options": self._csv.ReadOptions(use_threads=False, column_names=[str(i) for i in range(n_columns)]),
        }  # fmt: skip

    def _parse(self, lines: bytes, options: dict[str, Any]) -> list[Any]:
        """Columns of lines."""
        import pyarrow as pa

        options["read_options"].block_size = len(lines) + 1
        return [column.combine_chunks() for column in self._csv.read_csv(pa.BufferReader(lines), **options).columns]

    def _narrow_block(self, lines: bytes) -> Block | None:
        """A block that Arrow parses column by column."""
        assert self._narrow is not None  # noqa: S101  (of this kind)
        columns = self._parse(lines, self._narrow)
        n = len(self._features)
        if any(column.null_count for column in columns):
            return None
        X = np.empty((n, len(columns[0]) if columns else 0))
        for i, column in enumerate(columns[:n]):
            X[i] = column.to_numpy()
        return (X.T, columns[n] if self._label is not None else None) if np.isfinite(X).all() else None

    def _wide_block(self, lines: bytes) -> Block | None:
        """A block whose features are cut out first, and parsed as one column."""
        import pyarrow as pa

        if b'"' in lines:
            return None
        lines = lines.replace(b"\r\n", b"\n")
        text = np.frombuffer(lines, np.uint8)
        ends: Any = np.flatnonzero((text == ord(self._delimiter)) | (text == ord("\n")))
        if len(ends) % self._n_columns:
            return None
        ends = ends.reshape(-1, self._n_columns)
        starts = np.concatenate([[0], ends.ravel()[:-1] + 1]).reshape(ends.shape)
        if (text[ends[:, -1]] != ord("\n")).any() or (text[ends[:, :-1]] == ord("\n")).any():
            return None
        order = np.argsort(self._features, kind="stable")
        places = self._features[order]
        # columns that lie together are cut out together
        breaks = np.flatnonzero(np.diff(places) != 1) + 1
        first, last = places[np.concatenate([[0], breaks])], places[np.concatenate([breaks - 1, [-1]])]
        cuts = zip(starts[:, first].ravel().tolist(), ends[:, last].ravel().tolist(), strict=True)
        fields = b"\n".join([lines[i:j] for i, j in cuts]).replace(self._delimiter, b"\n") + b"\n"
        values = self._parse(fields, self._options(1, [0], None))[0]
        if values.null_count or len(values) != len(ends) * len(places):
            return None
        X = values.to_numpy().reshape(len(ends), len(places))
        if not np.array_equal(places, self._features):
            X = np.take(X, np.argsort(order), axis=1)
        labels = None
        if self._label is not None:
            cuts = zip(starts[:, self._label].tolist(), ends[:, self._label].tolist(), strict=True)
            texts = [lines[i:j].decode("utf-8", "surrogateescape") for i, j in cuts]
            if any(text.strip().lower() in self._null_values or not text.isprintable() for text in texts):
                return None
            labels = pa.array(texts, pa.string())
        return (X, labels) if np.isfinite(X).all() else None
