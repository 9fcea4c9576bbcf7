"""What a data format says of itself: its name, how its files are recognised, and how they are opened."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from distnewton.data.columns import Wanted
from distnewton.data.description import DataSource


@dataclass(frozen=True)
class Location:
    """Where a data set is.

    Attributes
    ----------
    path : Path
        An existing file or folder.
    part : str
        What follows a colon: the folder of ``PATH:FOLDER``, the data sets of ``FILE:FEATURES,LABELS``.
    labels_path : Path or None
        File with the labels, where it is given beside that of the features.
    covariates_path : Path or None
        File with more features, where it is given behind that of the labels.
    """

    path: Path
    part: str = ""
    labels_path: Path | None = None
    covariates_path: Path | None = None


class Format(ABC):
    """A data format; one instance serves all files.

    A package adds one through an entry point of the group ``distnewton.formats``. It is then taken by
    ``data.format = NAME``, and by ``auto`` for the files that it recognises.

    Attributes
    ----------
    name : str
        Value of ``data.format``.
    help : str
        A line on what the files hold.
    settings : tuple of str
        Settings of :func:`~distnewton.data.sources.open_data` that it uses, beside those that all formats do.
    specificity : int
        Formats are asked in falling order whether they recognise a file: 100 for a signature, less for a guess.
    is_text : bool
        Whether files are text without a signature, which is taken for this format where a user says so.
    has_folders, has_parts, has_covariates : bool
        Whether a data set may be a folder, may be a part of what is at its path, and may have more features in another
        file.
    """

    name: ClassVar[str]
    help: ClassVar[str]
    settings: ClassVar[tuple[str, ...]] = ()
    specificity: ClassVar[int] = 100
    is_text: ClassVar[bool] = False
    has_folders: ClassVar[bool] = False
    has_parts: ClassVar[bool] = False
    has_covariates: ClassVar[bool] = False

    @abstractmethod
    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether a file is of this format.

        Parameters
        ----------
        path : Path
            An existing file, or a folder where a data set may be one.
        head : bytes
            Beginning of the content, decompressed; empty for a folder.

        Returns
        -------
        bool
        """

    @abstractmethod
    def open(self, location: Location, wanted: Wanted) -> DataSource:
        """Open a data set; reads no more than its beginning.

        Parameters
        ----------
        location : Location
            Where it is.
        wanted : Wanted
            What the caller wants of it.

        Returns
        -------
        DataSource

        Raises
        ------
        DistNewtonError
            If the beginning of the file is not as it should be, or a setting does not fit.
        """
