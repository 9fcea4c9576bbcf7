"""npz files: arrays X and y in one archive, or a sparse SciPy matrix."""

from __future__ import annotations

from pathlib import Path

from distnewton.data.columns import Wanted
from distnewton.data.formats.array_files import ArrayFileSource
from distnewton.data.formats.base import Format, Location
from distnewton.data.formats.npy import Npy
from distnewton.data.formats.sparse_npz import MEMBERS, SparseSource
from distnewton.data.formats.stored_arrays import open_npz
from distnewton.data.formats.streams import OFFICE
from distnewton.errors import ConfigError, DataError


class Npz(Format):
    """NumPy's archives of arrays."""

    name = "npz"
    help = "npz with arrays X and y, or a sparse matrix with labels in another file, as for npy"
    settings = ("label_column",)

    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether the file is a zip archive, but not an office document."""
        return head.startswith(b"PK\x03\x04") and not OFFICE.match(head)

    def open(self, location: Location, wanted: Wanted) -> ArrayFileSource | SparseSource:
        """Open the arrays of an archive; names are case-insensitive."""
        arrays, column = open_npz(location.path), wanted.label_number
        if arrays.keys() >= MEMBERS:
            if column is not None:
                raise ConfigError(
                    f"label_column = {column}: the labels of the sparse matrix {location.path} are in a separate "
                    "file, such as X_y.npy for X.npz"
                )
            return SparseSource(str(location.path), arrays, Npy().open_labels(location, wanted), wanted)
        names = {"x": "X", "y": "y"} | {name.lower(): name for name in sorted(arrays, reverse=True)}
        has_labels = column is None and (wanted.labels == "required" or names["y"] in arrays)
        if not {names[key] for key in ("x", "y")[: 1 + has_labels]} <= arrays.keys():
            there = ", ".join(sorted(arrays)) or "none; zip archives of other files are not read, so unpack it"
            raise DataError(f"{location.path}: expected arrays X and y, got {there}")
        labels = arrays[names["y"]]() if has_labels else None
        return ArrayFileSource(arrays[names["x"]](), self.name, labels, column, wanted)
