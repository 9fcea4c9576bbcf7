"""Bytes of a file in blocks of whole lines, decompressed on the way."""

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
"""Of content: up to here anything is read, and beyond it so many for each byte of the file."""
HEAD_BYTES = 1 << 16
OFFICE = re.compile(rb"PK\x03\x04.{26}(?:\[Content_Types\]\.xml|mimetypeapplication/vnd\.oasis|_rels/)", re.DOTALL)
"""Beginning of a spreadsheet or document, which is a zip archive, as npz files are."""


def find_file(path: str | Path, data_dir: str | Path | None = None, *, folders: bool = False) -> Path:
    """Path of an existing, readable file.

    Parameters
    ----------
    path : str or Path
        Absolute, or relative to `data_dir`.
    data_dir : str or Path, optional
        Folder of relative paths; the working directory when not given.
    folders : bool
        Whether it may be a folder.

    Returns
    -------
    Path

    Raises
    ------
    MissingInputError
        If there is no such file (the nearest name is given), or it is a folder where it may not be one, or it may
        not be read.
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
    """Return message for a file that does not exist."""
    text = f"data file {full}: does not exist (working directory {Path.cwd()})"
    if not full.parent.is_dir():
        return f"{text}; there is no folder {full.parent} either: data.directory names the folder to look in"
    names = _names(full.parent)
    close = difflib.get_close_matches(full.name, names, n=1, cutoff=0.4)
    return text + (f"; did you mean {full.parent / close[0]}?" if close else "")


def _names(folder: Path) -> list[str]:
    """What is in a folder, as far as one may look."""
    try:
        return [entry.name for entry in folder.iterdir()]
    except OSError:
        return []


def _opened(path: Path) -> IO[bytes]:
    """Open a file through the decompressor that its first bytes ask for, whatever its suffix."""
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
    """Content of a file of bzip2 or xz streams that lie one behind the other, as parallel compressors write them.

    Python's own readers take whatever they cannot decompress behind a whole stream for the end of the file. Only zeros
    may stand there.
    """

    def __init__(self, packed: IO[bytes], start: Callable[[], Any]) -> None:
        self._packed, self._start, self._member = packed, start, start()

    def readable(self) -> bool:
        """Whether it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, or the beginning of it; returns how many bytes there are, 0 at the end."""
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
        """Close the file, too."""
        self._packed.close()
        super().close()


def is_compressed(path: Path) -> bool:
    """Return whether the first bytes are those of gzip, bzip2 or xz."""
    with path.open("rb") as raw:
        return raw.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ"))


def check_line(name: str, n_bytes: int, path: Path) -> None:
    """Refuse a line, of text or of an array, that is far larger than the compressed file which holds it.

    Parameters
    ----------
    name : str
        Where the line is, for messages.
    n_bytes : int
        What it takes, or takes so far.
    path : Path
        The file.

    Raises
    ------
    DataError
        If memory for the line could be exhausted by a file of few bytes.
    """
    if n_bytes > MOST_LINE and n_bytes > _MOST_RATIO * path.stat().st_size:
        raise DataError(
            f"{name}: a line has more than {MOST_LINE >> 20} MiB, and more than {_MOST_RATIO} times what "
            "the compressed file has, which may be made to exhaust the memory; if it is right, decompress the file"
        )


def check_growth(name: str, path: Path, *, n_bytes: int = 0, n_samples: int = 0) -> None:
    """Refuse content that is far larger than the file which holds it.

    No real data are packed so well: deflate itself writes at least one byte for 1,032, and samples of less than a bit
    each tell nothing.

    Parameters
    ----------
    name : str
        What is read, for messages.
    path : Path
        The file.
    n_bytes : int
        What the content takes, or takes so far.
    n_samples : int
        Samples in it.

    Raises
    ------
    DataError
        If memory or time could be exhausted by a file of few bytes.
    """
    for number, least, most, what in (
        (n_bytes, _GROWN_BYTES, _MOST_GROWTH, "bytes"), (n_samples, _GROWN_SAMPLES, _MOST_SAMPLES, "samples"),
    ):  # fmt: skip
        if number > least and number > most * path.stat().st_size:
            raise DataError(
                f"{name}: holds more than {least:,} {what}, and more than {most} for each byte of its file, which may "
                "be made to exhaust the memory; if it is right, store it without compression"
            )


class ByteStream:
    """Sequential reader of a possibly compressed file that counts bytes and names what is broken.

    Parameters
    ----------
    path : Path
        The file, for messages.
    stream : IO[bytes]
        Where the bytes come from.
    """

    def __init__(self, path: Path, stream: IO[bytes]) -> None:
        self.path = path
        self.read_bytes = 0
        self._stream = stream

    def read(self, n_bytes: int) -> bytes:
        """At most `n_bytes` bytes; empty at the end.

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
            If the operating system cannot read on.
        """
        try:
            data = self._stream.read(n_bytes)
        except EOFError:
            raise DataError(
                f"{self.path}: compressed file is cut short, its end is missing after {self.read_bytes} bytes of "
                "content; copy or download it again"
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
        """Exactly `n_bytes` bytes.

        Parameters
        ----------
        n_bytes : int
            How many.

        Returns
        -------
        bytes

        Raises
        ------
        DataError
            If the file ends before.
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
        """Read and forget `n_bytes` bytes."""
        while n_bytes:
            n_bytes -= len(self.read_exactly(min(n_bytes, BLOCK_BYTES)))


@contextmanager
def open_stream(path: Path) -> Iterator[ByteStream]:
    """Open a file for reading, decompressed by content.

    Parameters
    ----------
    path : Path
        An existing file.

    Yields
    ------
    ByteStream
    """
    stream = _opened(path)
    # closing GzipFile leaves a file object that was handed to it open
    raw = getattr(stream, "fileobj", None)
    try:
        yield ByteStream(path, stream)
    finally:
        stream.close()
        if raw is not None:
            raw.close()


def read_head(path: Path) -> bytes:
    """Return first bytes of the content, at most 64 KiB."""
    with open_stream(path) as stream:
        return stream.read(HEAD_BYTES)


def first_lines(head: bytes, n_lines: int = 20) -> list[bytes]:
    """First lines that are neither blank nor comments, the last one only if it is whole.

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
    """Content of a text file in blocks of whole lines.

    Parameters
    ----------
    path : Path
        An existing file, compressed or not.
    block_bytes : int
        Size of a block, about; a longer line makes a longer block.

    Yields
    ------
    bytes
        Ends with a newline, which is added to the last line where it is missing. No byte-order mark.
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
