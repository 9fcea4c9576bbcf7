"""Check texts of job files, and quote them for the place where they stand.

No other module of the package quotes for a shell or for Slurm.
"""

from __future__ import annotations

import re
import shlex
import unicodedata

from distnewton.errors import ConfigError

MOST_NAME, MOST_PATH, MOST_LINE = 240, 4000, 100_000
"""Most bytes of a name, of a path or an option of sbatch, and of any text: file systems allow 255 and 4096, sbatch
copies an option into 8192 bytes, and Linux passes at most 131,072 in an argument or a variable."""
_UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}
_PLAIN_OPTION = re.compile(r"[A-Za-z0-9_@%+=:,./~&-]+")


def problem(text: str, most: int = MOST_LINE) -> str:
    """Say why a text may not stand in a job file; empty if it may.

    Parameters
    ----------
    text : str
        Text from a recipe, a cluster file, a file name or an argument.
    most : int
        Largest number of bytes.

    Returns
    -------
    str
        Message that names the character or the length.
    """
    # text after a line end would be a command; text that is not UTF-8 cannot be written
    bad = next((char for char in text if unicodedata.category(char) in _UNPRINTABLE), None)
    if bad is not None:
        return f"must be one line of text without control characters, got {bad!r} in {text[:80]!r}"
    size = len(text.encode())
    return f"has {size} bytes, but may have {most}: {text[:80]!r}..." if size > most else ""


def checked(what: str, text: str, most: int, without: str = "") -> str:
    """Check that a text may stand in a job file.

    Parameters
    ----------
    what : str
        What the text is, for the message.
    text : str
        The text.
    most : int
        Bytes that it may have.
    without : str
        Characters with a special meaning that quotes cannot remove.

    Returns
    -------
    str
        The text.

    Raises
    ------
    ConfigError
        If the text may not stand in a job file.
    """
    found = problem(text, most)
    if not found and (special := [char for char in without if char in text]):
        found = f"may not contain {special[0]!r}, got {text!r}"
    if found:
        raise ConfigError(f"{what} {found}", collective=True)
    return text


def for_shell(text: str) -> str:
    """Quote a word of a shell line."""
    return shlex.quote(checked("a text of the job file", text, MOST_LINE))


def for_sbatch(option: str) -> str:
    """Quote an option on an ``#SBATCH`` line: double quotes protect blanks and ``#``, a backslash the next one."""
    checked("an option of sbatch", option, MOST_PATH + MOST_NAME)
    if _PLAIN_OPTION.fullmatch(option):
        return option
    return '"' + re.sub(r'(["\\])', r"\\\1", option) + '"'
