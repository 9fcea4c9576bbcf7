"""Delimited text: a column a feature, one column with the labels."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distnewton.data.columns import Wanted, names_of, select_columns
from distnewton.data.description import Description
from distnewton.data.formats.base import Format, Location
from distnewton.data.formats.fields import (
    DELIMITER,
    EXPONENT,
    NEWLINE,
    POINT,
    byte_classes,
    cut,
    neighbour_table,
    numbers_at,
)
from distnewton.data.formats.libsvm_lines import show
from distnewton.data.formats.numbers import finite_number
from distnewton.data.formats.streams import first_lines
from distnewton.data.formats.table_layout import BLANK_RUN, MISSING, Layout, find_layout, has_sample, split_line
from distnewton.data.labels import join_labels
from distnewton.data.row_selection import RowSelection
from distnewton.data.source import TextSource
from distnewton.errors import DataError

if TYPE_CHECKING:
    from distnewton.data.description import Labels

_FIELD_ENDS = (DELIMITER, NEWLINE)
_DECIMAL_COMMA = re.compile(rb"[+-]?[0-9]*,[0-9]*")
_TABLE = neighbour_table(
    filled=[
        *((left, right) for left in _FIELD_ENDS for right in (*_FIELD_ENDS, POINT, EXPONENT)),
        *((POINT, right) for right in (*_FIELD_ENDS, EXPONENT)),
        *((EXPONENT, right) for right in _FIELD_ENDS),
    ],
    empty=[
        (NEWLINE, NEWLINE),
        *((left, POINT) for left in _FIELD_ENDS),
        *((POINT, right) for right in (*_FIELD_ENDS, EXPONENT)),
    ],
)


class Csv(Format):
    """Delimited text."""

    name = "csv"
    help = "delimited text: commas, tabs, semicolons or blanks between fields"
    settings = ("label_column", "ignore_columns", "names", "header")
    specificity = 10
    is_text = True

    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether one of the first lines has more than one field."""
        return any(len(re.split(rb"[,;\s]+", line.strip())) > 1 for line in first_lines(head))

    def open(self, location: Location, wanted: Wanted) -> DelimitedSource:
        """Open a file, divided as its first line is."""
        return DelimitedSource(location.path, find_layout(location.path, wanted.header), wanted)


