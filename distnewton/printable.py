"""Texts of files and users on a terminal, which they must not steer: what is not printable is shown by its code."""

from __future__ import annotations

import re

_DOUBTFUL = re.compile("[^ -~]")


def printable(text: str, keep: str = "\n\t") -> str:
    r"""A text without control characters and other signs that do not show: escape becomes ``\x1b``.

    Parameters
    ----------
    text : str
        Any, lone surrogates included.
    keep : str
        Signs that stay: those that lay out lines by default, none for a text in a line.

    Returns
    -------
    str
    """
    return _DOUBTFUL.sub(lambda found: _shown(found[0], keep), text)


def _shown(sign: str, keep: str) -> str:
    return sign if sign.isprintable() or sign in keep else sign.encode("unicode_escape").decode()
