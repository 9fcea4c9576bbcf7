"""Write measured values into a cluster file, and keep its other lines and comments."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from distnewton.outputs import whole

_HEAD = r"^[ \t]*\[[^\[\]\n]+\][ \t]*(?:#[^\n]*)?$"
"""Pattern of a line with the name of a table."""


def set_values(text: str, tables: Mapping[str, Mapping[str, float]]) -> str:
    """Set keys of a TOML text, and keep its other lines.

    Parameters
    ----------
    text : str
        TOML with plain tables.
    tables : mapping of str to mapping
        Values by table and key; tables and keys that are missing are appended.

    Returns
    -------
    str
    """
    if text and not text.endswith("\n"):
        text += "\n"
    for table, values in tables.items():
        for key, value in values.items():
            text = _set(text, table, key, f"{key} = {value:.4g}")
    return text


def _set(text: str, table: str, key: str, line: str) -> str:
    """Replace a key's line in a table, or add it at the table's end; keep the comment after a value."""
    section = re.search(rf"^[ \t]*\[{re.escape(table)}\][^\n]*\n(?P<body>.*?)(?={_HEAD}|\Z)", text, re.M | re.S)
    if section is None:
        blank = "" if not text or text.endswith("\n\n") else "\n"
        return f"{text}{blank}[{table}]\n{line}\n"
    old = re.compile(rf"^[ \t]*{re.escape(key)}[ \t]*=[^#\n]*?([ \t]+#.*)?$", re.M)
    body, n_replaced = old.subn(lambda match: line + (match[1] or ""), section["body"], count=1)
    if not n_replaced:
        kept = body.rstrip()
        body = f"{kept}\n{line}{body[len(kept) :]}" if kept else f"{line}\n{body}"
    return text[: section.start("body")] + body + text[section.end("body") :]


def write_measured(
    path: Path, name: str, launch: Mapping[str, float], tables: Mapping[str, Mapping[str, float]]
) -> None:
    """Write measured tables into a cluster file, which is created if it is missing.

    Parameters
    ----------
    path : Path
        Cluster file.
    name : str
        Name of the cluster if the file is new.
    launch : mapping
        ``[launch]`` of a new file: the nodes and ranks per node that were measured.
    tables : mapping
        Tables as in :func:`set_values`.

    Raises
    ------
    WriteError
        If it cannot be written.
    """
    with whole(path, collective=True) as part:
        # the name of a file may contain characters that the name of a cluster may not
        plain = re.sub(r"[^A-Za-z0-9_.-]|^[^A-Za-z0-9]+", "-", name).lstrip("-") or "cluster"
        new = "" if path.exists() else f'# Measured by distnewton doctor --bench.\nname = "{plain}"\n'
        text = set_values(new, {"launch": launch, **tables}) if new else set_values(path.read_text("utf-8"), tables)
        part.write_text(text, encoding="utf-8")
