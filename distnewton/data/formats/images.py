"""Images in a folder or a tar archive as a data set; the folder that holds an image is its class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnewton.data.description import Description
from distnewton.data.formats.image_tree import ImageTree
from distnewton.data.formats.pictures import MODES, decode, require_pillow
from distnewton.data.formats.stored_files import full_name, stored_files
from distnewton.data.row_selection import Chosen, RowSelection
from distnewton.errors import DataError

KEPT_BYTES = 1 << 28
"""Most bytes of decoded images that are kept from the description to the first read."""


@dataclass
class ImageSource:
    """Images of one size and kind below a folder or in a tar archive, as ``CLASS/FILE``.

    Features are the values 0 to 255 in the order (channel, row, column). Samples are sorted by class and file
    name. Links in a folder are followed, in an archive refused; an archive is never unpacked to the disk.

    Attributes
    ----------
    path : Path
        The folder or archive.
    subfolder : str
        Folder in it that holds the class folders; empty: the one that does, in whatever depth.
    n_features : int or None
        Number of features asked for.
    classes : bool
        Whether the folders of images are their classes; else images may stand anywhere, and have no labels.

    Notes
    -----
    :meth:`describe` decodes every image, and keeps them for the first :meth:`read` where they take no more than 256
    MiB (``KEPT_BYTES``). A process that did not describe the data goes through an archive twice: for the names,
    since samples are sorted and their number must be known, and for the images. Every rank reads for itself: ranks
    on one host decompress the same archive and decode the same images at the same time, each on its own core.
    """

    path: Path
    subfolder: str = ""
    n_features: int | None = None
    classes: bool = True
    _numbers: dict[str, int] | None = field(default=None, init=False, repr=False)
    _kept: dict[str, NDArray[np.uint8]] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.subfolder = "/".join(part for part in self.subfolder.split("/") if part not in ("", "."))
        require_pillow(self.name)

    @property
    def name(self) -> str:
        """Path, with the subfolder as in ``PATH:SUBFOLDER``."""
        return ImageTree(self.path, self.subfolder).name

    def describe(self) -> Description:
        """Decode all images once.

        Returns
        -------
        Description

        Raises
        ------
        DataError
            With the name of an image that is damaged, or differs from the first in size or kind, or has no class.
        """
        tree = self._tree()
        n_nonzeros = kept_bytes = c = h = w = 0
        self._kept = {}
        for path, image in self._decoded(tree):
            n_nonzeros += int(np.count_nonzero(image))
            kept_bytes += image.nbytes
            if kept_bytes > KEPT_BYTES:
                self._kept = None
            if self._kept is not None:
                self._kept[path] = image
            c, h, w = image.shape
        self._numbers = tree.ordered()
        if self.n_features not in (None, c * h * w):
            raise DataError(
                f"{self.name}: images are {_described((c, h, w))}, so {c * h * w} features, expected "
                f"{self.n_features}; check that they belong to the same data (images are never cut)"
            )
        labels = tree.labels() if self.classes else np.full(len(self._numbers), np.nan)
        return Description(
            self.name, "images", len(self._numbers), c * h * w, n_nonzeros, False, labels,
            notes=tree.notes(), image_shape=(c, h, w), labelled=self.classes,
        )  # fmt: skip

    def _tree(self) -> ImageTree:
        """Return an empty tree, to be told the files."""
        return ImageTree(self.path, self.subfolder, self.classes)

    def _decoded(self, tree: ImageTree) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Yield path and values of each image as they are stored; all must be like the first."""
        first: tuple[str, tuple[int, ...]] | None = None
        for file in stored_files(self.path):
            if tree.takes(file):
                image = decode(full_name(self.path, file.path), file.read())
                first = first or (file.path, image.shape)
                if image.shape != first[1]:
                    raise DataError(
                        f"{full_name(self.path, file.path)}: is {_described(image.shape)}, but the first image, "
                        f"{first[0]}, is {_described(first[1])}; all must have one size and kind: convert or remove it"
                    )
                yield file.path, image

    def _sample_numbers(self) -> dict[str, int]:
        """Return the number of each image by its path, from a pass over the names if nobody has made it."""
        if self._numbers is None:
            tree = self._tree()
            for file in stored_files(self.path):
                tree.takes(file)
            self._numbers = tree.ordered()
        return self._numbers

    def read(self, start: int, stop: int, dtype: DTypeLike = "float64", rows: Chosen | None = None) -> NDArray[Any]:
        """Read a range of features; each image is decoded once and written to its row.

        Parameters
        ----------
        start, stop : int
            Half-open range of features, counted from 0.
        dtype : dtype
            Of the result.
        rows : Array of int or None
            Samples wanted, ascending; all by default.

        Returns
        -------
        ndarray of shape (n_samples, stop - start)

        Raises
        ------
        DataError
            If the images are not those that were found before.
        """
        numbers, kept = self._sample_numbers(), self._kept
        self._kept = None
        wanted = RowSelection(rows)
        result = np.empty((wanted.count(len(numbers)), stop - start), dtype=dtype)
        n_read = 0
        for path, image in kept.items() if kept is not None else self._decoded(self._tree()):
            if not 0 <= start <= stop <= image.size:
                raise ValueError(f"features {start} to {stop} asked for, {self.name} has {image.size}")
            if path not in numbers:
                raise DataError(f"{self.name} changed while it was read: {path} is new")
            place, chosen = wanted.of(numbers[path], 1)
            result[place] = image.reshape(1, -1)[chosen, start:stop]
            n_read += 1
        if n_read != len(numbers):
            raise DataError(f"{self.name} changed while it was read: {len(numbers)} images, then {n_read}")
        return result

    def locate(self, i_sample: int) -> str:
        """Path of an image.

        Parameters
        ----------
        i_sample : int
            Number of the sample from 0.

        Returns
        -------
        str
        """
        return full_name(self.path, list(self._sample_numbers())[i_sample])


def _described(shape: tuple[int, ...]) -> str:
    """Say what an image is like: ``RGB of 32 x 32 pixels (width x height)``."""
    channels, height, width = shape
    return f"{MODES[channels]} of {width} x {height} pixels (width x height)"
