"""How a table in text is divided: its delimiter, and whether its first line names the columns."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Literal

from distnewton.data.columns import LABEL_NAMES, Wanted
from distnewton.data.formats.libsvm_lines import show
from distnewton.data.formats.numbers import NUMBER
from distnewton.data.formats.streams import line_blocks
from distnewton.errors import DataError

BLANK_RUN = b" "
_SAMPLED_LINES = 100
_SAMPLED_FIELDS = 1 << 18
_FEW_LINES = 20
_MANY_NUMBERS = 4
_SAME_STEP = 1e-6
_DIGITS = 20
_MOST_CHARACTERS = 1000
"""Of a column's name: what is longer is none."""
MOST_QUOTED = 1 << 20
"""Bytes behind the line on which a quote opens, within which it has to close."""

Verdict = Literal[True, False, "unknown"]


@dataclass(frozen=True)
class Layout:
    """How the lines of a file are divided.

    Attributes
    ----------
    delimiter : bytes
        Comma, tab, semicolon, or a blank, which stands for any run of blanks and tabs.
    has_header : bool
        Whether the first line names the columns.
    names : list of str
        Of all columns; ``column 1`` and so on without a header.
    trailing : bool
        Whether a delimiter ends all lines: behind it there is no column.
    """

    delimiter: bytes
    has_header: bool
    names: list[str]
    trailing: bool = False

    @property
    def n_fields(self) -> int:
        """Fields of a line."""
        return len(self.names) + self.trailing


def split_line(line: bytes, delimiter: bytes, where: str) -> list[bytes]:
    """Fields of a line without blanks and quotes around them.

    Parameters
    ----------
    line : bytes
        Without its newline.
    delimiter : bytes
        As in :class:`Layout`.
    where : str
        The line, for messages.

    Returns
    -------
    list of bytes

    Raises
    ------
    DataError
        If quotes do not belong together, or a carriage return stands inside of the line.
    """
    if b'"' in line:
        text = line.decode("utf-8", "surrogateescape").strip("\r")
        try:
            rows = list(csv.reader([text], delimiter=delimiter.decode(), skipinitialspace=True))
        except csv.Error as error:
            raise DataError(f"{where}: cannot be cut into fields: {error}") from None
        return [part.strip().encode("utf-8", "surrogateescape") for row in rows for part in row]
    return line.split() if delimiter == BLANK_RUN else [part.strip() for part in line.split(delimiter)]


def has_row(line: bytes, comment: bytes) -> bool:
    """Whether a line is neither blank nor a comment."""
    start = line.lstrip()
    return bool(start) and not (comment and start.startswith(comment))


