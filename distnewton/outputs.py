"""Output files: refused early if they cannot be written, and written completely or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from distnewton.errors import CreateError, DistNewtonError, WriteError
from distnewton.files import real_path

_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP)
"""Errors of file systems that cannot, or need not, sync folders."""


@contextmanager
def writing(path: Path, *, collective: bool = False) -> Iterator[None]:
    """Turn a failure to create or write an output inside the block into an error with advice.

    Parameters
    ----------
    path : Path
        Output file.
    collective : bool
        Whether the error is raised on all ranks.

    Raises
    ------
    CreateError
        If the folder of the file does not exist.
    WriteError
        If the folder exists but writing fails.
    """
    try:
        yield
    except OSError as error:
        kind: type[DistNewtonError] = WriteError if path.parent.is_dir() else CreateError
        advice = "; free some space, or choose another disk" if error.errno == errno.ENOSPC else ""
        raise kind(f"cannot write {path}: {error.strerror or error}{advice}", collective=collective) from None


@contextmanager
def whole(path: Path, *, collective: bool = False) -> Iterator[Path]:
    """Write an output atomically: a new file beside it replaces it, synced to disk, once the block has succeeded.

    Parameters
    ----------
    path : Path
        The output, in an existing folder. Its old content stays until then; a link stays a link.
    collective : bool
        Whether errors are raised on all ranks.

    Yields
    ------
    Path
        The empty file to write, or `path` itself if it is a pipe or device. The output gets the mode that the umask
        gives new files, whatever writes it.

    Raises
    ------
    CreateError, WriteError
        As for :func:`writing`.
    """
    with writing(path, collective=collective):
        if _is_stream(path):
            yield path
            return
        target = real_path(path)
        part = _part(target)
        part.touch(exist_ok=False)
        try:
            mode = part.stat().st_mode
            yield part
            part.chmod(mode)
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def sync_folder(path: Path) -> None:
    """Sync the names in a folder to disk."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(folder)


def write_output(path: Path, text: str, *, collective: bool = False) -> None:
    """Write a text atomically (:func:`whole`), creating the folder if it is missing."""
    with writing(path, collective=collective):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as part:
            part.write_text(text, encoding="utf-8")


def check_output(path: Path, *, inputs: Iterable[Path] = (), makes_folder: bool = False) -> None:
    """Refuse a file that could not be written later; leaves nothing behind.

    Parameters
    ----------
    path : Path
        File to be written.
    inputs : iterable of Path
        Files, and folders of files, that it must not replace.
    makes_folder : bool
        Whether a missing folder will be created.

    Raises
    ------
    CreateError
        If the folder does not exist, or the file would replace an input.
    WriteError
        If the file cannot be written.
    """
    with writing(path):
        target = real_path(path)
        if path.exists():
            _check_replacing(path, inputs)
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if not _is_stream(path):
            if not (makes_folder or target.parent.exists()):
                raise FileNotFoundError(errno.ENOENT, f"there is no folder {target.parent}")
            _probe(target.parent)
            if len(os.fsencode(_part(target).name)) > os.pathconf(_existing(target), "PC_NAME_MAX"):
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))


def _check_replacing(path: Path, inputs: Iterable[Path]) -> None:
    """Refuse to replace an input, or a file in an input."""
    parents = real_path(path).parents
    for given in inputs:
        if (given.exists() and path.samefile(given)) or real_path(given) in parents:
            raise CreateError(f"cannot write {path}: it would replace an input; choose another name")


def check_folder(folder: Path) -> None:
    """Refuse a folder in which no files can be created; a missing folder is created later.

    Parameters
    ----------
    folder : Path
        The folder.

    Raises
    ------
    CreateError
        If the folder, or a file in it, cannot be created.
    """
    try:
        if folder.is_file():
            raise FileExistsError(errno.EEXIST, "there is a file of that name")
        _probe(folder)
    except OSError as error:
        raise CreateError(f"cannot create {folder}: {error.strerror or error}") from None


def _probe(folder: Path) -> None:
    """Create and remove a file in a folder, or in its innermost parent that exists."""
    place = _existing(folder)
    if not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"{place} is a file")
    with tempfile.TemporaryFile(dir=place):
        pass


def _existing(path: Path) -> Path:
    """Return the path itself, or its innermost parent, whichever exists."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())


def _part(target: Path) -> Path:
    """Unused name beside a file."""
    return target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")


def _is_stream(path: Path) -> bool:
    """Whether a path leads to a device or a pipe (also by a name such as /dev/stdout), not to a file to replace."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or path.absolute().parts[1:2] in (("dev",), ("proc",))
