"""Copies of standard input, pipes and FIFOs, since data are read in several passes and by several ranks."""

from __future__ import annotations

import os
import platform
import shutil
import stat
import sys
import tempfile
from pathlib import Path

from distnewton.errors import ConfigError, MissingInputError
from distnewton.files import user_path
from distnewton.outputs import writing
from distnewton.parallel.collectives import Communicator

STANDARD = "-"
"""Name of standard input and output; ``./-`` is a file of this name."""
_spooled: dict[str, Path] = {}
# removes the copies when the process ends
_folders: list[tempfile.TemporaryDirectory[str]] = []


def is_stream(name: str) -> bool:
    """Whether a name denotes standard input, a pipe or a terminal, which can be read only once.

    Parameters
    ----------
    name : str
        ``-``, or a path.

    Returns
    -------
    bool

    Raises
    ------
    MissingInputError
        If it is another device, whose content may be endless.
    """
    if name == STANDARD:
        return True
    try:
        mode = os.stat(user_path(name)).st_mode
    except OSError:
        return False  # opening it later reports the error
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return False
    if stat.S_ISFIFO(mode) or (stat.S_ISCHR(mode) and name in ("/dev/stdin", "/dev/fd/0", os.devnull)):
        return True
    raise MissingInputError(f"data file {name}: is a device or a socket, expected a file or a pipe")


def spooled(name: str) -> Path:
    """Return the copy of a stream, and create it on the first call.

    Parameters
    ----------
    name : str
        Name of a stream, as for :func:`is_stream`.

    Returns
    -------
    Path
        A temporary file, removed when this process ends.

    Raises
    ------
    MissingInputError
        If the stream cannot be read.
    CreateError, WriteError
        If the copy cannot be written.
    """
    if name not in _spooled:
        try:
            source = sys.stdin.buffer if name == STANDARD else user_path(name).open("rb")
        except (OSError, AttributeError) as error:
            raise MissingInputError(f"{name}: cannot be read ({error})") from None
        with source:
            folder = tempfile.TemporaryDirectory(prefix="distnewton-")
            _folders.append(folder)
            path = Path(folder.name) / ("stdin" if name == STANDARD else Path(name).name)
            with writing(path), path.open("wb") as copy:
                shutil.copyfileobj(source, copy)
        _spooled[name] = path
    return _spooled[name]


def spool_for_all(comm: Communicator, name: str, data_dir: str | None) -> bool:
    """Copy a stream on rank 0, and tell all ranks where the copy is; does nothing for a file.

    Parameters
    ----------
    comm : Communicator
        All ranks.
    name, data_dir : str, str or None
        As for :func:`~distnewton.data.sources.open_data`.

    Returns
    -------
    bool
        Whether the name is a stream.

    Raises
    ------
    ConfigError
        If the ranks run on several hosts, whose temporary folders differ.
    MissingInputError, CreateError, WriteError
        If the stream cannot be read or copied.

    Notes
    -----
    Collective. Only rank 0 has the standard input of the launch and the pipes of the shell.
    """
    hosts = sorted(set(comm.allgather_json(platform.node())))

    def copy() -> dict[str, str]:
        parts = [part.strip() for part in name.split(",")]
        paths = [part if part == STANDARD else str(Path(data_dir or ".") / part) for part in parts]
        streams = [path for path in paths if is_stream(path)]
        if streams and len(hosts) > 1:
            raise ConfigError(
                f"{streams[0]} can be read on one host only, but the ranks run on {', '.join(hosts)}: write the data "
                "to a file that all hosts see"
            )
        return {part: str(spooled(part)) for part in streams}

    copies = {part: Path(path) for part, path in comm.on_first(copy).items()}
    _spooled.update(copies)
    return bool(copies)


def spool_notes(name: str) -> list[str]:
    """Notes to the user about data from a stream, given the name of their source."""
    return [f"{stream} was copied once, to {path}" for stream, path in _spooled.items() if str(path) in name]
