"""Iteration over the files of a folder or a tar archive; nothing is unpacked to disk."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, cast

from distnewton.data.formats.streams import BLOCK_BYTES, open_stream
from distnewton.errors import DataError, MissingInputError
from distnewton.frozen import frozen

MAX_FILE_BYTES = 1 << 28
"""Largest image file; without a limit a few kilobytes of a compressed archive could fill the memory."""


@frozen
class StoredFile:
    """A file in a folder or an archive.

    Attributes
    ----------
    path : str
        Path below the folder or in the archive, with slashes between parts.
    trouble : str
        Reason why its content is not read, such as ``is a link``; empty for a regular file.
    read : callable
        Returns the content; in an archive, call it before requesting the next file.
    """

    path: str
    trouble: str
    read: Callable[[], bytes]


def stored_files(path: Path) -> Iterator[StoredFile]:
    """Yield all files except hidden ones.

    Parameters
    ----------
    path : Path
        A folder, in sorted order, or a tar archive, plain or compressed, in its own order: an archive is read from
        beginning to end, since going back would decompress it again.

    Yields
    ------
    StoredFile

    Raises
    ------
    DataError
        If the archive is damaged.
    MissingInputError
        If a folder cannot be read.
    """
    for file in _folder_files(path, path, ()) if path.is_dir() else _archive_files(path):
        if not any(_is_hidden(part) for part in file.path.split("/")):
            _check_name(path, file.path)
            yield file


def full_name(path: Path, inner: str) -> str:
    """Full name of a file for messages: a path, or ``ARCHIVE:PATH``."""
    return str(path / inner) if path.is_dir() else f"{path}:{inner}"


def _is_hidden(part: str) -> bool:
    """Whether a name is one that operating systems use for their own files."""
    return part == "__MACOSX" or (part.startswith(".") and part != "..")


def _check_name(path: Path, inner: str) -> None:
    """Refuse names that cannot be labels or appear in messages."""
    try:
        inner.encode()
    except UnicodeEncodeError:
        raise DataError(f"{path}: the name {inner!a} is not UTF-8; rename it") from None
    if ".." in inner.split("/"):
        raise DataError(f"{path}: the name {inner!r} leads out of the archive; create it again from inside its folder")


def _folder_files(root: Path, folder: Path, above: tuple[str, ...]) -> Iterator[StoredFile]:
    """Yield files below a folder; follow links, except those to a folder that is already being read."""
    real = os.path.realpath(folder)
    if real in above:
        raise DataError(f"{folder}: is a link to a folder that contains it; remove the link")
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise MissingInputError(f"data folder {folder}: cannot be read ({error.strerror})") from None
    for entry in entries:
        path = folder / entry.name
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _folder_files(root, path, (*above, real))
        else:
            trouble = "" if entry.is_file() else "is a broken link, a pipe or a device"
            yield StoredFile(path.relative_to(root).as_posix(), trouble, partial(_content, path))


def _content(path: Path) -> bytes:
    """Return all bytes of a file."""
    try:
        _check_size(str(path), path.stat().st_size)
        return path.read_bytes()
    except OSError as error:
        raise MissingInputError(f"{path}: cannot be read ({error.strerror})") from None


def _check_size(name: str, n_bytes: int) -> None:
    """Refuse a file that is too large to be an image."""
    if n_bytes > MAX_FILE_BYTES:
        raise DataError(f"{name}: has {n_bytes} bytes, but an image may have at most {MAX_FILE_BYTES}; make it smaller")


class _Header(tarfile.TarInfo):
    """Header of a file in an archive; a damaged or missing one is an error, while tarfile takes it for the end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not buf.strip(b"\0"):
                raise  # the block of zeros that ends an archive
            raise tarfile.ReadError(str(error)) from None


class _Archive(tarfile.TarFile):
    """Archive whose headers are of type `_Header`."""

    tarinfo = _Header
    members: list[tarfile.TarInfo]


def _archive_files(path: Path) -> Iterator[StoredFile]:
    """Yield files of an archive."""
    with (
        open_stream(path) as stream,
        _damage_named(path),
        _Archive.open(fileobj=cast("IO[bytes]", stream), mode="r|") as archive,
    ):
        while (member := archive.next()) is not None:
            archive.members.clear()  # tarfile would keep them all
            if not member.isdir():
                yield _archive_file(path, archive, member)
        _check_rest(path, archive)


def _archive_file(path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> StoredFile:
    """Return the file that follows a header."""
    inner = "/".join(part for part in member.name.split("/") if part not in ("", "."))

    def read() -> bytes:
        _check_size(full_name(path, inner), member.size)
        with _damage_named(path):
            file = archive.extractfile(member)
            assert file is not None  # noqa: S101  (a regular file)
            return file.read()

    if member.issym() or member.islnk():
        trouble = f"is a link to {member.linkname!r}, which is not followed; use tar --dereference --hard-dereference"
    else:
        trouble = "" if member.isreg() and not member.issparse() else "is a sparse file, a pipe or a device"
    return StoredFile(inner, trouble, read)


def _check_rest(path: Path, archive: tarfile.TarFile) -> None:
    """Read to the end to verify checksums, and refuse files after the end of the archive."""
    rest = archive.fileobj
    assert rest is not None  # noqa: S101  (open)
    while block := rest.read(BLOCK_BYTES):
        if block.strip(b"\0"):
            raise DataError(f"{path}: has data after the end of the archive, as if two were joined; pack it again")


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Convert tarfile's errors about damage to an error that names the archive."""
    try:
        yield
    except tarfile.TarError as error:
        raise DataError(f"{path}: tar archive is cut short or damaged ({error}); copy or download it again") from None