def rows_of(
    lines: Iterable[tuple[int, bytes]], comment: bytes, delimiter: bytes | None, name: str
) -> Iterator[tuple[int, bytes]]:
    """Rows of lines, which line breaks within quotes may join.

    Parameters
    ----------
    lines : iterable of (int, bytes)
        Lines without their newlines, each with its number.
    comment : bytes
        What begins lines to be left out; empty for none.
    delimiter : bytes or None
        Between fields; None for that of each line itself.
    name : str
        File, for messages.

    Yields
    ------
    int, bytes
        Number of the row's first line, and the row, with its inner newlines.

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
    """Whether a quoted field is still open at the end of a line; a quote inside of a field opens nothing."""
    if not line.count(b'"') % 2:
        return False
    reader = csv.reader(
        [line.decode("utf-8", "surrogateescape").strip("\r"), ""], delimiter=delimiter.decode(), skipinitialspace=True
    )
    try:
        next(reader)
    except csv.Error:
        return False  # told when the line is split
    return reader.line_num > 1


def unclosed_quote(name: str, i_line: int) -> DataError:
    """The error for a quote that opens on a line, and closes nowhere near."""
    return DataError(f"{name}:{i_line}: a field begins with a quote that is not closed; close or remove it")


def numbered_rows(path: Path, comment: bytes, delimiter: bytes | None = None) -> Iterator[tuple[int, bytes]]:
    """The header and the rows of a file, however long they are, each with the number of its first line, from 1."""
    lines = (line for block in line_blocks(path) for line in block.split(b"\n")[:-1])
    return rows_of(enumerate(lines, 1), comment, delimiter, str(path))


def find_delimiter(line: bytes) -> bytes:
    """What divides a line."""
    return next((d for d in (b",", b"\t", b";") if d in line.strip()), BLANK_RUN)


def find_layout(path: Path, wanted: Wanted) -> Layout:
    """Layout of a file, from its first lines.

    Parameters
    ----------
    path : Path
        An existing text file.
    wanted : Wanted
        Whether it has a header, what begins a comment, and what is missing.

    Returns
    -------
    Layout

    Raises
    ------
    DataError
        If the file has no line, or its first line may be a header or a row.
    """
    rows = numbered_rows(path, wanted.comment.encode())
    i_line, line = next(rows, (0, b""))
    if not i_line:
        raise DataError(f"{path}: no samples (the file is empty or holds only comments)")
    if b"\r" in line.rstrip(b"\r") and b'"' not in line:
        raise DataError(f"{path}:{i_line}: has carriage returns inside; end lines by a newline, with or without one")
    delimiter = find_delimiter(line)
    first = split_line(line, delimiter, f"{path}:{i_line}")
    named = wanted.header
    n_sampled = min(_SAMPLED_LINES, max(1, _SAMPLED_FIELDS // len(first)))
    lines = list(islice(rows, n_sampled))
    below = [split_line(line, delimiter, f"{path}:{i}") for i, line in lines]
    # who puts quotes around texts alone has a text in each field of this line
    quoted, *others = (text.count(b'"') >= 2 * len(first) for _, text in [(i_line, line), *lines])
    if named == "auto":
        missing = {value.lower().encode() for value in wanted.missing_values}
        rows_below = [row for row in below if len(row) == len(first)]
        named = is_header(first, rows_below, missing, quoted=quoted and not any(others))
        if named == "unknown":
            shown = ", ".join(field.decode("utf-8", "replace")[:20] for field in first[:10])
            raise DataError(
                f"{path}:{i_line}: cannot be told from a row of data and from a header ({shown}): set data.header = "
                "true if it names the columns, data.header = false if it is a sample"
            )
    if named and (longest := max(first, key=len)) and len(longest) > _MOST_CHARACTERS:
        raise DataError(
            f"{path}:{i_line}: the name {show(longest)} of a column has {len(longest):,} characters, at most "
            f"{_MOST_CHARACTERS:,} are expected; set data.header = false if this line is a sample"
        )
    trailing = len(first) > 1 and not any(row[-1] for row in (first, *below))
    columns = first[: len(first) - trailing]
    names = [f.decode("utf-8", "replace") if named else f"column {i + 1}" for i, f in enumerate(columns)]
    return Layout(delimiter, bool(named), names, trailing)


def is_header(
    first: Sequence[bytes], below: Sequence[Sequence[bytes]], missing: set[bytes], *, quoted: bool = False
) -> Verdict:
    """Whether the first line of a table names its columns.

    Parameters
    ----------
    first : sequence of bytes
        Its fields.
    below : sequence of sequence of bytes
        Fields of lines that follow, as many each.
    missing : set of bytes
        What stands for a missing value, in small letters.
    quoted : bool
        Whether quotes are around all of its fields, and around those of no line below.

    Returns
    -------
    bool or "unknown"
        ``unknown`` where the lines speak for both.
    """
    if quoted and any(_all_numbers(column, missing) for column in zip(*below, strict=True)):
        return True
    numbers = [i for i, field in enumerate(first) if NUMBER.fullmatch(field)]
    texts = [i for i, field in enumerate(first) if field.lower() not in missing and not NUMBER.fullmatch(field)]
    columns = {i: [row[i] for row in below] for i in (*texts, *numbers[:1])}
    over_numbers = [i for i in texts if _all_numbers(columns[i], missing)]
    # a column of classes holds its first one again
    repeats = any(first[i] in columns[i] for i in texts)
    whole = [first[i] for i in numbers]
    could_name = all(field.isdigit() for field in whole) and len(set(whole)) == len(whole)
    # years, or the middles of intervals
    if not repeats and _climbs(whole) and not any(_climbs([row[i] for i in numbers]) for row in below):
        return True
    if over_numbers:
        return True if could_name and not repeats else "unknown"
    if not numbers:
        return bool(texts) and not repeats
    row_names = {row[0] for row in below if row[0].lower() not in missing}
    if not (first[0] or repeats) and len(row_names) == len(below) > 1:
        # an index without a name
        if _counts([row[0] for row in below]) or (could_name and not any(map(NUMBER.fullmatch, row_names))):
            return True
        if len(below) >= _FEW_LINES and all(name.isdigit() for name in row_names):
            return "unknown"
    if repeats or not could_name:
        return False
    if _counts(whole) and not any(_counts([row[i] for i in numbers]) for row in below):
        # 0,1,2,species, as pandas names the columns of an array
        return bool(texts) or not first[0] or len(numbers) >= _MANY_NUMBERS
    if any(first[i].lower().decode("utf-8", "replace") in LABEL_NAMES for i in texts):
        return True
    again = any(len(set(columns[i])) < len(columns[i]) for i in texts)
    return "unknown" if again and len(below) >= _FEW_LINES else False


def _all_numbers(column: Sequence[bytes], missing: set[bytes]) -> bool:
    """Whether a column holds numbers and nothing else but missing values."""
    filled = [field for field in column if field.lower() not in missing]
    return bool(filled) and all(NUMBER.fullmatch(field) for field in filled)


def _climbs(fields: Sequence[bytes]) -> bool:
    """Whether fields are several numbers with one step between them."""
    if len(fields) < _MANY_NUMBERS or not all(map(NUMBER.fullmatch, fields)):
        return False
    values = [float(field) for field in fields]
    step = values[1] - values[0]
    return step > 0 and all(abs(b - a - step) <= _SAME_STEP * step for a, b in pairwise(values))


def _counts(fields: Sequence[bytes]) -> bool:
    """Whether fields count on by one."""
    # columns have no numbers of twenty digits, and Python does not convert thousands
    if not all(field.isdigit() and len(field) < _DIGITS for field in fields):
        return False
    start = int(fields[0]) if fields else 0
    return [int(field) for field in fields] == list(range(start, start + len(fields)))
