"""Layout of a text table: its delimiter, and whether its first line names the columns."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path
from typing import Literal

from distnewton.data.columns import LABEL_NAMES, Wanted
from distnewton.data.formats.libsvm_lines import show
from distnewton.data.formats.numbers import DECIMAL_COMMA, NUMBER
from distnewton.data.formats.streams import line_blocks
from distnewton.errors import DataError
from distnewton.frozen import frozen

BLANK_RUN = b" "
_SAMPLED_LINES = 100
_SAMPLED_FIELDS = 1 << 18
_FEW_LINES = 20
_MANY_NUMBERS = 4
_SAME_STEP = 1e-6
_DIGITS = 20
_MOST_CHARACTERS = 1000
"""Most characters of a column's name; a longer text is not a name."""
MOST_QUOTED = 1 << 20
"""Number of bytes after the line that opens a quote within which the quote must close."""

Verdict = Literal[True, False, "unknown"]


@frozen
class Layout:
    """How the lines of a file are split into fields.

    Attributes
    ----------
    delimiter : bytes
        Comma, tab, semicolon, vertical bar, or a blank, which means any run of blanks and tabs.
    has_header : bool
        Whether the first line names the columns.
    names : list of str
        Names of all columns; ``column 1`` and so on without a header.
    trailing : bool
        Whether every line ends with a delimiter, which does not start another column.
    """

    delimiter: bytes
    has_header: bool
    names: list[str]
    trailing: bool = False

    @property
    def n_fields(self) -> int:
        """Number of fields on a line."""
        return len(self.names) + self.trailing


def split_line(line: bytes, delimiter: bytes, where: str) -> list[bytes]:
    """Split a line into fields without surrounding blanks and quotes.

    Parameters
    ----------
    line : bytes
        Line without its newline.
    delimiter : bytes
        As in :class:`Layout`.
    where : str
        Position of the line, for messages.

    Returns
    -------
    list of bytes

    Raises
    ------
    DataError
        If quotes do not match, or the line contains a carriage return.
    """
    if b'"' in line:
        text = line.decode("utf-8", "surrogateescape").strip("\r")
        try:
            rows = list(csv.reader([text], delimiter=delimiter.decode(), skipinitialspace=True))
        except csv.Error as error:
            raise DataError(f"{where}: cannot be split into fields: {error}") from None
        return [part.strip().encode("utf-8", "surrogateescape") for row in rows for part in row]
    return line.split() if delimiter == BLANK_RUN else [part.strip() for part in line.split(delimiter)]


def has_row(line: bytes, comment: bytes) -> bool:
    """Whether a line is neither blank nor a comment."""
    start = line.lstrip()
    return bool(start) and not (comment and start.startswith(comment))


def rows_of(
    lines: Iterable[tuple[int, bytes]], comment: bytes, delimiter: bytes | None, name: str
) -> Iterator[tuple[int, bytes]]:
    """Group lines into rows; a line break within quotes does not end a row.

    Parameters
    ----------
    lines : iterable of (int, bytes)
        Lines without their newlines, each with its number.
    comment : bytes
        Beginning of comment lines; empty for no comments.
    delimiter : bytes or None
        Delimiter between fields; None to find it for each line.
    name : str
        File, for messages.

    Yields
    ------
    int, bytes
        Number of the row's first line, and the row with its inner newlines.

    Raises
    ------
    DataError
        If a quote is not closed.
    """
    parts: list[bytes] = []
    first = n_bytes = 0
    for i_line, line in lines:
        if parts:
            parts.append(line)
            if line.count(b'"') % 2:
                yield first, b"\n".join(parts)
                parts = []
            elif (n_bytes := n_bytes + len(line)) > MOST_QUOTED:
                break
        elif has_row(line, comment):
            if opens_quote(line, delimiter or find_delimiter(line)):
                first, n_bytes, parts = i_line, 0, [line]
            else:
                yield i_line, line
    if parts:
        raise unclosed_quote(name, first)


def opens_quote(line: bytes, delimiter: bytes) -> bool:
    """Whether a quoted field is still open at the end of a line; a quote inside a field opens nothing."""
    if not line.count(b'"') % 2:
        return False
    reader = csv.reader(
        [line.decode("utf-8", "surrogateescape").strip("\r"), ""], delimiter=delimiter.decode(), skipinitialspace=True
    )
    try:
        next(reader)
    except csv.Error:
        return False  # reported when the line is split
    return reader.line_num > 1


def unclosed_quote(name: str, i_line: int) -> DataError:
    """The error for a quote that opens on a line and is not closed soon enough."""
    return DataError(f"{name}:{i_line}: a field begins with a quote that is not closed; close or remove it")


