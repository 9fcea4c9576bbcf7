"""Names that settings had in the last version; this version still reads them, with a note."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Renaming(NamedTuple):
    """Settings that were merged into one."""

    section: str  # table that holds the old settings and the new one
    old: tuple[str, ...]  # names in the last version
    new: str  # name in this version
    # computes the new value from the old settings that are given and the new one's own value, None where it has none
    value: Callable[[Mapping[str, Any], Any], Any]


def _checks(given: Mapping[str, Any], checks: Any) -> Any:
    names = ["memory"] if checks is None else list(checks)
    for old, name in (("memory_check", "memory"), ("checked", "messages")):
        if old in given:
            names = [other for other in names if other != name]
            # keep a value that is no boolean, so that the error message can show it
            names += [] if given[old] is False else [name if given[old] is True else f"{old} = {given[old]}"]
    return names


def _tf32(given: Mapping[str, Any], dtype: Any) -> Any:
    if given["tf32"] is False:
        return "float32" if dtype is None else dtype
    return "tf32" if given["tf32"] is True and dtype in (None, "float32") else f"{dtype}, tf32 = {given['tf32']}"


RENAMED = (Renaming("run", ("checked", "memory_check"), "checks", _checks), Renaming("run", ("tf32",), "dtype", _tf32))


def old_names() -> list[str]:
    """List the names of the last version as ``section.key``."""
    return [f"{renaming.section}.{key}" for renaming in RENAMED for key in renaming.old]


def with_present_names(tree: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """Rename settings to their present names; add a line to `notes` for each old name."""
    renamed = dict(tree)
    for section, old, new, value in RENAMED:
        table = renamed.get(section)
        given = {key: table[key] for key in old if key in table} if isinstance(table, Mapping) else {}
        if given and isinstance(table, Mapping):
            made = value(given, table.get(new))
            renamed[section] = {key: item for key, item in table.items() if key not in given} | {new: made}
            words = " and ".join(f"{section}.{key}" for key in given)
            notes.append(f"{words}: the next version reads only {section}.{new} = {made!r}")
    return renamed
