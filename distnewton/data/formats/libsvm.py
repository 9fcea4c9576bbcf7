"""Strict streaming reader of LIBSVM text files that holds only the wanted features."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from distnewton.data.columns import Wanted
from distnewton.data.description import Description
from distnewton.data.formats.base import Format, Location
from distnewton.data.formats.libsvm_lines import (
    MAX_INDEX,
    LineParser,
    Rows,
    Rules,
    parse_label,
    parse_label_set,
    parse_regular,
)
from distnewton.data.formats.streams import first_lines, is_compressed, line_blocks, mark_notes
from distnewton.data.labels import join_labels, label_text, labels_of_texts
from distnewton.data.row_selection import RowSelection, chosen_values
from distnewton.data.rows import join_rows
from distnewton.data.source import Source
from distnewton.errors import DataError

if TYPE_CHECKING:
    from scipy import sparse

    from distnewton.data.description import Labels

Parser = Literal["auto", "numba", "lines"]
BlockParser = Callable[[bytes, Rules, int, int], Rows | None]

# Measured on one core of a busy machine, in CPU time: the line parser reads 8 to 20 MB/s, numba 120 to 230 MB/s. numba
# loads from its cache in 0.4 s, and compiles in 3.2 s once on a machine.
NUMBA_FROM_BYTES = 16 << 20
_TYPICAL_COMPRESSION = 4
_KEPT_BYTES, _BYTES_OF_VALUE = 48 << 20, 12
"""Memory for rows kept from one pass to spare the next one parsing, and bytes of each kept value."""
_COMMENT = re.compile(rb"#[^\n]*")
_LABELS = re.compile(rb"[0-9]+(?:,[0-9]+)+|[^\s,;:\"']+")
# an intended pair with any value; a time or a genome position is followed by other fields
_PAIR = re.compile(rb"[+-]?[0-9]{1,10}:[^\s:,;\"']*(,[0-9]+)?")
_BLANK_AT_COLON = re.compile(rb"[ \t]*:(?![ \t]+[0-9]+[ \t]*:)[ \t]*")
_QUERY = re.compile(rb"^([ \t\r\f\v]*[^\s:#]+[ \t\r\f\v]+)qid:\S*", re.MULTILINE)
# forms in which no double is written: leading zeros, too many digits, a whole number with an exponent
_ODD_LABEL = re.compile(rb"\n[ \t]*[+-]?(?:0[0-9]|[0-9]{16}|[0-9.]+[eE])")
# on a line without labels the text before the first blank is empty
_LABEL_SET = re.compile(rb"^([^\s#]*)(?=[ \t\r\n])", re.MULTILINE)
_BLANK_LINE = re.compile(rb"^[ \t\r\f\v]*\n", re.MULTILINE)
_LABEL = re.compile(rb"^[ \t\r\f\v]*([^\s:#]+)(?=\s)", re.MULTILINE)


class Libsvm(Format):
    """Text of sparse samples."""

    name = "libsvm"
    help = "LIBSVM text, `label index:value ...` on each line"
    settings = ("zero_based", "sort_indices")
    specificity = 20
    is_text = True

    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether most of the first lines with several tokens are a label and pairs, valid or not."""
        lines = [line.partition(b"#")[0] for line in first_lines(head)]
        found = [_has_pairs(line) for line in lines if len(line.split(maxsplit=1)) > 1]
        return sum(found) * 2 > len(found)

    def open(self, location: Location, wanted: Wanted) -> LibsvmSource:
        """Open a file; it may mention fewer features than expected."""
        limit = None if wanted.n_features is None else min(wanted.n_features, MAX_INDEX)
        lenient = bool(wanted.ignore_extra_features)
        first = int(not wanted.zero_based)
        rules = Rules(str(location.path), first, limit, lenient, wanted.sort_indices, wanted.multilabel)
        return LibsvmSource(location.path, rules)


