"""Files that are on disk when the function returns, with the hash of their intended content.

The hash covers the bytes handed to the system, not the file read back. Readers therefore detect errors on the way to
the disk, rather than accept them as content.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from distnewton.backend import Array
from distnewton.errors import WriteError
from distnewton.guards.faults import faults
from distnewton.outputs import sync_folder

_PIECE = 1 << 24
"""Bytes written at a time."""
_TYPES = {"float32": "F32", "float64": "F64"}


def write_tensors(path: Path, tensors: Mapping[str, Array]) -> dict[str, Any]:
    """Write a new safetensors file, without a copy of the arrays in memory.

    Parameters
    ----------
    path : Path
        The file, which must not exist.
    tensors : mapping of str to Array
        C-contiguous arrays in float32 or float64.

    Returns
    -------
    dict
        Facts of the written file: ``name`` without its folder, ``n_bytes`` and ``sha256`` in hexadecimal digits.

    Raises
    ------
    WriteError
        If it cannot be written.
    """
    head: dict[str, Any] = {}
    start = 0
    for name, tensor in tensors.items():
        end = start + tensor.nbytes
        kind = _TYPES[str(tensor.dtype)]
        head[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(head).encode()
    # the data start at a multiple of 8 bytes
    text += b" " * (-len(text) % 8)
    return _write(path, [len(text).to_bytes(8, "little") + text, *tensors.values()], "before_part")


def write_text(path: Path, text: str) -> None:
    """Write a new small file."""
    _write(path, [text.encode()], "before_manifest")


def _write(path: Path, contents: Iterable[bytes | Array], point: str) -> dict[str, Any]:
    """Write and hash pieces in order, then sync the file."""
    digest, n_bytes = hashlib.sha256(), 0
    try:
        faults.at(f"checkpoint_write.{point}")
        with path.open("xb", buffering=0) as file:
            for content in contents:
                whole = memoryview(content) if isinstance(content, bytes) else content.reshape(-1).view(np.uint8).data
                for first in range(0, len(whole), _PIECE):
                    piece = whole[first : first + _PIECE]
                    put(file.fileno(), piece)
                    digest.update(piece)
                    n_bytes += len(piece)
                    faults.at("checkpoint_write.mid_part")
            faults.at("checkpoint_write.before_fsync")
            os.fsync(file.fileno())
    except OSError as error:
        raise WriteError(f"cannot write {path}: {_reason(error)}") from None
    return {"name": path.name, "n_bytes": n_bytes, "sha256": digest.hexdigest()}


def put(file: int, data: memoryview) -> None:
    """Write all bytes to a file descriptor: one call may write fewer, and the next then raises the reason."""
    while data:
        data = data[os.write(file, data) :]


def make_folder(path: Path) -> None:
    """Make a folder and its parents.

    Raises
    ------
    WriteError
        If it cannot be made.
    """
    try:
        path.mkdir(parents=True)
    except OSError as error:
        raise WriteError(f"cannot make the folder {path}: {_reason(error)}") from None


def publish(part: Path, final: Path) -> None:
    """Give a complete folder its final name: it exists completely or not at all, even after a power failure.

    Raises
    ------
    WriteError
        If it cannot be renamed.
    """
    try:
        sync_folder(part)
        faults.at("checkpoint_write.before_rename")
        part.rename(final)
        faults.at("checkpoint_write.after_rename")
        sync_folder(final.parent)
    except OSError as error:
        raise WriteError(f"cannot rename {part} to {final.name}: {_reason(error)}") from None


def _reason(error: OSError) -> str:
    """Describe an error, with advice if there is any."""
    text = error.strerror or str(error)
    if error.errno == errno.ENOENT:
        return f"{text}; is the run folder on a file system that all hosts share?"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{text}: free some space and continue with --resume"
    return text
