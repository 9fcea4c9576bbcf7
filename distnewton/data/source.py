"""Base classes of this package's data sources: range checks, and gathering of blocks of rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from distnewton.data.description import Description
from distnewton.data.formats.streams import BYTE_ORDER_MARK, line_blocks, read_head
from distnewton.data.labels import join_labels
from distnewton.data.row_selection import Chosen, RowSelection
from distnewton.errors import DataError

if TYPE_CHECKING:
    from distnewton.data.description import Features, Labels


class Source(ABC):
    """A data set that can be read by ranges of features without holding the rest.

    Attributes
    ----------
    name : str
        Path or name, for messages.
    """

    name: str

    @abstractmethod
    def describe(self) -> Description:
        """Check all of the data in one streaming pass; meant for one rank.

        Returns
        -------
        Description

        Raises
        ------
        DataError
            If the data are invalid; says where.
        """

    def read(self, start: int, stop: int, dtype: DTypeLike = "float64", rows: Chosen | None = None) -> Features:
        """Read the features ``start <= feature < stop`` of samples; meant for every rank.

        Parameters
        ----------
        start, stop : int
            Half-open range of features, counted from 0.
        dtype : dtype
            A float dtype.
        rows : Array of int or None
            Ascending numbers of the samples to read; all by default.

        Returns
        -------
        ndarray or csr_array of shape (n_samples, stop - start), or (len(rows), stop - start)
            C-contiguous array, or CSR if the format is sparse.

        Raises
        ------
        ValueError
            If the range exceeds the features of the data.
        """
        if not 0 <= start <= stop:
            raise ValueError(f"start and stop must satisfy 0 <= start <= stop, got {start} and {stop}")
        n_features = self._n_readable()
        if n_features is not None and stop > n_features:
            raise ValueError(f"features {start} to {stop} were requested, but {self.name} has {n_features}")
        features: Features = self._read(start, stop, np.dtype(dtype), RowSelection(rows))
        return features

    def locate(self, i_sample: int) -> str:
        """Describe the position of a sample as ``name: sample i``, counted from 1, for error messages.

        Parameters
        ----------
        i_sample : int
            Number of the sample from 0.

        Returns
        -------
        str
        """
        return f"{self.name}: sample {i_sample + 1}"

    @property
    def reading_bytes(self) -> float:
        """Approximate memory that a rank needs for reading, besides the features themselves; for plans."""
        return 0.0

    @abstractmethod
    def _n_readable(self) -> int | None:
        """Number of features that can be read; None if any number can, as for sparse text."""

    @abstractmethod
    def _read(self, start: int, stop: int, dtype: np.dtype[Any], wanted: RowSelection) -> Any:
        """Read a valid range of features."""


class TextSource(Source):
    """A text file with one sample per line, parsed in blocks.

    Parameters
    ----------
    path : Path
        An existing file, plain or compressed.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)

    def describe(self) -> Description:
        """Check the whole file in one streaming pass."""
        return self.scan(lambda _: None)

    def prepare(self) -> None:
        """Prepare to read on ranks that do not describe the data; problems are left to the rank that does."""

    @abstractmethod
    def scan(self, take: Callable[[Any], None]) -> Description:
        """Describe the data and pass on the samples at the same time.

        Parameters
        ----------
        take : callable
            Called with the samples of each block, as :class:`~distnewton.data.formats.libsvm_lines.Rows`.

        Returns
        -------
        Description
        """

    @staticmethod
    @abstractmethod
    def has_sample(line: bytes) -> bool:
        """Whether a line holds a sample."""

    def locate(self, i_sample: int) -> str:
        """Describe the position of a sample as ``file:line``; reads the file again."""
        n_lines = n_samples = 0
        for block in line_blocks(self.path):
            for line in block.split(b"\n")[:-1]:
                n_lines += 1
                n_samples += self.has_sample(line)
                if n_samples > i_sample:
                    return f"{self.name}:{n_lines}"
        return super().locate(i_sample)

    def _join_labels(self, blocks: list[Labels]) -> Labels:
        """Join the labels of all blocks; refuses a file without samples."""
        labels = join_labels(blocks)
        if not len(labels):
            raise DataError(f"{self.name}: no samples (the file is empty, or holds only a header or comments)")
        return labels

    def _notes(self) -> list[str]:
        """Notices about the beginning of the file."""
        marked = read_head(self.path).startswith(BYTE_ORDER_MARK)
        return ["a byte-order mark at the beginning was skipped"] if marked else []

    def _numbered_blocks(self) -> Iterator[tuple[int, bytes]]:
        """Yield blocks of whole lines, each with the number of its first line, from 1."""
        first_line = 1
        for block in line_blocks(self.path):
            yield first_line, block
            first_line += int(np.count_nonzero(np.frombuffer(block, dtype=np.uint8) == ord("\n")))
