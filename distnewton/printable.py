"""Text from files and users made safe for a terminal: unprintable characters are shown by their codes."""

from __future__ import annotations

import re

_DOUBTFUL = re.compile("[^ -~]")


def printable(text: str, keep: str = "\n\t") -> str:
    r"""Replace control characters and other invisible ones by their codes: escape becomes ``\x1b``.

    Parameters
    ----------
    text : str
        Any text, including lone surrogates.
    keep : str
        Characters to keep: by default those that lay out lines; pass none for text within a line.

    Returns
    -------
    str
    """
    return _DOUBTFUL.sub(lambda found: _shown(found[0], keep), text)


def _shown(sign: str, keep: str) -> str:
    return sign if sign.isprintable() or sign in keep else sign.encode("unicode_escape").decode()