def _has_pairs(line: bytes) -> bool:
    """Whether most tokens after the label look like intended ``index:value`` pairs, valid or not."""
    tokens = _tokens(line)
    if not tokens:
        return False
    label = b"" if _PAIR.fullmatch(tokens[0]) else tokens.pop(0)
    pairs = list(filter(None, map(_PAIR.fullmatch, tokens)))
    if label and not _LABELS.fullmatch(label):
        return False
    # a single one may be a time in a table
    is_clear = len(pairs) > 1 or (label and b"," not in label and not any(pair[1] for pair in pairs))
    return bool(is_clear) and len(pairs) * 2 > len(tokens)


def _tokens(line: bytes) -> list[bytes]:
    """Tokens that may be the label and pairs of a line; none for a line without a colon."""
    line = _BLANK_AT_COLON.sub(b":", line) if b":" in line else b""
    return [token for token in line.split() if not token.startswith(b"qid:")]


def pick_parser(path: Path, parser: Parser = "auto") -> BlockParser:
    """Choose a block parser: numba's if it is installed and the file is large enough to repay loading it.

    Parameters
    ----------
    path : Path
        An existing file.
    parser : {"auto", "numba", "lines"}
        Parser to use; ``auto`` chooses.

    Returns
    -------
    callable
    """
    if parser == "auto":
        size = path.stat().st_size * (_TYPICAL_COMPRESSION if is_compressed(path) else 1)
        large = size >= NUMBA_FROM_BYTES and importlib.util.find_spec("numba") is not None
        parser = "numba" if large else "lines"
    if parser == "numba":
        from distnewton.data.formats import libsvm_numba

        return libsvm_numba.parse_block
    return parse_regular


class _Keep:
    """Rows of a file while they are few; None once they are too many."""

    def __init__(self) -> None:
        self.rows: list[Rows] | None = []
        self._n_values = 0

    def __call__(self, rows: Rows) -> None:
        self._n_values += len(rows.values)
        if self.rows is not None and self._n_values <= _KEPT_BYTES // _BYTES_OF_VALUE:
            self.rows.append(rows)
        else:
            self.rows = None


