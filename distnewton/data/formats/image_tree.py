"""Images in class folders: selection, classes and order of the samples in a tree of files."""

from __future__ import annotations

import difflib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distnewton.data.formats.pictures import EXTENSIONS
from distnewton.data.formats.stored_files import StoredFile, full_name
from distnewton.errors import DataError

_LAYOUT = "expected CLASS/FILE, a folder for each class"


@dataclass
class ImageTree:
    """A data set built from the files of a folder or an archive, which are passed to it one by one.

    Attributes
    ----------
    path : Path
        The folder or archive.
    subfolder : str
        The only folder in `path` from which files are taken, without outer slashes; empty for all.
    classes : bool
        Whether the folders of images are their classes; if not, images may be in any folder.
    """

    path: Path
    subfolder: str = ""
    classes: bool = True
    _images: list[str] = field(default_factory=list, repr=False)
    _others: list[str] = field(default_factory=list, repr=False)
    _folders: set[str] = field(default_factory=set, repr=False)

    @property
    def name(self) -> str:
        """Path, with the subfolder as the user gave it."""
        return f"{self.path}:{self.subfolder}" if self.subfolder else str(self.path)

    def takes(self, file: StoredFile) -> bool:
        """Register a file, and return whether it is an image of the data set.

        Parameters
        ----------
        file : StoredFile
            Any file of the folder or archive.

        Returns
        -------
        bool

        Raises
        ------
        DataError
            If an image is outside the class folders or unreadable, or several folders hold class folders.
        """
        folder, _, _ = file.path.rpartition("/")
        self._folders.add(folder)
        if self.subfolder and not file.path.startswith(f"{self.subfolder}/"):
            return False
        if not file.path.lower().endswith(EXTENSIONS):
            self._others.append(file.path)
            return False
        if file.trouble:
            raise DataError(f"{full_name(self.path, file.path)}: {file.trouble}")
        if self.classes and folder == self.subfolder:
            image = file.path.rpartition("/")[2]
            raise DataError(f"{self.name}: the image {image} is in no folder that names its class; {_LAYOUT}")
        if self.classes and self._images:
            self._check_siblings(self._images[0], file.path)
        self._images.append(file.path)
        return True

    def _check_siblings(self, first: str, path: str) -> None:
        """Refuse class folders in different folders, such as train/cat and test/cat."""
        parents = ["/".join(image.split("/")[:-2]) for image in (first, path)]
        if parents[0] != parents[1]:
            choices = " or ".join(f"{self.path}:{parent}" for parent in sorted(parents) if parent)
            raise DataError(
                f"{self.name}: class folders are in different folders ({first} and {path}), perhaps of training and "
                f"test data; choose one: {choices}"
            )

    def ordered(self) -> dict[str, int]:
        """Number the images from 0, sorted by the code points of class folder and file name.

        Returns
        -------
        dict of str to int

        Raises
        ------
        DataError
            If there are no images, or one occurs twice.
        """
        if not self._images:
            raise DataError(f"{self.name}: {self._why_empty()}")
        numbers = {path: i for i, path in enumerate(sorted(self._images, key=lambda path: path.split("/")))}
        if len(numbers) < len(self._images):
            twice, _ = Counter(self._images).most_common(1)[0]
            raise DataError(f"{full_name(self.path, twice)}: is in the archive twice; pack it again")
        return numbers

    def _why_empty(self) -> str:
        """Describe what was found instead of images."""
        if self._others:
            problem = f"holds no images, only other files such as {self._others[0]}"
        else:
            problem = f"is not a folder with files{self._nearest_folders()}" if self.subfolder else "holds no files"
        return f"{problem}; {_LAYOUT}, with FILE ending in {', '.join(EXTENSIONS)}"

    def _nearest_folders(self) -> str:
        """List the folders that the user may have meant."""
        parents = {str(parent) for folder in self._folders for parent in (Path(folder), *Path(folder).parents)}
        known = sorted(parents - {"."})
        close = difflib.get_close_matches(self.subfolder, known, n=1)
        if close:
            return f" (did you mean {self.path}:{close[0]}?)"
        return f" (folders there: {', '.join(known[:5])}{', ...' if len(known) > 5 else ''})" if known else ""

    def labels(self) -> NDArray[np.str_]:
        """Class folder of each image, in order.

        Returns
        -------
        ndarray of str of shape (n_samples,)
        """
        return np.array([path.split("/")[-2] for path in self.ordered()], dtype=np.str_)

    def notes(self) -> list[str]:
        """Notices to show the user once: files left out, a single class."""
        notes = []
        if self._others:
            notes.append(f"{len(self._others)} files that are not images are left out, such as {self._others[0]}")
        if self.classes and len(classes := {path.split("/")[-2] for path in self._images}) == 1:
            notes.append(f"all images are of one class, {classes.pop()}")
        return notes
