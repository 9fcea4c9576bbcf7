"""The interface of a data format: its name, how its files are recognised, and how they are opened."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from distnewton.data.columns import Wanted
from distnewton.data.description import DataSource
from distnewton.frozen import frozen


@frozen
class Location:
    """Where a data set is.

    Attributes
    ----------
    path : Path
        An existing file or folder.
    part : str
        Text after a colon: the folder in ``PATH:FOLDER``, the data sets in ``FILE:FEATURES,LABELS``.
    labels_path : Path or None
        File with the labels, if given after the file of features.
    covariates_path : Path or None
        File with more features, if given after the file of labels.
    """

    path: Path
    part: str = ""
    labels_path: Path | None = None
    covariates_path: Path | None = None


class Format(ABC):
    """A data format; one instance serves all files.

    A package adds one through an entry point of the group ``distnewton.formats``. Users select it with
    ``data.format = NAME``, and ``auto`` selects it for the files that it recognises.

    Attributes
    ----------
    name : str
        Value of ``data.format``.
    help : str
        One line on what the files hold.
    settings : tuple of str
        Settings of :func:`~distnewton.data.sources.open_data` that it uses, in addition to those of all formats.
    specificity : int
        Priority for recognition, highest first: 100 for a signature, less for a guess.
    is_text : bool
        Whether files are text without a signature, accepted as this format if the user names it.
    has_folders, has_parts, has_covariates : bool
        Whether a data set may be a folder, may be a part of the file or folder at its path, and may have more features
        in another file.
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
            An existing file, or a folder if `has_folders`.
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
            Place of the data set.
        wanted : Wanted
            Requests of the caller.

        Returns
        -------
        DataSource

        Raises
        ------
        DistNewtonError
            If the beginning of the file is invalid, or a setting does not fit.
        """
