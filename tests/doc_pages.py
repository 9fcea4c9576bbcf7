"""Blocks and commands of the pages."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
FENCE = re.compile(r"(?P<above>[^\n]*\n)?^(?P<indent> *)```(?P<language>[\w{}-]*)\n(?P<body>.*?)^ *```$", re.M | re.S)


def blocks(page, language):
    """Code of a page in one language, without what is marked as not run."""
    for found in FENCE.finditer(page.read_text(encoding="utf-8")):
        if found["language"] == language and "not run:" not in (found["above"] or ""):
            yield re.sub(rf"^{found['indent']}", "", found["body"], flags=re.M)


def commands(page):
    """Commands of a page as lists of words, comments and redirections left out."""
    for body in blocks(page, "sh"):
        for line in body.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            for words in split_at({"&&", "||", ";", "|"}, lexer):
                words = words[: words.index(">")] if ">" in words else words
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    words = words[1:]
                if words:
                    yield words


def split_at(separators, words):
    """Lists of words between separators."""
    part = []
    for word in words:
        if word in separators:
            yield part
            part = []
        else:
            part.append(word)
    yield part
