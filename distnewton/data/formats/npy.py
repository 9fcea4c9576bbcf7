"""npy files: one array, with labels in a separate file or in a column of the array."""

from __future__ import annotations

from pathlib import Path

from distnewton.data.formats.array_files import ArrayFormat
from distnewton.data.formats.stored_arrays import StoredArray, open_npy


class Npy(ArrayFormat):
    """NumPy's files of one array."""

    name = "npy"
    help = "npy, with labels in X_labels.npy, X_y.npy or y.npy beside it"
    settings = ("label_column",)

    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether the content begins with NumPy's signature."""
        return head.startswith(b"\x93NUMPY")

    def open_array(self, path: Path) -> StoredArray:
        """Open the array of a file."""
        return open_npy(path)

    def label_files(self, path: Path) -> list[str]:
        """Usual names of the file of labels, such as ``y_train.npy`` for ``X_train.npy`` and ``X_train.npz``."""
        stem, dot, suffix = path.name.replace(".npz", ".npy").partition(".npy")
        stems = [f"{stem}_labels", f"{stem}_y"]
        if stem[:1] in ("x", "X") and not stem[1:2].isalpha():
            stems.append(f"y{stem[1:]}")
        return [f"{name}{dot}{suffix}" for name in stems]
