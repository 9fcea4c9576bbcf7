"""Which format a file has, judged by its first bytes, never by its suffix."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, get_args

from distnewton.data.formats.streams import BYTE_ORDER_MARK, read_head
from distnewton.data.store.layout_on_disk import FEATURES_FILE, MANIFEST_FILE
from distnewton.errors import ConfigError, DataError

Format = Literal["libsvm", "csv", "npy", "npz", "idx", "images", "hdf5", "parquet", "store"]
FORMATS: tuple[str, ...] = get_args(Format)

_FOREIGN = {
    b"%PDF": "a PDF document",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"MATLAB 5.0 MAT": "a MATLAB file",
    b"\x28\xb5\x2f\xfd": "zstd-compressed (not supported; compress with gzip, bzip2 or xz instead)",
    b"7z\xbc\xaf": "a 7-Zip archive",
    b"\xff\xfe": "UTF-16 text (save it as UTF-8)",
    b"\xfe\xff": "UTF-16 text (save it as UTF-8)",
}
_OFFICE = re.compile(rb"PK\x03\x04.{26}(?:\[Content_Types\]\.xml|mimetypeapplication/vnd\.oasis|_rels/)", re.DOTALL)
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_PAIR = re.compile(rb"(?:^|[ \t])[^ \t,;\"']*:[^ \t]*")
_IDX_TYPES = (0x08, 0x09, 0x0B, 0x0C, 0x0D, 0x0E)
_READABLE = (
    "readable are LIBSVM text, delimited text, npy, npz with arrays X and y, IDX, HDF5, Parquet, stores of distnewton "
    "convert, and folders or tar archives with images in class folders"
)


def content_format(path: Path, wanted: str = "auto") -> Format:
    """Format of a file.

    Parameters
    ----------
    path : Path
        An existing file, compressed or not, or a folder.
    wanted : str
        One of the formats, which then is only checked against content that it certainly is not; or ``auto``.

    Returns
    -------
    str
        ``libsvm``, ``csv``, ``npy``, ``npz``, ``idx``, ``hdf5``, ``parquet``, ``store`` for a folder that ``distnewton
        convert`` has written, or ``images`` for another folder or a tar archive.

    Raises
    ------
    ConfigError
        If `wanted` is no format.
    DataError
        If the content is none that can be read, or not what is wanted.
    """
    if wanted not in ("auto", *FORMATS):
        raise ConfigError(f"format must be auto, {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, got {wanted!r}")
    head = b"" if path.is_dir() else read_head(path)
    found = _folder_format(path) if path.is_dir() else _binary_format(head)
    if found is None:
        _refuse_foreign(path, head)
        if wanted in ("libsvm", "csv"):
            return "libsvm" if wanted == "libsvm" else "csv"
        found = _text_format(path, head)
    if wanted not in ("auto", found):
        raise DataError(f"{path}: is {found}, not {wanted} as asked for; use format = {found} or auto")
    return found


def _folder_format(path: Path) -> Format:
    """Return format of a folder; one without its manifest is a store all the same, which then says so."""
    return "store" if any((path / name).exists() for name in (MANIFEST_FILE, FEATURES_FILE)) else "images"


def _binary_format(head: bytes) -> Format | None:
    """Return format of a file that begins with a known signature."""
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head.startswith(b"PK\x03\x04") and not _OFFICE.match(head):
        return "npz"
    if len(head) >= 8 and head[:2] == b"\0\0" and head[2] in _IDX_TYPES and 1 <= head[3] <= 8:
        return "idx"
    if head[257:262] == b"ustar":
        return "images"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "hdf5"
    if head.startswith(b"PAR1"):
        return "parquet"
    return None


def _refuse_foreign(path: Path, head: bytes) -> None:
    """Raise for content that is certainly no text with numbers."""
    for signature, what in _FOREIGN.items():
        if head.startswith(signature):
            raise DataError(f"{path}: looks like {what}; {_READABLE}")
    if _OFFICE.match(head):
        raise DataError(f"{path}: looks like a spreadsheet or document; save it as CSV")
    if _PICKLE.match(head):
        raise DataError(
            f"{path}: looks like a pickle, which is never loaded since it can run any code; {_READABLE}"
        )
    if head.lstrip()[:100].lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise DataError(f"{path}:1: looks like HTML (a web page instead of the data?); {_READABLE}")
    if b"\0" in head:
        raise DataError(f"{path}:1: looks like binary data of an unknown kind; {_READABLE}")


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


def _text_format(path: Path, head: bytes) -> Format:
    """Return LIBSVM where a token holds a colon, else delimited text where a line has more than one field."""
    lines = first_lines(head)
    if not lines and len(head) < 1 << 16:
        raise DataError(f"{path}: no samples (the file is empty or holds only comments)")
    if any(_PAIR.search(line.partition(b"#")[0]) for line in lines):
        return "libsvm"
    if any(len(re.split(rb"[,;\s]+", line.strip())) > 1 for line in lines):
        return "csv"
    raise DataError(
        f"{path}: neither `index:value` pairs nor several fields on a line in its first lines, so the "
        "format cannot "
        "be told; give format = libsvm or csv"
    )
