"""Installed packages, found by the names of their metadata folders.

``importlib.metadata`` parses the metadata of every installed package to find a single entry point or version. That took
a tenth of a rank's start when measured, and reads hundreds of files on a parallel file system.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import Distribution, EntryPoint

_SUFFIXES = (".dist-info", ".egg-info")


def entry_points(group: str) -> list[EntryPoint]:
    """Return the entry points of a group.

    Parameters
    ----------
    group : str
        Name of the group, such as ``distnewton.losses``.

    Returns
    -------
    list of EntryPoint
        For each package those of its first copy on the path, as ``importlib.metadata.entry_points`` selects them.
    """
    return [point for point in _own_entry_points(tuple(sys.path)) if point.group == group]


def version(name: str) -> str:
    """Return the version of an installed package.

    Parameters
    ----------
    name : str
        Name of the distribution.

    Returns
    -------
    str
        ``not installed`` if the package is absent.
    """
    folder = _folders(tuple(sys.path)).get(_normalized(name))
    if folder is not None and folder.suffix == ".dist-info":
        return folder.stem.partition("-")[2]
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


@lru_cache(maxsize=1)
def _folders(path: tuple[str, ...]) -> dict[str, Path]:
    """Metadata folder of each package on the path, the first one of each name."""
    found: dict[str, Path] = {}
    for place in path:
        try:
            names = os.listdir(place or ".")
        except OSError:  # not a folder (an archive, say): _that_may_have_some asks it
            continue
        for name in names:
            if name.endswith(_SUFFIXES):
                found.setdefault(_normalized(name.rpartition(".")[0].partition("-")[0]), Path(place, name))
    return found


@lru_cache(maxsize=1)
def _own_entry_points(path: tuple[str, ...]) -> list[EntryPoint]:
    """Entry points of this package, in all groups."""
    return [
        point for package in _that_may_have_some(path) for point in package.entry_points
        if point.group.startswith("distnewton.")
    ]  # fmt: skip


def _that_may_have_some(path: tuple[str, ...]) -> Iterator[Distribution]:
    """Yield packages whose entry points mention this one, and all packages in archives."""
    for folder in _folders(path).values():
        try:
            text = (folder / "entry_points.txt").read_bytes()
        except OSError:  # most packages have no entry points
            continue
        if b"[distnewton." in text:
            from importlib.metadata import PathDistribution

            yield PathDistribution(folder)
    if archives := [place for place in path if os.path.isfile(place)]:
        from importlib.metadata import distributions

        yield from distributions(path=archives)


def _normalized(name: str) -> str:
    """A distribution's name as folder names spell it."""
    return name.lower().replace("-", "_").replace(".", "_")
