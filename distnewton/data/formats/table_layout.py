"""How delimited text is divided: delimiter, header."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from distnewton.data.formats.numbers import NUMBER
from distnewton.data.formats.streams import first_lines, read_head
from distnewton.errors import DataError

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
    """

    delimiter: bytes
    has_header: bool
    names: list[str]

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


def find_layout(path: Path, header: bool | str) -> Layout:
    """Layout of a file, from its first line.

    Parameters
    ----------
    path : Path
        An existing text file.
    header : bool or "auto"
        Whether the first line names the columns; ``auto``: it does when none of its fields is a number.

    Returns
    -------
    Layout

    Raises
    ------
    DataError
        If the file has no line.
    """
    lines = first_lines(read_head(path), 1)
    if not lines:
        raise DataError(f"{path}: no samples (the file is empty or holds only comments)")
    delimiter = next((d for d in (b",", b"\t", b";") if d in lines[0].strip()), BLANK_RUN)
    first = split_line(lines[0], delimiter, str(path))
    named = header is True or (header == "auto" and not any(NUMBER.fullmatch(part) for part in first))
    names = [f.decode("utf-8", "replace") for f in first] if named else [f"column {i + 1}" for i in range(len(first))]
    return Layout(delimiter, named, names)


def has_sample(line: bytes) -> bool:
    """Return whether a line is neither blank nor a comment."""
    return bool(line.strip()) and not line.lstrip().startswith(b"#")
