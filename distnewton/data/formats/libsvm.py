"""LIBSVM text files: strict, streaming, and holding only the wanted features."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnewton.data.description import Description
from distnewton.data.formats import libsvm_numpy
from distnewton.data.formats.libsvm_lines import MAX_INDEX, LineParser, Rows, Rules, parse_label
from distnewton.data.formats.streams import BYTE_ORDER_MARK, count_lines, is_compressed, line_blocks, read_head
from distnewton.data.labels import join_labels
from distnewton.data.row_selection import Chosen, RowSelection, chosen_values
from distnewton.errors import DataError

if TYPE_CHECKING:
    from scipy import sparse

    from distnewton.data.description import Labels

Parser = Literal["auto", "numba", "numpy", "lines"]
BlockParser = Callable[[bytes, Rules, int, int], Rows | None]

# Measured on one core: numpy parses about 100 MB/s, numba 200 to 500. numba loads from its cache in 0.4 s,
# which pays off from 60 MB on, and 3.2 s to compile, once on a machine.
NUMBA_FROM_BYTES = 128 << 20
_TYPICAL_COMPRESSION = 4
_COMMENT = re.compile(rb"#[^\n]*")
_QUERY = re.compile(rb"^([ \t\r\f\v]*[^\s:#]+[ \t\r\f\v]+)qid:\S*", re.MULTILINE)
_LABEL = re.compile(rb"^[ \t\r\f\v]*([^\s:#]+)(?=\s)", re.MULTILINE)


def pick_parser(path: Path, parser: Parser = "auto") -> BlockParser:
    """Block parser for a file: numba's where it is installed and the file is large enough to pay for it.

    Parameters
    ----------
    path : Path
        An existing file.
    parser : {"auto", "numba", "numpy", "lines"}
        A certain one; ``lines`` is the slow reference.

    Returns
    -------
    callable
    """
    if parser == "auto":
        size = path.stat().st_size * (_TYPICAL_COMPRESSION if is_compressed(path) else 1)
        large = size >= NUMBA_FROM_BYTES and importlib.util.find_spec("numba") is not None
        parser = "numba" if large else "numpy"
    if parser == "numba":
        from distnewton.data.formats import libsvm_numba

        return libsvm_numba.parse_block
    return libsvm_numpy.parse_block if parser == "numpy" else lambda *_: None


@dataclass
class LibsvmSource:
    """A LIBSVM file, ``label index:value ...`` on each line.

    Attributes
    ----------
    path : Path
        An existing file, plain or compressed with gzip, bzip2 or xz.
    rules : Rules
        What the file may contain.
    parser : {"auto", "numba", "numpy", "lines"}
        How to parse; all give the same values, bit for bit, and the same errors.
    """

    path: Path
    rules: Rules
    parser: Parser = "auto"
    _text_labels: bool = field(default=False, init=False, repr=False)

    @property
    def name(self) -> str:
        """Path as given."""
        return self.rules.name

    @cached_property
    def _parse(self) -> BlockParser:
        return pick_parser(self.path, self.parser)

    def describe(self) -> Description:
        """Check the whole file in one streaming pass.

        Returns
        -------
        Description

        Raises
        ------
        DataError
            With file and line, for anything that LIBSVM files do not hold.
        """
        return self.scan(lambda _: None)

    def scan(self, take: Callable[[Rows], None]) -> Description:
        """Do what `describe` does, and hand over the samples on the way.

        Parameters
        ----------
        take : callable
            Called with the samples of block after block.

        Returns
        -------
        Description
        """
        labels: list[Labels] = []
        n_stored = n_features = n_extra = 0
        seen: dict[str, None] = {}
        if read_head(self.path).startswith(BYTE_ORDER_MARK):
            seen["a byte-order mark at the beginning was skipped"] = None
        for block, rows in self._rows(0, MAX_INDEX + 1):
            labels.append(_as_array(rows.labels))
            n_stored += rows.n_stored
            n_extra += rows.n_extra
            n_features = max(n_features, rows.n_features)
            _note_block(block, seen)
            take(rows)
        joined = self._require_samples(join_labels(labels))
        if n_extra:
            seen[f"{n_extra} values of features beyond the {self.rules.n_features} expected were ignored"] = (
                None
            )
        n_features = n_features if self.rules.n_features is None else self.rules.n_features
        return Description(
            self.name, "libsvm", len(joined), n_features, n_stored, True, joined, n_extra, list(seen)
        )

    def read(self, start: int, stop: int, dtype: DTypeLike = "float64", rows: Chosen | None = None) -> sparse.csr_array:
        """Read a range of features; what the file never mentions is 0.

        Memory is that of the result, twice while its pieces are joined, and a few blocks of text. Numbers
        outside the range are not converted: a value too large for a double there is found by `describe` only.

        Parameters
        ----------
        start, stop : int
            Half-open range of features, counted from 0.
        dtype : dtype
            Of the values; the file's numbers are rounded to float64 first.
        rows : Array of int or None
            Samples wanted, ascending; all by default.

        Returns
        -------
        csr_array of shape (n_samples, stop - start)
            Explicit zeros of the file are kept.
        """
        if not 0 <= start <= stop:
            raise ValueError(f"start and stop must satisfy 0 <= start <= stop, got {start} and {stop}")
        wanted, n_samples, pieces = RowSelection(rows), 0, []
        for _, block in self._rows(start, stop):
            _, chosen = wanted.of(n_samples, len(block.lengths))
            n_samples += len(block.lengths)
            values = chosen_values(block.lengths, chosen)
            lengths = block.lengths[chosen].astype(np.int32)
            pieces.append((lengths, block.indices[values], block.values[values].astype(dtype, copy=False)))
        return _join_rows(pieces, stop - start, np.dtype(dtype))

    def locate(self, i_sample: int) -> str:
        """``file:line`` of a sample.

        Parameters
        ----------
        i_sample : int
            Number of the sample from 0.

        Returns
        -------
        str
        """
        n_lines = n_samples = 0
        for block in line_blocks(self.path):
            for line in block.splitlines():
                n_lines += 1
                n_samples += bool(line.partition(b"#")[0].strip())
                if n_samples > i_sample:
                    return f"{self.name}:{n_lines}"
        return f"{self.name}: sample {i_sample + 1}"

    def _require_samples(self, labels: Labels) -> Labels:
        if not len(labels):
            raise DataError(f"{self.name}: no samples (the file is empty or holds only comments)")
        return labels

    def _rows(self, start: int, stop: int) -> Iterator[tuple[bytes, Rows]]:
        """Yield blocks of the file and what they hold in a range of features."""
        slow = LineParser(self.rules)
        first_line = 1
        for block in line_blocks(self.path):
            rows = self._fast_rows(block, start, stop)
            if rows is None:
                rows = slow.parse_block(block, first_line, start, stop)
                self._text_labels |= any(isinstance(label, str) for label in rows.labels)
            yield block, rows
            first_line += count_lines(block)

    def _fast_rows(self, block: bytes, start: int, stop: int) -> Rows | None:
        """Return rows by the block parser, once comments, ``qid:`` and class names are out of its way."""
        if b"#" in block:
            block = _COMMENT.sub(b"", block)
        if b"q" in block and b"qid:" in block:  # one byte is searched for ten times faster
            block = _QUERY.sub(rb"\1", block)
        if not self._text_labels:
            return self._parse(block, self.rules, start, stop)
        tokens = _LABEL.findall(block)
        block = _LABEL.sub(b"0", block)
        try:
            known = {token: parse_label(token) for token in set(tokens)}
        except ValueError:
            return None
        rows = self._parse(block, self.rules, start, stop)
        if rows is not None:
            rows.labels = [known[token] for token in tokens]
        return rows


def _note_block(block: bytes, seen: dict[str, None]) -> None:
    """Note what a block holds besides samples."""
    if b"#" in block:
        seen["comments (# ...) were ignored"] = None
    if b"q" in block and b"qid:" in block and _QUERY.search(block):
        seen["query ids (qid:) were ignored"] = None


def _as_array(labels: list[float | str] | NDArray[np.float64]) -> Labels:
    """Return labels of a block as one array."""
    if isinstance(labels, np.ndarray):
        return labels
    if any(isinstance(label, str) for label in labels):
        parts = [
            np.array([label]) if isinstance(label, str) else np.array([label], dtype=np.float64)
            for label in labels
        ]
        return join_labels(parts)
    return np.array(labels, dtype=np.float64)


def _join_rows(
    pieces: list[tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.floating]]],
    n_columns: int,
    dtype: np.dtype,
) -> sparse.csr_array:
    """Return matrix of the rows of all blocks; pieces are freed as they are copied."""
    from scipy import sparse

    lengths = np.concatenate([piece[0] for piece in pieces]) if pieces else np.zeros(0, dtype=np.int32)
    n_values = int(lengths.sum(dtype=np.int64))
    index_dtype = np.int32 if max(n_values, n_columns) <= MAX_INDEX else np.int64
    pointers = np.zeros(len(lengths) + 1, dtype=index_dtype)
    np.cumsum(lengths, out=pointers[1:])
    indices = np.empty(n_values, dtype=index_dtype)
    values = np.empty(n_values, dtype=dtype)
    pieces.reverse()
    at = 0
    while pieces:
        _, piece_indices, piece_values = pieces.pop()
        end = at + len(piece_values)
        indices[at:end], values[at:end] = piece_indices, piece_values
        at = end
    matrix = sparse.csr_array((values, indices, pointers), shape=(len(lengths), n_columns))
    matrix.has_canonical_format = True  # sorted and unique, as checked; spares scipy a scan of all indices
    return matrix