def numbered_rows(path: Path, comment: bytes, delimiter: bytes | None = None) -> Iterator[tuple[int, bytes]]:
    """Yield header and rows of a file, of any length, each with the number of its first line, from 1."""
    lines = (line for block in line_blocks(path) for line in block.split(b"\n")[:-1])
    return rows_of(enumerate(lines, 1), comment, delimiter, str(path))


def find_delimiter(line: bytes) -> bytes:
    """Find the delimiter of a line."""
    line = line.strip()
    with_comma = [field.strip(b' "').decode(errors="replace") for field in line.split(b";") if b"," in field]
    if b";" in line and with_comma and all(map(DECIMAL_COMMA.fullmatch, with_comma)):
        return b";"  # the commas of 5,1;3,5 are in numbers
    return next((d for d in (b",", b"\t", b";", b"|") if d in line), BLANK_RUN)


def find_layout(path: Path, wanted: Wanted) -> Layout:
    """Determine the layout of a file from its first lines.

    Parameters
    ----------
    path : Path
        An existing text file.
    wanted : Wanted
        Whether there is a header, the beginning of comments, and texts for missing values.

    Returns
    -------
    Layout

    Raises
    ------
    DataError
        If the file is empty, or its first line may be either a header or a row.
    """
    rows = numbered_rows(path, wanted.comment.encode())
    i_line, line = _first_line(path, rows)
    delimiter = find_delimiter(line)
    first = split_line(line, delimiter, f"{path}:{i_line}")
    n_sampled = min(_SAMPLED_LINES, max(1, _SAMPLED_FIELDS // len(first)))
    lines = list(islice(rows, n_sampled))
    below = [split_line(line, delimiter, f"{path}:{i}") for i, line in lines]
    named = wanted.header
    if named == "auto":
        quoted = _alone_quoted(len(first), [line, *(text for _, text in lines)])
        named = _names_columns(first, below, wanted, f"{path}:{i_line}", quoted=quoted)
    if named and len(longest := max(first, key=len)) > _MOST_CHARACTERS:
        raise DataError(
            f"{path}:{i_line}: the column name {show(longest)} has {len(longest):,} characters, but at most "
            f"{_MOST_CHARACTERS:,} are expected; set data.header = false if this line is a sample"
        )
    trailing = len(first) > 1 and not any(row[-1] for row in (first, *below))
    columns = first[: len(first) - trailing]
    names = _decoded(columns, f"{path}:{i_line}") if named else [f"column {i + 1}" for i in range(len(columns))]
    return Layout(delimiter, bool(named), names, trailing)


def _decoded(names: Sequence[bytes], where: str) -> list[str]:
    """Names of columns as texts; refuses those that are not UTF-8."""
    try:
        return [name.decode() for name in names]
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: column name {show(error.object)} is not UTF-8 text; save the file as UTF-8"
        ) from None


def _first_line(path: Path, rows: Iterator[tuple[int, bytes]]) -> tuple[int, bytes]:
    """Number and text of the first line; refuses a file without lines, or with other line endings."""
    i_line, line = next(rows, (0, b""))
    if not i_line:
        raise DataError(f"{path}: no samples (the file is empty or holds only comments)")
    if b"\r" in line.rstrip(b"\r") and b'"' not in line:
        raise DataError(f"{path}:{i_line}: has carriage returns within the line; end lines with a newline")
    return i_line, line


def _alone_quoted(n_fields: int, lines: Sequence[bytes]) -> bool:
    """Whether only the first line has quotes around all fields: a writer that quotes texts then has texts there."""
    quoted, *others = (line.count(b'"') >= 2 * n_fields for line in lines)
    return quoted and not any(others)


def _names_columns(
    first: Sequence[bytes], below: Sequence[Sequence[bytes]], wanted: Wanted, where: str, *, quoted: bool
) -> bool:
    """Whether the first line names the columns; refuses an ambiguous line."""
    missing = {value.lower().encode() for value in wanted.missing_values}
    found = is_header(first, [row for row in below if len(row) == len(first)], missing, quoted=quoted)
    if found != "unknown":
        return found
    shown = ", ".join(field.decode("utf-8", "replace")[:20] for field in first[:10])
    raise DataError(
        f"{where}: this line may be a header or a sample ({shown}): set data.header = true if it names the columns, "
        "else data.header = false"
    )


def is_header(
    first: Sequence[bytes], below: Sequence[Sequence[bytes]], missing: set[bytes], *, quoted: bool = False
) -> Verdict:
    """Whether the first line of a table names its columns.

    Parameters
    ----------
    first : sequence of bytes
        Fields of the first line.
    below : sequence of sequence of bytes
        Fields of the lines that follow, the same number on each.
    missing : set of bytes
        Texts that mark a missing value, in lower case.
    quoted : bool
        Whether all fields of the first line are quoted, and those of no line below.

    Returns
    -------
    bool or "unknown"
        ``unknown`` if the lines are ambiguous.
    """
    if quoted and any(_all_numbers(column, missing) for column in zip(*below, strict=True)):
        return True
    lines = _Lines(first, below, missing)
    verdicts = (verdict() for verdict in (lines.by_numbers, lines.by_index, lines.by_names))
    return next((verdict for verdict in verdicts if verdict is not None), False)


@frozen
class _Lines:
    """The first line of a table and the lines below, with rules that tell whether the first is a header."""

    first: Sequence[bytes]
    below: Sequence[Sequence[bytes]]
    missing: set[bytes]  # texts that mark a missing value, in lower case

    @cached_property
    def numbers(self) -> list[int]:
        """Columns whose first field is a number."""
        return [i for i, field in enumerate(self.first) if NUMBER.fullmatch(field)]

    @cached_property
    def texts(self) -> list[int]:
        """Columns whose first field is a text."""
        there = (i for i, field in enumerate(self.first) if field.lower() not in self.missing)
        return [i for i in there if not NUMBER.fullmatch(self.first[i])]

    @cached_property
    def columns(self) -> dict[int, list[bytes]]:
        """Fields below those texts, by column."""
        return {i: [row[i] for row in self.below] for i in self.texts}

    @cached_property
    def repeats(self) -> bool:
        """Whether a text of the first line recurs in its column, as the first value of a class column does."""
        return any(self.first[i] in column for i, column in self.columns.items())

    @cached_property
    def whole(self) -> list[bytes]:
        """Fields of the first line that are numbers."""
        return [self.first[i] for i in self.numbers]

    @cached_property
    def could_name(self) -> bool:
        """Whether the numbers of the first line could be names: whole and distinct."""
        return all(field.isdigit() for field in self.whole) and len(set(self.whole)) == len(self.whole)

    def only_first(self, rule: Callable[[Sequence[bytes]], bool]) -> bool:
        """Whether a rule holds for the numbers of the first line, but for no line below."""
        return rule(self.whole) and not any(rule([row[i] for i in self.numbers]) for row in self.below)

    def by_numbers(self) -> Verdict | None:
        """Verdict from numbers in the first line or below its texts."""
        # years, or the middles of intervals
        if not self.repeats and self.only_first(_climbs):
            return True
        if any(_all_numbers(column, self.missing) for column in self.columns.values()):
            return True if self.could_name and not self.repeats else "unknown"
        return None if self.numbers else bool(self.texts) and not self.repeats

    @property
    def again(self) -> bool:
        """Whether a column below a text repeats a text."""
        return any(len(set(column)) < len(column) for column in self.columns.values())

    @cached_property
    def index(self) -> list[bytes]:
        """Fields of an unnamed index, all distinct; empty if there is none."""
        if self.first[0] or self.repeats:
            return []
        index = [row[0] for row in self.below]
        differ = len(set(index)) == len(index) > 1 and not self.missing.intersection(map(bytes.lower, index))
        return index if differ else []

    def by_index(self) -> Verdict | None:
        """Verdict from an unnamed index."""
        if not (index := self.index):
            return None
        if _counts(index) or (self.could_name and not any(map(NUMBER.fullmatch, index))):
            return True
        return "unknown" if len(index) >= _FEW_LINES and all(map(bytes.isdigit, index)) else None

    def by_names(self) -> Verdict:
        """Verdict from common column names, if nothing else decides."""
        if self.repeats or not self.could_name:
            return False
        if self.only_first(_counts):
            # 0,1,2,species: pandas numbers the columns of an array
            return bool(self.texts) or not self.first[0] or len(self.numbers) >= _MANY_NUMBERS
        names = {self.first[i].lower().decode("utf-8", "replace") for i in self.texts}
        if not names.isdisjoint(LABEL_NAMES):
            return True
        return "unknown" if self.again and len(self.below) >= _FEW_LINES else False


def _all_numbers(column: Sequence[bytes], missing: set[bytes]) -> bool:
    """Whether a column holds only numbers and missing values."""
    filled = [field for field in column if field.lower() not in missing]
    return bool(filled) and all(NUMBER.fullmatch(field) for field in filled)


def _climbs(fields: Sequence[bytes]) -> bool:
    """Whether fields are several increasing, equally spaced numbers."""
    if len(fields) < _MANY_NUMBERS or not all(map(NUMBER.fullmatch, fields)):
        return False
    values = [float(field) for field in fields]
    step = values[1] - values[0]
    return step > 0 and all(abs(b - a - step) <= _SAME_STEP * step for a, b in pairwise(values))


def _counts(fields: Sequence[bytes]) -> bool:
    """Whether fields are numbers that increase by one."""
    # column numbers do not have twenty digits, and Python refuses to convert thousands of digits
    if not all(field.isdigit() and len(field) < _DIGITS for field in fields):
        return False
    start = int(fields[0]) if fields else 0
    return [int(field) for field in fields] == list(range(start, start + len(fields)))
