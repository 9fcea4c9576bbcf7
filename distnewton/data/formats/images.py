"""Images in a folder or a tar archive as a data set; the folder of an image is its class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnewton.data.columns import Wanted
from distnewton.data.description import Description
from distnewton.data.formats.base import Format, Location
from distnewton.data.formats.image_tree import ImageTree
from distnewton.data.formats.pictures import MODES, decode, require_pillow
from distnewton.data.formats.stored_files import full_name, stored_files
from distnewton.data.row_selection import RowSelection
from distnewton.data.source import Source
from distnewton.errors import ConfigError, DataError

KEPT_BYTES = 1 << 28
"""Most bytes of decoded images kept between the description and the first read."""


class Images(Format):
    """Folders and tar archives of images."""

    name = "images"
    help = "folders or tar archives with images as CLASS/FILE"
    specificity = 90  # a store is a folder with a manifest, and goes first
    has_folders = has_parts = True

    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether the path is a folder, or the content has the signature of a tar archive."""
        return path.is_dir() or head[257:262] == b"ustar"

    def open(self, location: Location, wanted: Wanted) -> ImageSource:
        """Open images labelled by their folders."""
        if location.labels_path is not None or wanted.label_column is not None:
            raise ConfigError(
                f"{location.path}: folders of images are their labels; give neither label_column nor a file of labels"
            )
        return ImageSource(location, wanted.n_features, wanted.labels != "none")


class ImageSource(Source):
    """Images ``CLASS/FILE`` of one size and kind in a folder or a tar archive.

    Features are the values 0 to 255 in the order (channel, row, column). Samples are sorted by class and file
    name. Links are followed in a folder and refused in an archive; an archive is never unpacked to the disk.

    Parameters
    ----------
    location : Location
        The folder or archive, and the folder in it that holds the class folders; if empty, that folder is found at
        any depth.
    n_features : int or None
        Number of features expected.
    classes : bool
        Whether the folders of images are their classes; if not, images may be in any folder, and have no labels.

    Notes
    -----
    :meth:`describe` decodes all images, and keeps them for the first :meth:`read` if they take at most 256 MiB
    (``KEPT_BYTES``). A process that did not describe the data reads an archive twice: for the names, since samples are
    sorted and their number must be known, and for the images. Every rank reads for itself: ranks on one host
    decompress the same archive and decode the same images at the same time, each on its own core.
    """

    def __init__(self, location: Location, n_features: int | None, classes: bool) -> None:
        self.path, self._n_features, self._classes = location.path, n_features, classes
        self._subfolder = "/".join(part for part in location.part.split("/") if part not in ("", "."))
        self.name = self._tree().name
        self._numbers: dict[str, int] | None = None
        self._kept: dict[str, NDArray[np.uint8]] | None = None
        require_pillow(self.name)

    def describe(self) -> Description:
        """Decode all images once; an error names an image that is damaged, differs from the first or has no class."""
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
        if self._n_features not in (None, c * h * w):
            raise DataError(
                f"{self.name}: images are {_described((c, h, w))} and have {c * h * w} features, expected "
                f"{self._n_features}; check that they belong to the same data, since images are never cut"
            )
        labels = tree.labels() if self._classes else np.full(len(self._numbers), np.nan)
        return Description(
            self.name, "images", len(self._numbers), c * h * w, n_nonzeros, False, labels,
            notes=tree.notes(), image_shape=(c, h, w), labelled=self._classes,
        )  # fmt: skip

    def _tree(self) -> ImageTree:
        """Return an empty tree, to which files are passed."""
        return ImageTree(self.path, self._subfolder, self._classes)

    def _decoded(self, tree: ImageTree) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Yield path and values of each image in stored order; all must have the size and kind of the first."""
        first: tuple[str, tuple[int, ...]] | None = None
        for file in stored_files(self.path):
            if tree.takes(file):
                image = decode(full_name(self.path, file.path), file.read())
                first = first or (file.path, image.shape)
                if image.shape != first[1]:
                    raise DataError(
                        f"{full_name(self.path, file.path)}: is {_described(image.shape)}, but the first image, "
                        f"{first[0]}, is {_described(first[1])}; all must be of the same size and kind: convert it"
                    )
                yield file.path, image

    def _sample_numbers(self) -> dict[str, int]:
        """Return the number of each image by its path, reading the names unless that was done."""
        if self._numbers is None:
            tree = self._tree()
            for file in stored_files(self.path):
                tree.takes(file)
            self._numbers = tree.ordered()
        return self._numbers

    def _n_readable(self) -> None:
        return None  # known when the first image is decoded

    def _read(self, start: int, stop: int, dtype: np.dtype[Any], wanted: RowSelection) -> NDArray[Any]:
        """Decode each image once into its row; it is an error if images have changed."""
        numbers, kept = self._sample_numbers(), self._kept
        self._kept = None
        result = np.empty((wanted.count(len(numbers)), stop - start), dtype=dtype)
        n_read = 0
        for path, image in kept.items() if kept is not None else self._decoded(self._tree()):
            if stop > image.size:
                raise ValueError(f"features {start} to {stop} were requested, but {self.name} has {image.size}")
            if path not in numbers:
                raise DataError(f"{self.name} changed while it was read: {path} is new")
            place, chosen = wanted.of(numbers[path], 1)
            result[place] = image.reshape(1, -1)[chosen, start:stop]
            n_read += 1
        if n_read != len(numbers):
            raise DataError(f"{self.name} changed while it was read: {len(numbers)} images, then {n_read}")
        return result

    def locate(self, i_sample: int) -> str:
        """Path of an image."""
        return full_name(self.path, list(self._sample_numbers())[i_sample])


def _described(shape: tuple[int, ...]) -> str:
    """Describe an image: ``RGB of 32 x 32 pixels (width x height)``."""
    channels, height, width = shape
    return f"{MODES[channels]} of {width} x {height} pixels (width x height)"
