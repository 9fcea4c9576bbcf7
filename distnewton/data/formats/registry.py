"""Lookup of data formats by name or by the content of a file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NoReturn

from distnewton.data.formats.base import Format
from distnewton.data.formats.streams import OFFICE, first_lines, is_html, line_blocks, read_head
from distnewton.errors import ConfigError, DataError
from distnewton.registry import Registry

FORMATS: Registry[Format] = Registry(
    "data format",
    Format,
    {
        "libsvm": "distnewton.data.formats.libsvm:Libsvm",
        "csv": "distnewton.data.formats.delimited:Csv",
        "npy": "distnewton.data.formats.npy:Npy",
        "npz": "distnewton.data.formats.npz:Npz",
        "idx": "distnewton.data.formats.idx:Idx",
        "images": "distnewton.data.formats.images:Images",
        "hdf5": "distnewton.data.formats.hdf5:Hdf5",
        "parquet": "distnewton.data.formats.parquet:Parquet",
        "arrow": "distnewton.data.formats.parquet:Arrow",
        "bed": "distnewton.data.formats.bed:Bed",
        "store": "distnewton.data.formats.store:Store",
    },
    group="distnewton.formats",
    objects=True,
)

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
_JSON = re.compile(rb"\s*(?:\[\s*)?\{\s*\"")
_ARFF = re.compile(rb"(?:%[^\n]*\n|[ \t]*\r?\n)*[ \t]*@relation\s", re.IGNORECASE)
_PICKLE = re.compile(rb"\x80[\x02-\x05]")


def named_format(name: str) -> Format:
    """Find a format by the name that a user gave.

    Parameters
    ----------
    name : str
        Value of ``data.format``, other than ``auto``.

    Returns
    -------
    Format

    Raises
    ------
    ConfigError
        If there is no such format.
    """
    if name not in FORMATS:
        raise ConfigError(f"format must be auto, {', '.join(FORMATS)}, got {name!r}")
    return FORMATS[name]


def find_format(path: Path, wanted: Format | None = None, *, is_table: bool = False) -> Format:
    """Find the format of a file from its first bytes, never from its suffix.

    Parameters
    ----------
    path : Path
        An existing file, compressed or not, or a folder.
    wanted : Format or None
        A given format; it is refused only if the content certainly has another one.
    is_table : bool
        Whether text with one field per line counts as a table.

    Returns
    -------
    Format

    Raises
    ------
    DataError
        If the content has no known format, or not the wanted one.
    """
    head = b"" if path.is_dir() else read_head(path)
    recognised = _recognise(path, head, text=False)
    if recognised is None:
        _refuse_foreign(path, head)
        if wanted is not None and wanted.is_text:
            return wanted
        head = _whole_lines(path)
        table = FORMATS["csv"] if is_table and first_lines(head, 1) else None
        recognised = _recognise(path, head, text=True) or table or _refuse_text(path, head)
    if wanted not in (None, recognised):
        name = recognised.name
        raise DataError(f"{path}: is {name}, not {wanted.name} as requested; use format = {name} or auto")
    return recognised


def _whole_lines(path: Path) -> bytes:
    """Beginning of a text, up to the end of the block that completes its first non-comment line."""
    lines = b""
    for block in line_blocks(path):
        lines += block
        if first_lines(block, 1):
            break
    return lines


def _recognise(path: Path, head: bytes, *, text: bool) -> Format | None:
    """Find the most specific format that recognises a file, among text formats or those with a signature."""
    is_folder = path.is_dir()
    formats = [f for f in FORMATS.values() if f.is_text == text and (f.has_folders or not is_folder)]
    formats.sort(key=lambda format: -format.specificity)
    return next((format for format in formats if format.recognises(path, head)), None)


def _refuse_text(path: Path, head: bytes) -> NoReturn:
    """Raise for text that no format recognises."""
    if not first_lines(head, 1):
        raise DataError(f"{path}: no samples (the file is empty or holds only comments)")
    raise DataError(
        f"{path}: its first lines have neither `index:value` pairs nor several fields; set format = libsvm or csv"
    )


def _refuse_foreign(path: Path, head: bytes) -> None:
    """Raise for content that is certainly not text with numbers."""
    readable = "; readable are " + "; ".join(format.help for format in FORMATS.values())
    for signature, what in _FOREIGN.items():
        if head.startswith(signature):
            raise DataError(f"{path}: looks like {what}{readable}")
    if OFFICE.match(head):
        raise DataError(f"{path}: looks like a spreadsheet or document; save it as CSV")
    if _PICKLE.match(head):
        raise DataError(f"{path}: looks like a pickle, which is never loaded since it can run any code{readable}")
    for pattern, what in ((_JSON, "JSON"), (_ARFF, "ARFF")):
        if pattern.match(head):
            raise DataError(f"{path}: looks like {what}; save it as CSV or Parquet")
    if is_html(head):
        raise DataError(f"{path}:1: looks like HTML (a web page instead of the data?){readable}")
    if b"\0" in head:
        raise DataError(f"{path}:1: looks like binary data of an unknown kind{readable}")