class DelimitedSource(TextSource):
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

    def __init__(self, path: Path, layout: Layout, wanted: Wanted) -> None:
        super().__init__(path)
        self.layout, self.n_header_lines = layout, int(layout.has_header)
        self._selection = select_columns(path, layout.names, layout.has_header, wanted)
        label = self._selection.label
        self._used = np.array(sorted([*self._selection.features, *([] if label is None else [label])]))
        # columns of features and labels among those that are used
        self._places = np.searchsorted(self._used, self._selection.features)
        self._label_place = 0 if label is None else int(np.searchsorted(self._used, label))
        self._classes = byte_classes(layout.delimiter)
        self._text_labels = False

    def scan(self, take: Callable[[NDArray[np.float64]], None]) -> Description:
        """Check the whole file, and hand over the features, (n, n_features), of block after block."""
        labels: list[Labels] = []
        n_nonzeros = 0
        for block_labels, features in self._blocks():
            labels.append(block_labels)
            n_nonzeros += int(np.count_nonzero(features))
            take(features)
        joined, selection = self._join_labels(labels), self._selection
        return Description(
            self.name, "csv", len(joined), len(selection.features), n_nonzeros, False, joined,
            selection.n_extra * len(joined), self._notes() + selection.notes, labelled=selection.label is not None,
            names=names_of(self.layout.names, selection) if self.layout.has_header else None,
        )  # fmt: skip

    has_sample = staticmethod(has_sample)

    def _n_readable(self) -> int:
        return len(self._selection.features)

    def _read(self, start: int, stop: int, dtype: np.dtype[Any], wanted: RowSelection) -> NDArray[Any]:
        n_samples, pieces = 0, []
        for _, features in self._blocks():
            _, chosen = wanted.of(n_samples, len(features))
            n_samples += len(features)
            pieces.append(features[chosen, start:stop].astype(dtype))
        return np.concatenate(pieces) if pieces else np.zeros((0, stop - start), dtype=dtype)

    def _blocks(self) -> Iterator[tuple[Labels, NDArray[np.float64]]]:
        """Yield labels and features, (n_lines, n_features), of block after block."""
        skip_header = self.layout.has_header
        for first_line, block in self._numbered_blocks():
            n_skipped = 0
            if skip_header:
                block, n_skipped = _without_header(block)
                skip_header = not n_skipped
            rows = self._fast_rows(block)
            yield self._slow_rows(block, first_line + n_skipped) if rows is None else rows

    def _fast_rows(self, block: bytes) -> tuple[Labels, NDArray[np.float64]] | None:
        """Return labels and features of lines of numbers; None where lines must be looked at one by one."""
        # each step leaves to _slow_rows what is rare, so that errors are worded in one place only
        reduced, texts = self._with_used_columns(block), None
        if reduced is not None and self._text_labels:
            reduced, texts = self._without_texts(reduced)
        table = None if reduced is None else self._table(reduced)
        if table is None or (texts and not all(map(_is_label, set(texts)))):
            return None
        features = np.take(table, self._places, axis=1)
        if texts is not None:
            return _label_array(texts), features
        unlabelled = self._selection.label is None
        return (np.full(len(table), np.nan) if unlabelled else table[:, self._label_place].copy()), features

    def _table(self, block: bytes) -> NDArray[np.float64] | None:
        """Numbers of lines that hold nothing else, (n_lines, n_used_columns)."""
        fields, n_columns = cut(block, self._classes, _TABLE), len(self._used)
        if fields is None:
            return None
        opens = np.flatnonzero((fields.kinds[:-1] == DELIMITER) | (fields.kinds[:-1] == NEWLINE))
        blank_lines = (fields.lengths()[opens] == 0) & (fields.kinds[opens + 1] == NEWLINE)
        opens = opens[~blank_lines]
        # each line has as many fields: newlines stand in front of every n_columns-th field, and of no other
        n_lines, rest = divmod(len(opens), n_columns)
        at_newline = fields.kinds[opens] == NEWLINE
        if rest or np.count_nonzero(at_newline) != n_lines or not at_newline[::n_columns].all():
            return None
        values = numbers_at(fields, opens)
        return None if values is None else values.reshape(-1, n_columns)

    def _without_texts(self, block: bytes) -> tuple[bytes | None, list[bytes]]:
        """Return lines with 0 in the place of labels, and the labels; None where these are not first or last."""
        mark, at_start = re.escape(self.layout.delimiter), self._label_place == 0
        if b'"' in block or b"#" in block or self._label_place not in (0, len(self._used) - 1):
            return None, []
        pattern = rb"^[^%b\n]*(?=%b)" % (mark, mark) if at_start else rb"(?<=%b)[^%b\n]*$" % (mark, mark)
        texts = [text.strip() for text in re.findall(pattern, block, flags=re.MULTILINE)]
        return re.sub(pattern, b"0", block, flags=re.MULTILINE), texts

    def _with_used_columns(self, block: bytes) -> bytes | None:
        """Return lines with one delimiter between fields, and the used columns only; None where that is not plain."""
        delimiter = self.layout.delimiter
        if delimiter == BLANK_RUN:
            block = b"\n".join([b" ".join(line.split()) for line in block.split(b"\n")])
        elif b"\r" in block:
            block = block.replace(b"\r\n", b"\n")
        return block if len(self._used) == self.layout.n_columns else self._without_others(block)

    def _without_others(self, block: bytes) -> bytes | None:
        """Return lines with the used columns only; None where a line must be looked at by itself."""
        if b'"' in block or b"#" in block:
            return None
        delimiter, used, n_columns = self.layout.delimiter, self._used.tolist(), self.layout.n_columns
        rows = [line.split(delimiter) for line in block.split(b"\n") if line.strip()]
        if any(len(row) != n_columns for row in rows):
            return None
        return b"".join([delimiter.join([row[i] for i in used]) + b"\n" for row in rows])

    def _slow_rows(self, block: bytes, first_line: int) -> tuple[Labels, NDArray[np.float64]]:
        """Return labels and features line by line, with a precise message for what is wrong."""
        labels, rows = [], []
        for i_line, line in enumerate(block.split(b"\n"), first_line):
            if has_sample(line):
                label, row = self._row(line, f"{self.name}:{i_line}")
                labels += [] if label is None else [label]
                rows.append(row)
        array = np.full(len(rows), np.nan) if self._selection.label is None else _label_array(labels)
        self._text_labels |= array.dtype.kind == "U"
        return array, np.array(rows, dtype=np.float64).reshape(len(rows), len(self._places))

    def _row(self, line: bytes, where: str) -> tuple[bytes | None, list[float]]:
        """Return label, where one is wanted, and features of a line."""
        layout = self.layout
        parts = split_line(line, layout.delimiter, where)
        if len(parts) != layout.n_columns:
            raise DataError(f"{where}: expected {layout.n_columns} columns as in the first line, got {len(parts)}")
        label = None if self._selection.label is None else parts[self._selection.label]
        if label is not None and label.lower() in MISSING:
            raise DataError(f"{where}: label {show(label)} is missing; remove this sample or give it a label")
        if label is not None and not _is_label(label):
            raise DataError(f"{where}: label {show(label)} is not UTF-8 text; save the file as UTF-8")
        return label, [_value(parts[i], f"{where}: {layout.names[i]}") for i in self._selection.features]


def _is_label(text: bytes) -> bool:
    """Return whether a field is a label: neither missing nor in another encoding than UTF-8."""
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return text.lower() not in MISSING


def _value(part: bytes, where: str) -> float:
    """Return number in a field."""
    value = finite_number(part)
    if value is not None:
        return value
    if part.lower() in MISSING:
        raise DataError(
            f"{where}: value {show(part)} is missing; fill it in, remove this sample, or leave the column out "
            "(data.ignore_columns)"
        )
    if _DECIMAL_COMMA.fullmatch(part):
        raise DataError(f"{where}: {show(part)} has a decimal comma; write decimals with a point")
    raise DataError(
        f"{where}: {show(part)} is not a finite decimal number; write categories as numbers, leave the column out "
        "(data.ignore_columns), or choose another label column (data.label_column)"
    )


def _label_array(texts: list[bytes]) -> Labels:
    """Return labels as numbers where all are, else as text; each distinct one is converted once."""
    values = {text: finite_number(text) for text in set(texts)}
    if all(value is not None for value in values.values()):
        return np.array([values[text] for text in texts], dtype=np.float64)
    names = {text: np.array([text.decode("utf-8")] if value is None else [value]) for text, value in values.items()}
    return join_labels([names[text] for text in texts] + [np.zeros(0, dtype=np.str_)])


def _without_header(block: bytes) -> tuple[bytes, int]:
    """Return block behind its first line that is neither blank nor a comment, and how many lines went."""
    lines = block.split(b"\n")
    for i, line in enumerate(lines):
        if has_sample(line):
            return b"\n".join(lines[i + 1 :]), i + 1
    return block, 0
