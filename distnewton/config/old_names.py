"""Settings by the names of the last version: they are read for one version more, with a note."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Renaming(NamedTuple):
    """Settings that became one."""

    section: str  # table of both
    old: tuple[str, ...]  # names of the last version
    new: str  # name of the present one
    # value of the new setting, from the old ones that are given, and its own value or None
    value: Callable[[Mapping[str, Any], Any], Any]


def _checks(given: Mapping[str, Any], checks: Any) -> Any:
    names = ["memory"] if checks is None else list(checks)
    for old, name in (("memory_check", "memory"), ("checked", "messages")):
        if old in given:
            names = [other for other in names if other != name]
            # what is not a boolean stays in sight, for the message that refuses it
            names += [] if given[old] is False else [name if given[old] is True else f"{old} = {given[old]}"]
    return names


def _tf32(given: Mapping[str, Any], dtype: Any) -> Any:
    if given["tf32"] is False:
        return "float32" if dtype is None else dtype
    return "tf32" if given["tf32"] is True and dtype in (None, "float32") else f"{dtype}, tf32 = {given['tf32']}"


RENAMED = (Renaming("run", ("checked", "memory_check"), "checks", _checks), Renaming("run", ("tf32",), "dtype", _tf32))


def old_names() -> list[str]:
    """Names of the last version as ``section.key``."""
    return [f"{renaming.section}.{key}" for renaming in RENAMED for key in renaming.old]


def with_present_names(tree: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """Settings by their present names; `notes` takes a line on each that was given by an old one."""
    renamed = dict(tree)
    for section, old, new, value in RENAMED:
        table = renamed.get(section)
        given = {key: table[key] for key in old if key in table} if isinstance(table, Mapping) else {}
        if given and isinstance(table, Mapping):
            made = value(given, table.get(new))
            renamed[section] = {key: item for key, item in table.items() if key not in given} | {new: made}
            words = " and ".join(f"{section}.{key}" for key in given)
            notes.append(f"{words}: from the next version on it is written {section}.{new} = {made!r}")
    return renamed
