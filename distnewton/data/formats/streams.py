"""Reading of files, decompressed if necessary, as bytes or in blocks of whole lines."""

from __future__ import annotations

import bz2
import difflib
import gzip
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from distnewton.data.formats.spool import STANDARD, is_stream, spooled
from distnewton.errors import DataError, MissingInputError
from distnewton.files import user_path

BLOCK_BYTES = 1 << 17
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MOST_LINE = 1 << 25
_MOST_RATIO = 64
_GROWN_BYTES, _MOST_GROWTH = 1 << 28, 512
_GROWN_SAMPLES, _MOST_SAMPLES = 1 << 22, 8
"""Number of samples that any file may hold, and most samples per byte of the file beyond that."""
HEAD_BYTES = 1 << 16
OFFICE = re.compile(rb"PK\x03\x04.{26}(?:\[Content_Types\]\.xml|mimetypeapplication/vnd\.oasis|_rels/)", re.DOTALL)
"""Beginning of an office spreadsheet or document, which is a zip archive like npz files."""


def find_file(path: str | Path, data_dir: str | Path | None = None, *, folders: bool = False) -> Path:
    """Find an existing, readable file.

    Parameters
    ----------
    path : str or Path
        Path, absolute or relative to `data_dir`.
    data_dir : str or Path, optional
        Folder to which paths are relative; by default the working directory.
    folders : bool
        Whether the path may be a folder.

    Returns
    -------
    Path

    Raises
    ------
    MissingInputError
        If there is no such file (the message gives the nearest name), or it is a folder and `folders` is false, or
        it may not be read.
    """
    if str(path) == STANDARD:
        return spooled(STANDARD)
    full = user_path(data_dir or ".") / user_path(path)
    if is_stream(str(full)):
        return spooled(str(full))
    try:
        if full.is_dir():
            if folders:
                return full
            raise MissingInputError(f"data file {full}: is a folder, expected a file")
        with full.open("rb"):
            return full
    except FileNotFoundError:
        raise MissingInputError(_missing_text(full)) from None
    except OSError as error:
        raise MissingInputError(f"data file {full}: cannot be read ({error.strerror})") from None


def _missing_text(full: Path) -> str:
    """Return the message for a file that does not exist."""
    text = f"data file {full}: does not exist (working directory {Path.cwd()})"
    if not full.parent.is_dir():
        return f"{text}; the folder {full.parent} does not exist either: set data.directory to the folder of the data"
    names = _names(full.parent)
    close = difflib.get_close_matches(full.name, names, n=1, cutoff=0.4)
    return text + (f"; did you mean {full.parent / close[0]}?" if close else "")


def _names(folder: Path) -> list[str]:
    """Names in a folder; none if it may not be read."""
    try:
        return [entry.name for entry in folder.iterdir()]
    except OSError:
        return []


def _opened(path: Path) -> IO[bytes]:
    """Open a file with the decompressor that its first bytes call for, regardless of its suffix."""
    raw = path.open("rb")
    magic = raw.read(6)
    raw.seek(0)
    if magic.startswith(b"\x1f\x8b"):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=raw))
    if magic.startswith(b"BZh"):
        return io.BufferedReader(_Members(raw, bz2.BZ2Decompressor), BLOCK_BYTES)
    if magic.startswith(b"\xfd7zXZ"):
        return io.BufferedReader(_Members(raw, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ)), BLOCK_BYTES)
    return raw


