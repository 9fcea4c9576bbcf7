"""Delimited text: a column a feature, one column with the labels."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnewton.data.columns import Wanted, names_of, select_columns
from distnewton.data.description import Description
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
from distnewton.data.formats.streams import BYTE_ORDER_MARK, count_lines, line_blocks, read_head
from distnewton.data.formats.table_layout import BLANK_RUN, MISSING, Layout, has_sample, split_line
from distnewton.data.labels import join_labels
from distnewton.data.row_selection import Chosen, RowSelection
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


@dataclass
class DelimitedSource:
    """A text file with a sample on each line.

    Attributes
    ----------
    path : Path
        An existing file, plain or compressed.
    layout : Layout
        How its lines are divided.
    wanted : Wanted
        Which columns are asked for.
    """

    path: Path
    layout: Layout
    wanted: Wanted = field(default_factory=Wanted)
    _text_labels: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        layout = self.layout
        self._selection = select_columns(self.path, layout.names, layout.has_header, self.wanted)
        label = self._selection.label
        self._features = list(self._selection.features)
        self._used = sorted([*self._features, *([] if label is None else [label])])
        self._classes = byte_classes(layout.delimiter)

    @property
    def name(self) -> str:
        """Path as given."""
        return str(self.path)

    def describe(self) -> Description:
        """Check the whole file in one streaming pass.

        Returns
        -------
        Description

        Raises
        ------
        DataError
            With file and line, for a missing value, a text where a number belongs, or a line of another
            length.
        """
        return self.scan(lambda _: None)

    def scan(self, take: Callable[[NDArray[np.float64]], None]) -> Description:
        """Do what `describe` does, and hand over the features on the way.

        Parameters
        ----------
        take : callable
            Called with the features, (n, n_features), of block after block.

        Returns
        -------
        Description
        """
        labels: list[Labels] = []
        n_nonzeros = n_samples = 0
        for block_labels, features in self._blocks():
            labels.append(block_labels)
            n_samples += len(features)
            n_nonzeros += int(np.count_nonzero(features))
            take(features)
        if not n_samples:
            raise DataError(f"{self.path}: no samples (only a header or comments)")
        notes = []
        if read_head(self.path).startswith(BYTE_ORDER_MARK):
            notes.append("a byte-order mark at the beginning was skipped")
        return Description(
            self.name,
            "csv",
            n_samples,
            len(self._features),
            n_nonzeros,
            False,
            join_labels(labels),
            self._selection.n_extra * n_samples,
            notes + self._selection.notes,
            labelled=self._selection.label is not None,
            names=names_of(self.layout.names, self._selection) if self.layout.has_header else None,
        )

    def read(self, start: int, stop: int, dtype: DTypeLike = "float64", rows: Chosen | None = None) -> NDArray[Any]:
        """Read a range of features.

        Parameters
        ----------
        start, stop : int
            Half-open range of features, counted from 0 without the label column.
        dtype : dtype
            Of the result.
        rows : Array of int or None
            Samples wanted, ascending; all by default.

        Returns
        -------
        ndarray of shape (n_samples, stop - start)
        """
        if not 0 <= start <= stop <= len(self._features):
            raise ValueError(f"features {start} to {stop} asked for, {self.name} has {len(self._features)}")
        wanted, n_samples, pieces = RowSelection(rows), 0, []
        for _, features in self._blocks():
            _, chosen = wanted.of(n_samples, len(features))
            n_samples += len(features)
            pieces.append(features[chosen, start:stop].astype(dtype))
        return np.concatenate(pieces) if pieces else np.zeros((0, stop - start), dtype=dtype)

    def locate(self, i_sample: int) -> str:
        """``file:line`` of a sample.

        Parameters
        ----------
        i_sample : int
            Number of the sample from 0.

        Returns
        -------
        str
        """
        n_samples = -int(self.layout.has_header)
        i_line = 0
        for block in line_blocks(self.path):
            for line in block.split(b"\n")[:-1]:
                i_line += 1
                n_samples += has_sample(line)
                if n_samples > i_sample:
                    return f"{self.name}:{i_line}"
        return f"{self.name}: sample {i_sample + 1}"

    def _blocks(self) -> Iterator[tuple[Labels, NDArray[np.float64]]]:
        """Yield labels and features, (n_lines, n_features), of block after block."""
        first_line, skip_header = 1, self.layout.has_header
        for block in line_blocks(self.path):
            n_lines = count_lines(block)
            if skip_header:
                block, n_skipped = _without_header(block)
                first_line, n_lines, skip_header = first_line + n_skipped, n_lines - n_skipped, not n_skipped
            found = self._fast_rows(block)
            yield self._slow_rows(block, first_line) if found is None else found
            first_line += n_lines

    def _fast_rows(self, block: bytes) -> tuple[Labels, NDArray[np.float64]] | None:
        """Return labels and features of lines of numbers; None where lines must be looked at one by one."""
        delimiter, label = self.layout.delimiter, self._selection.label
        if delimiter == BLANK_RUN:
            block = b"\n".join([b" ".join(line.split()) for line in block.split(b"\n")])
        elif b"\r" in block:
            block = block.replace(b"\r\n", b"\n")
        used = self._used
        n_columns, i_label = len(used), 0 if label is None else used.index(label)
        if n_columns < self.layout.n_columns:
            reduced = self._without_others(block)
            if reduced is None:
                return None
            block = reduced
        texts: list[bytes] = []
        if self._text_labels:
            if b'"' in block or b"#" in block or i_label not in (0, n_columns - 1):
                return None
            mark = re.escape(delimiter)
            pattern = (
                rb"^[^%b\n]*(?=%b)" % (mark, mark) if i_label == 0 else rb"(?<=%b)[^%b\n]*$" % (mark, mark)
            )
            found = re.findall(pattern, block, flags=re.MULTILINE)
            texts = [text.strip() for text in found]
            block = re.sub(pattern, b"0", block, flags=re.MULTILINE)
        fields = cut(block, self._classes, _TABLE)
        if fields is None:
            return None
        opens = np.flatnonzero((fields.kinds[:-1] == DELIMITER) | (fields.kinds[:-1] == NEWLINE))
        blank_lines = fields.lengths()[opens] == 0
        blank_lines &= fields.kinds[opens + 1] == NEWLINE
        opens = opens[~blank_lines]
        values = None if opens.size % n_columns else numbers_at(fields, opens)
        if values is None or (fields.kinds[opens[::n_columns]] != NEWLINE).any() or (
            np.count_nonzero(fields.kinds[opens] == NEWLINE) * n_columns != len(opens)
        ):  # fmt: skip
            return None
        table = values.reshape(-1, n_columns)
        features = np.take(table, [used.index(i) for i in self._features], axis=1)
        if not texts:
            return np.full(len(table), np.nan) if label is None else table[:, i_label].copy(), features
        return (_label_array(texts), features) if all(map(_is_label, set(texts))) else None

    def _without_others(self, block: bytes) -> bytes | None:
        """Return lines with the used columns only; None where a line must be looked at by itself."""
        if b'"' in block or b"#" in block:
            return None
        delimiter, used, n_columns = self.layout.delimiter, self._used, self.layout.n_columns
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
        found = np.full(len(rows), np.nan) if self._selection.label is None else _label_array(labels)
        self._text_labels |= found.dtype.kind == "U"
        return found, np.array(rows, dtype=np.float64).reshape(len(rows), len(self._features))

    def _row(self, line: bytes, where: str) -> tuple[bytes | None, list[float]]:
        """Return label, where one is wanted, and features of a line."""
        layout = self.layout
        parts = split_line(line, layout.delimiter, where)
        if len(parts) != layout.n_columns:
            raise DataError(
                f"{where}: expected {layout.n_columns} columns as in the first line, got {len(parts)}"
            )
        label = None if self._selection.label is None else parts[self._selection.label]
        if label is not None and label.lower() in MISSING:
            raise DataError(f"{where}: label {show(label)} is missing; remove this sample or give it a label")
        if label is not None and not _is_label(label):
            raise DataError(f"{where}: label {show(label)} is not UTF-8 text; save the file as UTF-8")
        return label, [_value(parts[i], f"{where}: {layout.names[i]}") for i in self._features]


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
    names = {
        text: np.array([text.decode("utf-8")] if value is None else [value])
        for text, value in values.items()
    }
    return join_labels([names[text] for text in texts] + [np.zeros(0, dtype=np.str_)])


def _without_header(block: bytes) -> tuple[bytes, int]:
    """Return block behind its first line that is neither blank nor a comment, and how many lines went."""
    lines = block.split(b"\n")
    for i, line in enumerate(lines):
        if has_sample(line):
            return b"\n".join(lines[i + 1 :]), i + 1
    return block, 0
