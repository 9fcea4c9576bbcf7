"""Installed packages, told by the folders of their metadata.

``importlib.metadata`` parses the metadata of every installed package to find a single entry point or version. That is a
tenth of the start of a rank here, and reading of some hundred files on a parallel file system.
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
    """Entry points of a group.

    Parameters
    ----------
    group : str
        Such as ``distnewton.losses``.

    Returns
    -------
    list of EntryPoint
        Of each package the first one on the path, as ``importlib.metadata.entry_points`` takes it.
    """
    return [point for point in _own_entry_points(tuple(sys.path)) if point.group == group]


def version(name: str) -> str:
    """Version of an installed package.

    Parameters
    ----------
    name : str
        Name of the distribution.

    Returns
    -------
    str
        ``not installed`` where it is not.
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
    """Folder of metadata of each package in a folder of the path, the first one of each name."""
    found: dict[str, Path] = {}
    for place in path:
        try:
            names = os.listdir(place or ".")
        except OSError:  # what is no folder is asked otherwise
            continue
        for name in names:
            if name.endswith(_SUFFIXES):
                found.setdefault(_normalized(name.rpartition(".")[0].partition("-")[0]), Path(place, name))
    return found


@lru_cache(maxsize=1)
def _own_entry_points(path: tuple[str, ...]) -> list[EntryPoint]:
    """Entry points of all groups of this package."""
    return [
        point for package in _that_may_have_some(path) for point in package.entry_points
        if point.group.startswith("distnewton.")
    ]  # fmt: skip


def _that_may_have_some(path: tuple[str, ...]) -> Iterator[Distribution]:
    """Packages whose entry points mention this one, and all in archives."""
    for folder in _folders(path).values():
        try:
            text = (folder / "entry_points.txt").read_bytes()
        except OSError:  # most packages have none
            continue
        if b"[distnewton." in text:
            from importlib.metadata import PathDistribution

            yield PathDistribution(folder)
    if archives := [place for place in path if os.path.isfile(place)]:
        from importlib.metadata import distributions

        yield from distributions(path=archives)


def _normalized(name: str) -> str:
    """A distribution's name as names of folders have it."""
    return name.lower().replace("-", "_").replace(".", "_")
