"""How delimited text is divided: delimiter, header, label column."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from distnewton.data.libsvm_lines import show
from distnewton.data.numbers import NUMBER
from distnewton.data.sniff import first_lines
from distnewton.data.streams import read_head
from distnewton.errors import ConfigError, DataError

LABEL_NAMES = ("label", "target", "class", "y")
MISSING = (b"", b"?", b"na", b"n/a", b"nan", b"null", b"none", b"-")
BLANK_RUN = b" "


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
    i_label : int
        Which column holds the labels.
    """

    delimiter: bytes
    has_header: bool
    names: list[str]
    i_label: int

    @property
    def n_columns(self) -> int:
        """Number of columns, labels included."""
        return len(self.names)


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


def find_layout(path: Path, header: bool | str, label_column: int | str | None) -> Layout:
    """Layout of a file, from its first line.

    Parameters
    ----------
    path : Path
        An existing text file.
    header : bool or "auto"
        Whether the first line names the columns; ``auto``: it does when none of its fields is a number.
    label_column : int, str or None
        Column by number from 0 (negative: from the end) or by name; None takes the column named ``label``,
        ``target``, ``class`` or ``y`` (in any case), and the last one where none is.

    Returns
    -------
    Layout

    Raises
    ------
    ConfigError
        If there is no such column.
    DataError
        If the file has no line, or fewer than two columns.
    """
    lines = first_lines(read_head(path), 1)
    if not lines:
        raise DataError(f"{path}: no samples (the file is empty or holds only comments)")
    delimiter = next((d for d in (b",", b"\t", b";") if d in lines[0].strip()), BLANK_RUN)
    first = split_line(lines[0], delimiter, str(path))
    if len(first) < 2:
        raise DataError(
            f"{path}:1: expected a label and at least one feature, got one column: {show(lines[0])}"
        )
    named = header is True or (header == "auto" and not any(NUMBER.fullmatch(part) for part in first))
    names = (
        [f.decode("utf-8", "replace") for f in first]
        if named
        else [f"column {i + 1}" for i in range(len(first))]
    )
    return Layout(delimiter, named, names, label_index(path, names, named, label_column))


def label_index(path: Path, names: list[str], named: bool, label_column: int | str | None) -> int:
    """Number of the label column.

    Parameters
    ----------
    path : Path
        File, for messages.
    names : list of str
        Of all columns.
    named : bool
        Whether they are the file's own.
    label_column : int, str or None
        As for :func:`find_layout`.

    Returns
    -------
    int

    Raises
    ------
    ConfigError
        If there is no such column.
    """
    n_columns = len(names)
    if label_column is None:
        lower = [name.lower() for name in names]
        return next((lower.index(name) for name in LABEL_NAMES if name in lower), n_columns - 1)
    if isinstance(label_column, str) and label_column in names:
        return names.index(label_column)
    try:
        index = int(label_column)
    except ValueError:
        known = (
            f"the columns are {', '.join(names[:20])}"
            if named
            else "the file has no header; give a number from 0"
        )
        raise ConfigError(f"label_column = {label_column!r}: {path} has no such column; {known}") from None
    if not -n_columns <= index < n_columns:
        raise ConfigError(
            f"label_column = {index}: {path} has {n_columns} columns, so 0 to {n_columns - 1} are possible"
        )
    return index % n_columns


def has_sample(line: bytes) -> bool:
    """Return whether a line is neither blank nor a comment."""
    return bool(line.strip()) and not line.lstrip().startswith(b"#")
