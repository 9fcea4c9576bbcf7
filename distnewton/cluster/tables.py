"""Writing measured values into a cluster file, whose other lines and comments stay as they are."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from distnewton.errors import WriteError

_TABLE = re.compile(r"\s*\[([^\[\]]+)\]\s*(#.*)?")


def set_values(text: str, tables: Mapping[str, Mapping[str, float]]) -> str:
    """A TOML text with other values of some keys.

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
    lines = text.splitlines()
    for table, values in tables.items():
        for key, value in values.items():
            _set(lines, table, f"{key} = {value:.4g}", re.compile(rf"\s*{re.escape(key)}\s*="))
    return "\n".join(lines) + "\n"


def _set(lines: list[str], table: str, line: str, key: re.Pattern[str]) -> None:
    """Replace a key's line in a table, or add it at the table's end; the comment behind a value stays."""
    heads = {i: found[1].strip() for i, old in enumerate(lines) if (found := _TABLE.fullmatch(old))}
    begin = next((i for i, name in heads.items() if name == table), None)
    if begin is None:
        lines += [""] * bool(lines and lines[-1].strip()) + [f"[{table}]", line]
        return
    end = next((i for i in heads if i > begin), len(lines))
    for i in range(begin + 1, end):
        if key.match(lines[i]):
            comment = re.search(r"\s+#.*$", lines[i])
            lines[i] = line + (comment[0] if comment else "")
            return
    while end > begin + 1 and not lines[end - 1].strip():
        end -= 1
    lines.insert(end, line)


def write_measured(
    path: Path, name: str, launch: Mapping[str, float], tables: Mapping[str, Mapping[str, float]]
) -> None:
    """Write measured tables into a cluster file, which is made where it is missing.

    Parameters
    ----------
    path : Path
        Cluster file.
    name : str
        Of a new cluster.
    launch : mapping
        ``[launch]`` of a new cluster: nodes and ranks per node that were measured.
    tables : mapping
        As :func:`set_values` takes them.

    Raises
    ------
    WriteError
        If it cannot be written.
    """
    try:
        new = "" if path.exists() else f'# Measured by distnewton doctor --bench.\nname = "{name}"\n'
        text = set_values(new, {"launch": launch, **tables}) if new else set_values(path.read_text("utf-8"), tables)
        part = path.with_name(f"{path.name}.part")
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise WriteError(f"cannot write the cluster file {path}: {error.strerror or error}", collective=True) from None
