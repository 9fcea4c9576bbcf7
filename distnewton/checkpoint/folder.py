"""The folder of a run's checkpoints: which exist, which is the newest, which are kept. On rank 0 only.

Names give the iteration (``step-000120``), but the manifest inside is authoritative. Only checkpoints of the same run
with an intact manifest, and folders ``*.part`` with only files named like ours, are removed.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from distnewton.checkpoint.manifest import (
    MANIFEST_FILE,
    MAX_BYTES,
    PART_NAME,
    CheckpointManifest,
    NewerFormatError,
    parse,
)
from distnewton.errors import DataError, MissingInputError, WriteError
from distnewton.files import possible_path
from distnewton.frozen import frozen

CHECKPOINTS_FOLDER = "checkpoints"
_NAME = re.compile(r"step-(\d{6,})(?:-(\d+))?")
_PART_SUFFIX = ".part"
_OUR_FILES = re.compile(rf"{PART_NAME}|{re.escape(MANIFEST_FILE)}")


@frozen
class StoredCheckpoint:
    """A folder with the name of a checkpoint."""

    path: Path  # the folder
    manifest: CheckpointManifest | None = None  # None where it is damaged
    problem: str = ""  # what is wrong with the manifest, else empty
    newer: bool = False  # whether a newer version wrote it


def list_checkpoints(folder: Path) -> list[StoredCheckpoint]:
    """List all folders named like checkpoints, newest first, with those without a valid manifest before all others.

    Parameters
    ----------
    folder : Path
        Folder of the checkpoints; it need not exist.

    Returns
    -------
    list of StoredCheckpoint

    Raises
    ------
    MissingInputError
        If it cannot be listed.
    """
    try:
        named = [path for path in possible_path(folder).iterdir() if _NAME.fullmatch(path.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise MissingInputError(f"cannot list {folder}: {error.strerror or error}") from None
    checkpoints = [_look(path) for path in named]
    checkpoints.sort(key=lambda one: (not one.manifest, one.manifest.sequence if one.manifest else 0, one.path.name))
    return checkpoints[::-1]


def _look(path: Path) -> StoredCheckpoint:
    file = path / MANIFEST_FILE
    try:
        with file.open("rb") as content:
            manifest = parse(content.read(MAX_BYTES + 1), f"{path.name}/{MANIFEST_FILE}")
    except OSError as error:
        return StoredCheckpoint(path, None, f"{path.name}/{MANIFEST_FILE}: {error.strerror or error}")
    except NewerFormatError as error:
        return StoredCheckpoint(path, None, str(error), newer=True)
    except DataError as error:
        return StoredCheckpoint(path, None, str(error))
    match = _NAME.fullmatch(path.name)
    if match is None or int(match[1]) != manifest.iteration:
        return StoredCheckpoint(path, None, f"{path.name} holds the manifest of iteration {manifest.iteration}")
    return StoredCheckpoint(path, manifest)


def has_checkpoints(folder: Path) -> bool:
    """Whether anything is named like a checkpoint, damaged or not."""
    return bool(list_checkpoints(folder))


def free_name(folder: Path, iteration: int) -> Path:
    """Find an unused name for a checkpoint; a damaged checkpoint, for example, keeps its own."""
    path, number = folder / f"step-{iteration:06d}", 2
    while path.exists():
        path = folder / f"step-{iteration:06d}-{number}"
        number += 1
    return path


def part_of(path: Path) -> Path:
    """Return the path of a checkpoint until it is complete."""
    return path.with_name(path.name + _PART_SUFFIX)


def next_sequence(found: Sequence[StoredCheckpoint]) -> int:
    """Return the number of the next checkpoint: above all existing ones, including those that cannot be read."""
    known = [f.manifest.sequence for f in found if f.manifest is not None]
    return max(known, default=0) + 1 + len(found) - len(known)


def remove_leftovers(folder: Path) -> list[str]:
    """Remove unfinished checkpoints of killed runs.

    Parameters
    ----------
    folder : Path
        Folder of the checkpoints of this run only.

    Returns
    -------
    list of str
        Notes on folders with other content, which are not removed.

    Raises
    ------
    WriteError
        If one cannot be removed.
    """
    notes = []
    for path in sorted(folder.glob(f"step-*{_PART_SUFFIX}")):
        if not _NAME.fullmatch(path.name.removesuffix(_PART_SUFFIX)):
            continue
        if is_ours(path):
            remove(path)
        else:
            notes.append(f"{path} was not removed: it holds files that belong to no checkpoint")
    return notes


def is_ours(part: Path) -> bool:
    """Whether an unfinished folder is a real folder with only files of a checkpoint."""
    if part.is_symlink() or not part.is_dir():
        return False
    with os.scandir(part) as entries:
        return all(_OUR_FILES.fullmatch(entry.name) and entry.is_file(follow_symlinks=False) for entry in entries)


def remove(path: Path) -> None:
    """Remove a folder of ours.

    Raises
    ------
    WriteError
        If it cannot be removed.
    """
    try:
        shutil.rmtree(path)
    except OSError as error:
        raise WriteError(f"cannot remove {path}: {error.strerror or error}") from None


def prune(folder: Path, run: str, n_keep: int, *, lower_is_better: bool) -> None:
    """Remove a run's checkpoints except the last ones and the best.

    Parameters
    ----------
    folder : Path
        Folder of the checkpoints.
    run : str
        Identifier of the run.
    n_keep : int
        Number of last ones to keep.
    lower_is_better : bool
        Whether lower values of the metric are better.

    Raises
    ------
    WriteError
        If one cannot be removed.
    """
    own = [f for f in list_checkpoints(folder) if f.manifest is not None and f.manifest.run == run]
    best = _best(own, lower_is_better=lower_is_better)
    for found in own[n_keep:]:
        if found is not best:
            discard(found.path)


def discard(path: Path) -> None:
    """Remove a checkpoint; an interruption leaves an unfinished one.

    Raises
    ------
    WriteError
        If it cannot be removed.
    """
    part = part_of(path)
    try:
        path.rename(part)
    except OSError as error:
        raise WriteError(f"cannot remove the checkpoint {path}: {error.strerror or error}") from None
    remove(part)


def _best(found: Sequence[StoredCheckpoint], *, lower_is_better: bool) -> StoredCheckpoint | None:
    """Find the checkpoint with the best metric, the newest among equals."""
    sign = -1.0 if lower_is_better else 1.0
    scored = [(f.manifest.metric, f) for f in found if f.manifest is not None and f.manifest.metric is not None]
    return max(scored, key=lambda pair: sign * pair[0], default=(math.nan, None))[1]


def clear(folder: Path) -> None:
    """Remove the checkpoints of a run to be replaced, but only what is provably a checkpoint.

    Raises
    ------
    WriteError
        If one cannot be removed.
    """
    for found in list_checkpoints(folder):
        if found.manifest is not None:
            discard(found.path)
    remove_leftovers(folder)
    with suppress(OSError):
        # files that are not ours stay, and the folder too
        folder.rmdir()