class _Members(io.RawIOBase):
    """Content of a file of concatenated bzip2 or xz streams, as parallel compressors write them.

    Python's own readers treat anything after a whole stream that they cannot decompress as the end of the file. Here
    only zeros may follow.
    """

    def __init__(self, packed: IO[bytes], start: Callable[[], Any]) -> None:
        self._packed, self._start, self._member = packed, start, start()

    def readable(self) -> bool:
        """Always true."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer or its beginning; return the number of bytes, 0 at the end."""
        data = b""
        while not data:
            piece = b""
            if self._member.eof:
                piece = self._member.unused_data.lstrip(b"\0")
                while not piece:
                    piece = self._packed.read(BLOCK_BYTES)
                    if not piece:
                        return 0
                    piece = piece.lstrip(b"\0")
                self._member = self._start()
            elif self._member.needs_input:
                piece = self._packed.read(BLOCK_BYTES)
                if not piece:
                    raise EOFError
            data = self._member.decompress(piece, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the underlying file, too."""
        self._packed.close()
        super().close()


def is_compressed(path: Path) -> bool:
    """Whether the first bytes are those of gzip, bzip2 or xz."""
    with path.open("rb") as raw:
        return raw.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ"))


def check_line(name: str, n_bytes: int, path: Path) -> None:
    """Refuse a line of text or of an array that is far larger than its compressed file.

    Parameters
    ----------
    name : str
        Position of the line, for messages.
    n_bytes : int
        Size of the line, at least so far.
    path : Path
        The file.

    Raises
    ------
    DataError
        If a small file could exhaust the memory with such a line.
    """
    if n_bytes > MOST_LINE and n_bytes > _MOST_RATIO * path.stat().st_size:
        raise DataError(
            f"{name}: a line has more than {MOST_LINE >> 20} MiB and {_MOST_RATIO} times the size of the compressed "
            "file, which may be an attack that exhausts the memory; decompress the file if you trust it"
        )


def check_growth(name: str, path: Path, *, n_bytes: int = 0, n_samples: int = 0) -> None:
    """Refuse content that is far larger than its file.

    No real data compress that well: deflate itself writes at least one byte for 1,032, and samples of less than one
    bit each hold no information.

    Parameters
    ----------
    name : str
        Name of the content, for messages.
    path : Path
        The file.
    n_bytes : int
        Size of the content, at least so far.
    n_samples : int
        Number of samples in it.

    Raises
    ------
    DataError
        If a small file could exhaust memory or time.
    """
    for number, least, most, what in (
        (n_bytes, _GROWN_BYTES, _MOST_GROWTH, "bytes"), (n_samples, _GROWN_SAMPLES, _MOST_SAMPLES, "samples"),
    ):  # fmt: skip
        if number > least and number > most * path.stat().st_size:
            raise DataError(
                f"{name}: holds more than {least:,} {what} and more than {most} for each byte of its file, which may "
                "be an attack that exhausts the memory; store it without compression if you trust it"
            )


class ByteStream:
    """Sequential reader of a possibly compressed file that counts bytes and reports damage.

    Parameters
    ----------
    path : Path
        The file, for messages.
    stream : IO[bytes]
        Source of the bytes.
    """

    def __init__(self, path: Path, stream: IO[bytes]) -> None:
        self.path = path
        self.read_bytes = 0
        self._stream = stream

    def read(self, n_bytes: int) -> bytes:
        """Read at most `n_bytes` bytes; empty at the end.

        Parameters
        ----------
        n_bytes : int
            Most bytes wanted.

        Returns
        -------
        bytes

        Raises
        ------
        DataError
            If the compressed data end early or are damaged.
        MissingInputError
            If the operating system cannot read the file.
        """
        try:
            data = self._stream.read(n_bytes)
        except EOFError:
            raise DataError(
                f"{self.path}: compressed file is cut short after {self.read_bytes} bytes of content; "
                "copy or download it again"
            ) from None
        except (zipfile.BadZipFile, lzma.LZMAError, zlib.error, OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise MissingInputError(f"{self.path}: cannot be read ({error.strerror})") from None
            raise DataError(
                f"{self.path}: compressed file is damaged after {self.read_bytes} bytes of content ({error}); copy or "
                "download it again"
            ) from None
        self.read_bytes += len(data)
        check_growth(str(self.path), self.path, n_bytes=self.read_bytes)
        return data

    def read_exactly(self, n_bytes: int) -> bytes:
        """Read exactly `n_bytes` bytes.

        Parameters
        ----------
        n_bytes : int
            Number of bytes.

        Returns
        -------
        bytes

        Raises
        ------
        DataError
            If the file ends earlier.
        """
        parts, missing = [], n_bytes
        while missing:
            part = self.read(missing)
            if not part:
                raise DataError(
                    f"{self.path}: file is cut short: it ends after {self.read_bytes} bytes of content, "
                    f"{missing} bytes too early; copy or download it again"
                )
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def skip(self, n_bytes: int) -> None:
        """Read and discard `n_bytes` bytes."""
        while n_bytes:
            n_bytes -= len(self.read_exactly(min(n_bytes, BLOCK_BYTES)))


@contextmanager
def open_stream(path: Path) -> Iterator[ByteStream]:
    """Open a file for reading; decompress it according to its content.

    Parameters
    ----------
    path : Path
        An existing file.

    Yields
    ------
    ByteStream
    """
    stream = _opened(path)
    # closing a GzipFile does not close the file object passed to it
    raw = getattr(stream, "fileobj", None)
    try:
        yield ByteStream(path, stream)
    finally:
        stream.close()
        if raw is not None:
            raw.close()


def read_head(path: Path) -> bytes:
    """Return the first bytes of the content, at most 64 KiB."""
    with open_stream(path) as stream:
        return stream.read(HEAD_BYTES)


def mark_notes(path: Path) -> list[str]:
    """Return a notice about a byte-order mark at the beginning of a file, if there is one."""
    return ["a byte-order mark at the beginning was skipped"] * read_head(path).startswith(BYTE_ORDER_MARK)


def is_html(text: bytes) -> bool:
    """Whether a text looks like a web page."""
    return text.lstrip()[:100].lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<table"))


def first_lines(head: bytes, n_lines: int = 20) -> list[bytes]:
    """Find the first lines that are neither blank nor comments; an incomplete last line is left out.

    Parameters
    ----------
    head : bytes
        Beginning of a text file.
    n_lines : int
        Most lines wanted.

    Returns
    -------
    list of bytes
    """
    lines = head.removeprefix(BYTE_ORDER_MARK).split(b"\n")
    if len(lines) > 1:
        lines.pop()
    kept = [line.strip(b"\r") for line in lines if line.strip() and not line.lstrip().startswith(b"#")]
    return kept[:n_lines]


def line_blocks(path: Path, block_bytes: int = BLOCK_BYTES) -> Iterator[bytes]:
    """Yield the content of a text file in blocks of whole lines.

    Parameters
    ----------
    path : Path
        An existing file, compressed or not.
    block_bytes : int
        Approximate size of a block; a longer line makes a longer block.

    Yields
    ------
    bytes
        Block without byte-order mark that ends with a newline, added to the last line if missing.
    """
    with open_stream(path) as stream:
        data = stream.read(block_bytes).removeprefix(BYTE_ORDER_MARK)
        pending: list[bytes] = []
        n_pending = n_lines = 0
        while data:
            cut = data.rfind(b"\n") + 1
            if cut:
                yield b"".join([*pending, data[:cut]])
                pending, n_pending, n_lines = [], 0, n_lines + data.count(b"\n")
            pending.append(data[cut:])
            n_pending += len(data) - cut
            check_line(f"{path}:{n_lines + 1}", n_pending, path)
            check_growth(str(path), path, n_samples=n_lines)
            data = stream.read(block_bytes)
        if rest := b"".join(pending):
            yield rest + b"\n"
