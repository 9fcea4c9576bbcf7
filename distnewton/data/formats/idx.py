"""IDX files, the format of MNIST: one array, with the labels in a separate file."""

from __future__ import annotations

import re
from pathlib import Path

from distnewton.data.formats.array_files import ArrayFormat
from distnewton.data.formats.stored_arrays import IDX_DTYPES, StoredArray, open_idx


class Idx(ArrayFormat):
    """Files of one array with a header of a few bytes."""

    name = "idx"
    help = "IDX, with labels in ...labels-idx1-ubyte beside ...images-idx3-ubyte"

    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether the content begins with a known type and a possible number of axes."""
        return len(head) >= 8 and head[:2] == b"\0\0" and head[2] in IDX_DTYPES and 1 <= head[3] <= 8

    def open_array(self, path: Path) -> StoredArray:
        """Open the array of a file."""
        return open_idx(path)

    def label_files(self, path: Path) -> list[str]:
        """Usual names of the file of labels; the one with the same compression comes first."""
        stem = path.name.removesuffix(".gz")
        labels = re.sub(r"images([-.])idx\d", r"labels\1idx1", stem)
        if labels == stem:
            return []
        names = [labels, f"{labels}.gz"]
        return names if stem == path.name else names[::-1]
