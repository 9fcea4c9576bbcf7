"""Paths, TOML and JSON as users or damage leave them: any invalid content raises an error of this package."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from distnewton.errors import MissingInputError, shown

_MOST_LEVELS, _MOST_SHOWN = 20, 100
_TOO_DEEP = "tables or arrays lie too deep in each other"


def possible_path(name: str | Path) -> Path:
    """Return a name as a path; raises MissingInputError if no file can have this name."""
    try:
        impossible = b"\0" in os.fsencode(name)
    except UnicodeEncodeError:
        impossible = True  # the locale's encoding lacks some characters
    if impossible:
        raise MissingInputError(f"{str(name)!a}: no file here can have this name, for the characters in it")
    return Path(name)


def real_path(name: str | Path) -> Path:
    """Return the absolute path without links; unlike Path.resolve, also of a circular link."""
    return Path(os.path.realpath(possible_path(name)))


def user_path(name: str | Path) -> Path:
    """Return a path that a user has written, with ``~`` and ``~user`` expanded.

    Parameters
    ----------
    name : str or Path
        Name of a file or folder, which need not exist.

    Returns
    -------
    Path

    Raises
    ------
    MissingInputError
        If no file can have this name, or the user does not exist.
    """
    try:
        return possible_path(name).expanduser()
    except RuntimeError:
        raise MissingInputError(
            f"{name}: there is no user {Path(name).parts[0][1:]}, whose folder ~ stands for; write ./{name} if a file "
            "is called so"
        ) from None


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML; any fault, including endless nesting or numbers, raises ValueError."""
    try:
        tree = tomllib.loads(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    check_tree(tree)
    return tree


def parse_json(text: str | bytes) -> Any:
    """Parse JSON; any fault, including endless nesting or numbers, raises ValueError."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None


def check_tree(tree: Mapping[str, Any]) -> None:
    """Refuse a tree of settings that could not be written or sent to other ranks.

    Parameters
    ----------
    tree : mapping
        Tree of tables, arrays, texts and numbers.

    Raises
    ------
    ValueError
        If tables are nested too deeply, a whole number has more than 64 bits, or a text is not Unicode.
    """
    level: list[tuple[str, Any]] = [(str(key), value) for key, value in tree.items()]
    for _ in range(_MOST_LEVELS):
        for key, value in level:
            if isinstance(value, int) and abs(value) >> 63:
                raise ValueError(f"{key}: whole numbers have at most 64 bits, got one with {value.bit_length()}")
            if not (key.isascii() and (not isinstance(value, str) or value.isascii())):
                _check_text(key, value)
        level = _inner(level)
        if not level:
            return
    raise ValueError(_TOO_DEEP)


def _inner(level: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Entries of tables and arrays, with extended keys."""
    inner = [(key, value) for key, value in level if isinstance(value, list | tuple | Mapping)]
    return [
        (f"{key}.{i}" if len(key) < _MOST_SHOWN else key, item) for key, values in inner
        for i, item in (values.items() if isinstance(values, Mapping) else enumerate(values))
    ]  # fmt: skip


def _check_text(key: str, value: object) -> None:
    """Refuse a key or text that is not valid UTF-8."""
    try:
        f"{key}{value if isinstance(value, str) else ''}".encode()
    except UnicodeEncodeError:
        raise ValueError(f"{shown(key)[1:-1]}: is not UTF-8 text, got {shown(value)}") from None
