"""Texts of job files: each is refused, or quoted for the place where it stands.

Nothing else in the package quotes for a shell or for Slurm.
"""

from __future__ import annotations

import re
import shlex
import unicodedata

from distnewton.errors import ConfigError

MOST_NAME, MOST_PATH, MOST_LINE = 240, 4000, 100_000
"""Bytes of a name, of a path or an option of sbatch, and of any text: file systems take 255 and 4096, sbatch copies an
option into 8192, and Linux passes at most 131,072 in an argument or a variable."""
_UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}
_PLAIN_OPTION = re.compile(r"[A-Za-z0-9_@%+=:,./~&-]+")


def problem(text: str, most: int = MOST_LINE) -> str:
    """What forbids a text in a job file; empty where it may stand there.

    Parameters
    ----------
    text : str
        Text from a recipe, a cluster file, a file name or an argument.
    most : int
        Bytes that it may have.

    Returns
    -------
    str
        Names the character or the length.
    """
    # a line that ends early would be a command; what is not UTF-8 cannot be written
    bad = next((char for char in text if unicodedata.category(char) in _UNPRINTABLE), None)
    if bad is not None:
        return f"must be one line of text without control characters, got {bad!r} in {text[:80]!r}"
    size = len(text.encode())
    return f"has {size} bytes, and may have {most}: {text[:80]!r}..." if size > most else ""


def checked(what: str, text: str, most: int, without: str = "") -> str:
    """A text that may stand in a job file.

    Parameters
    ----------
    what : str
        What it is, for the message.
    text : str
        The text.
    most : int
        Bytes that it may have.
    without : str
        Characters that mean something where it is used, and that no quotes take away.

    Returns
    -------
    str
        The text.

    Raises
    ------
    ConfigError
        If it may not.
    """
    found = problem(text, most)
    if not found and (special := [char for char in without if char in text]):
        found = f"may not contain {special[0]!r}, got {text!r}"
    if found:
        raise ConfigError(f"{what} {found}", collective=True)
    return text


def for_shell(text: str) -> str:
    """A word of a shell line."""
    return shlex.quote(checked("a text of the job file", text, MOST_LINE))


def for_sbatch(option: str) -> str:
    """An option on an ``#SBATCH`` line: double quotes keep blanks and ``#``, a backslash what follows."""
    checked("an option of sbatch", option, MOST_PATH + MOST_NAME)
    if _PLAIN_OPTION.fullmatch(option):
        return option
    return '"' + re.sub(r'(["\\])', r"\\\1", option) + '"'