class LibsvmSource(Source):
    """A LIBSVM file, ``label index:value ...`` on each line.

    Parameters
    ----------
    path : Path
        An existing file, plain or compressed with gzip, bzip2 or xz.
    rules : Rules
        What the file may contain.
    parser : {"auto", "numba", "lines"}
        Parser to use; both give bitwise the same values, and the same errors.
    """

    def __init__(self, path: Path, rules: Rules, parser: Parser = "auto") -> None:
        self.path, self.name, self.rules, self._parser = path, rules.name, rules, parser
        self._text_labels = False
        self._kept: list[Rows] | None = None

    @cached_property
    def _parse(self) -> BlockParser:
        return pick_parser(self.path, self._parser)

    def describe(self) -> Description:
        """Check the whole file in one streaming pass; keep the rows of a small file for the next read."""
        keep = _Keep()
        description = self.scan(keep)
        self._kept = keep.rows
        return description

    def prepare(self) -> None:
        """Parse a small file at the same time as another rank describes it, not afterwards."""
        if self.path.stat().st_size * (_TYPICAL_COMPRESSION if is_compressed(self.path) else 1) <= _KEPT_BYTES:
            # the rank that describes the file reports the error before anything is read
            with suppress(DataError, OSError):
                self.describe()

    def scan(self, take: Callable[[Rows], None]) -> Description:
        """Check the whole file, and pass each block of samples to `take`."""
        labels: list[Labels] = []
        n_stored = n_features = n_extra = 0
        notes = dict.fromkeys(mark_notes(self.path))
        for block, rows in self._rows(0, MAX_INDEX + 1):
            labels.append(_as_array(rows.labels))
            n_stored += rows.n_stored
            n_extra += rows.n_extra
            n_features = max(n_features, rows.n_features)
            notes |= dict.fromkeys(_block_notes(block))
            take(rows)
        joined = join_labels(labels)
        if not len(joined):
            raise DataError(f"{self.name}: no samples (the file is empty, or holds only a header or comments)")
        if joined.dtype.kind == "U" and not self.rules.multilabel:
            joined = labels_of_texts(joined.astype(np.str_))
        expected = self.rules.n_features
        if n_extra:
            notes[f"{n_extra} values of features beyond the {expected} expected were ignored"] = None
        n_features = n_features if expected is None else expected
        return Description(self.name, "libsvm", len(joined), n_features, n_stored, True, joined, n_extra, list(notes))

    def locate(self, i_sample: int) -> str:
        """Describe the position of a sample as ``file:line``; reads the file again."""
        n_lines = n_samples = 0
        for block in line_blocks(self.path):
            for line in block.split(b"\n")[:-1]:
                n_lines += 1
                # a line may hold only a comment
                n_samples += bool(line.partition(b"#")[0].strip())
                if n_samples > i_sample:
                    return f"{self.name}:{n_lines}"
        return super().locate(i_sample)

    def _n_readable(self) -> None:
        return None  # features that the file never mentions are 0

    def _read(self, start: int, stop: int, dtype: np.dtype[Any], wanted: RowSelection) -> sparse.csr_array:
        """Read rows, including explicit zeros in the file."""
        # memory: the result, twice while its pieces are joined, and a few blocks of text
        n_samples, pieces = 0, []
        kept, self._kept = self._kept, None
        known = None if kept is None else (rows.within(start, stop) for rows in kept)
        for block in known or (rows for _, rows in self._rows(start, stop)):
            _, chosen = wanted.of(n_samples, len(block))
            n_samples += len(block)
            values = chosen_values(block.lengths, chosen)
            lengths = block.lengths[chosen].astype(np.int32)
            pieces.append((lengths, block.indices[values], block.values[values].astype(dtype, copy=False)))
        return join_rows(pieces, stop - start, dtype)

    def _rows(self, start: int, stop: int) -> Iterator[tuple[bytes, Rows]]:
        """Yield blocks of the file and their rows in a range of features."""
        slow, first_line = LineParser(self.rules), 1
        for block in line_blocks(self.path):
            rows = self._fast_rows(block, start, stop)
            if rows is None:
                rows = slow.parse_block(block, first_line, start, stop)
                self._text_labels |= any(isinstance(label, str) for label in rows.labels)
            yield block, rows
            first_line += block.count(b"\n")

    def _fast_rows(self, block: bytes, start: int, stop: int) -> Rows | None:
        """Return rows from the block parser after removing comments, ``qid:`` and class names."""
        if b"#" in block:
            block = _COMMENT.sub(b"", block)
        if b"q" in block and b"qid:" in block:  # searching for a single byte is ten times faster
            block = _QUERY.sub(rb"\1", block)
        pattern, parse_one = _LABEL, parse_label
        if self.rules.multilabel:
            block, pattern, parse_one = _BLANK_LINE.sub(b"", block), _LABEL_SET, parse_label_set
        elif not (self._text_labels or _ODD_LABEL.search(b"\n" + block)):
            return self._parse(block, self.rules, start, stop)
        tokens = pattern.findall(block)
        block = pattern.sub(b"0", block)
        try:
            known = {token: parse_one(token) for token in set(tokens)}
        except ValueError:
            return None
        rows = self._parse(block, self.rules, start, stop)
        if rows is not None and len(rows) == len(tokens):
            rows.labels = [known[token] for token in tokens]
            return rows
        return None


def _block_notes(block: bytes) -> Iterator[str]:
    """Yield notes on the contents of a block besides samples."""
    if b"#" in block:
        yield "comments (# ...) were ignored"
    if b"q" in block and b"qid:" in block and _QUERY.search(block):
        yield "query ids (qid:) were ignored"


def _as_array(labels: list[float | str] | NDArray[np.float64]) -> Labels:
    """Return labels of a block as one array."""
    if isinstance(labels, np.ndarray):
        return labels
    if any(isinstance(label, str) for label in labels):
        return np.array([label_text(label) for label in labels], np.str_)
    return np.array(labels, dtype=np.float64)
