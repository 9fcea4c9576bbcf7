"""Parser of LIBSVM lines: the reference for accepted input, and the only source of the error messages.

Blocks of regular lines, as defined by :data:`_REGULAR`, are converted at once; others line by line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from distnewton.data.formats.numbers import NUMBER, finite_number
from distnewton.data.formats.streams import is_html
from distnewton.data.label_sets import split_labels
from distnewton.data.labels import MOST_CHARACTERS, TOO_LONG, are_numbers, label_text
from distnewton.errors import DataError
from distnewton.frozen import frozen
from distnewton.printable import printable

MAX_INDEX = 2**31 - 1
_SHOWN = 40
_INDEX = re.compile(rb"[0-9]+")
_NOT_FINITE = re.compile(rb"[+-]?(nan|inf|infinity)", re.IGNORECASE)
_COLON_TO_BLANK = bytes.maketrans(b":", b" ")
# NUMBER without backtracking, which takes quadratic time if a long block does not match
_NUMBER = rb"[+-]?+(?:[0-9]++\.?+[0-9]*+|\.[0-9]++)(?:[eE][+-]?+[0-9]++)?+"
_REGULAR = re.compile(rb"(?:%b(?:[ \t]++[0-9]{1,10}+:%b)*+[ \t\r]*+\n)*+" % (_NUMBER, _NUMBER))
_TOKEN = rb"[^ \t\n\r\f\v]+"
_BLANK_LINE = re.compile(rb"^[ \t\r]*\n", re.MULTILINE)
_EXPECTED = "LIBSVM lines are `label index:value index:value ...`"


@frozen
class Rules:
    """Rules for the content of a file.

    Attributes
    ----------
    name : str
        File, for messages.
    first_index : int
        Smallest index allowed: 1, or 0 for files that count from 0.
    n_features : int or None
        Number of requested features.
    ignore_extra : bool
        Whether features beyond `n_features` are counted and left out instead of refused.
    sort_indices : bool
        Whether rows with unsorted indices are sorted instead of refused.
    multilabel : bool
        Whether a row may have any number of labels; a row without labels begins with a blank.
    """

    name: str
    first_index: int = 1
    n_features: int | None = None
    ignore_extra: bool = False
    sort_indices: bool = False
    multilabel: bool = False

    @property
    def limit(self) -> int:
        """One past the last feature that is kept, counted from 0."""
        return MAX_INDEX if self.n_features is None else self.n_features

    @property
    def last_index(self) -> int:
        """Largest index that 32-bit features can hold."""
        return MAX_INDEX - 1 + self.first_index


@dataclass
class Rows:
    """Contents of a block of lines in the wanted range of features.

    Attributes
    ----------
    labels : list of (float or str) or ndarray of float64
        One label for each sample.
    lengths : ndarray of int64 of shape (n_samples,)
        Number of values kept for each sample.
    indices : ndarray of int32 of shape (n_kept,)
        Features counted from the start of the range.
    values : ndarray of float64 of shape (n_kept,)
        Their values.
    n_stored : int
        Number of values of all features below the limit.
    n_features : int
        Smallest number of features that covers all values.
    n_extra : int
        Number of values at and beyond the limit.
    """

    labels: list[float | str] | NDArray[np.float64]
    lengths: NDArray[np.int64]
    indices: NDArray[np.int32]
    values: NDArray[np.float64]
    n_stored: int
    n_features: int
    n_extra: int

    def __len__(self) -> int:
        return len(self.lengths)

    def within(self, start: int, stop: int) -> Rows:
        """Restrict rows of all features to a range of features."""
        kept = (self.indices >= start) & (self.indices < stop)
        if kept.all():
            return replace(self, indices=self.indices - np.int32(start))
        ends = np.concatenate(([0], np.cumsum(kept)))[np.concatenate(([0], np.cumsum(self.lengths)))]
        indices = self.indices[kept] - np.int32(start)
        return replace(self, lengths=np.diff(ends), indices=indices, values=self.values[kept])


def show(token: bytes) -> str:
    """Format a token for a message."""
    text = printable(token.decode("utf-8", "backslashreplace"), keep="")
    return "'" + (text if len(text) <= _SHOWN else text[:_SHOWN] + "...") + "'"


def parse_label(token: bytes) -> float | str:
    """Parse a label: a number if it is written like one, else a class name (``007``).

    Parameters
    ----------
    token : bytes
        First token of a line.

    Returns
    -------
    float or str

    Raises
    ------
    ValueError
        With the second half of a message, if this is not a label.
    """
    value = finite_number(token)
    if value is not None:
        text = token.decode()
        return value if are_numbers([text]) else text
    if NUMBER.fullmatch(token) or _NOT_FINITE.fullmatch(token):
        raise ValueError(f"label {show(token)} is not a finite number; remove this sample or give it a label")
    if b":" in token:
        raise ValueError(
            f"label missing: the line begins with {show(token)}; {_EXPECTED}, with any number as label if it is "
            "unknown"
        )
    if b"," in token:
        raise ValueError(f"label {show(token)}: multi-label rows need data.task = multilabel")
    try:
        text = token.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if not text.isprintable():
        raise ValueError(f"label {show(token)} is not text: the file looks binary; {_EXPECTED}")
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"label {show(token)} {TOO_LONG.format(len(text))}")
    return text


def parse_label_set(token: bytes) -> str:
    """Parse several labels, as in ``1,5,7``.

    Parameters
    ----------
    token : bytes
        First token of a line; empty if the line begins with a blank.

    Returns
    -------
    str
        Labels separated by commas, each as :func:`parse_label` reads it.

    Raises
    ------
    ValueError
        With the second half of a message, if a label is empty, repeated or invalid.
    """
    if not token:
        return ""
    if b":" in token:
        raise ValueError(f"label missing: the line begins with {show(token)}; a row without labels begins with a blank")
    return ",".join(split_labels(",".join(label_text(parse_label(part)) for part in token.split(b","))))


def foreign_line(line: bytes) -> str | None:
    """Return what a line looks like if it is certainly not LIBSVM, else None."""
    if is_html(line):
        return "HTML (a web page instead of the data?)"
    if b"\0" in line:
        return "binary data"
    if b":" not in line and line.count(b",") + line.count(b";") > 1:
        return "CSV; read it with format = csv"
    return None


def parse_regular(block: bytes, rules: Rules, start: int, stop: int) -> Rows | None:
    """Parse whole lines whose labels are numbers and which hold neither comments nor ``qid:``.

    Parameters
    ----------
    block : bytes
        Lines, each with its newline.
    rules : Rules
        Rules for the content.
    start, stop : int
        Range of features to keep, counted from 0.

    Returns
    -------
    Rows or None
        None if lines must be parsed one by one, because something is wrong or just unusual.
    """
    if not _REGULAR.fullmatch(block):
        block = _BLANK_LINE.sub(b"", block)
        if not _REGULAR.fullmatch(block):
            return None
    # rounds as float() does; the pattern lets only numbers through
    numbers = np.fromstring(block.translate(_COLON_TO_BLANK), sep=" ")
    if not np.isfinite(numbers).all():
        return None
    text = np.frombuffer(block, dtype=np.uint8)
    bounds = np.searchsorted(np.flatnonzero(text == ord(":")), np.flatnonzero(text == ord("\n")))
    bounds = np.concatenate(([0], bounds))
    # the order is label, index, value, index, value, ...; i labels and bounds[i] pairs precede line i
    at_label = np.arange(len(bounds) - 1) + 2 * bounds[:-1]
    pairs = np.delete(numbers, at_label).reshape(-1, 2)
    features = pairs[:, 0].astype(np.int64) - rules.first_index
    extra = features >= rules.limit
    n_extra = int(np.count_nonzero(extra))
    if not _in_order(features, bounds, rules) or (n_extra and not rules.ignore_extra):
        return None
    kept = (features >= start) & (features < stop) & ~extra
    lengths = np.diff(np.concatenate(([0], np.cumsum(kept)))[bounds])
    n_features = int(features.max(initial=-1)) + 1
    indices = (features[kept] - start).astype(np.int32)
    return Rows(numbers[at_label], lengths, indices, pairs[kept, 1], len(features) - n_extra, n_features, n_extra)


def _in_order(features: NDArray[np.int64], bounds: NDArray[np.intp], rules: Rules) -> bool:
    """Whether features are allowed and increase within each row, whose bounds are given."""
    rising = features[1:] > features[:-1]
    starts = bounds[(bounds > 0) & (bounds < len(features))]
    rising[starts - 1] = True
    largest = int(features.max(initial=-1)) + rules.first_index
    return bool(rising.all()) and int(features.min(initial=0)) >= 0 and largest <= rules.last_index


class LineParser:
    """Parser of single lines that reports errors precisely.

    Parameters
    ----------
    rules : Rules
        Rules for the content.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules

    def parse_block(self, block: bytes, first_line: int, start: int, stop: int) -> Rows:
        """Parse whole lines.

        Parameters
        ----------
        block : bytes
            Lines as in the file.
        first_line : int
            Number of the first line in the file, from 1.
        start, stop : int
            Range of features to keep, counted from 0.

        Returns
        -------
        Rows
        """
        labels: list[float | str] = []
        lengths: list[int] = []
        kept: list[tuple[int, float]] = []
        n_stored = n_features = n_extra = 0
        stop = min(stop, self.rules.limit)
        for i_line, line in enumerate(block.split(b"\n"), first_line):
            parsed = self.parse_line(line, i_line)
            if parsed is None:
                continue
            label, pairs = parsed
            n_below = sum(feature < self.rules.limit for feature, _ in pairs)
            n_stored += n_below
            n_extra += len(pairs) - n_below
            n_features = max(n_features, pairs[-1][0] + 1 if pairs else 0)
            own = [(feature - start, value) for feature, value in pairs if start <= feature < stop]
            labels.append(label)
            lengths.append(len(own))
            kept += own
        indices, values = np.array([i for i, _ in kept], np.int32), np.array([x for _, x in kept], np.float64)
        return Rows(labels, np.array(lengths, np.int64), indices, values, n_stored, n_features, n_extra)

    def parse_line(self, line: bytes, i_line: int) -> tuple[float | str, list[tuple[int, float]]] | None:
        """Parse one line.

        Parameters
        ----------
        line : bytes
            Line without its newline.
        i_line : int
            Its number in the file, from 1.

        Returns
        -------
        label : float or str
        pairs : list of (int, float)
            Features counted from 0, increasing, and their values.

        Raises
        ------
        DataError
            If the line is invalid. For a line without a sample the result is None.
        """
        content = line.partition(b"#")[0]
        # one at a time: the first of millions on a line may be wrong
        tokens = re.finditer(_TOKEN, content)
        first = next(tokens, None)
        if first is None:
            return None
        where = f"{self.rules.name}:{i_line}"
        if (foreign := foreign_line(content)) and not self.rules.multilabel:
            raise DataError(f"{where}: looks like {foreign}; {_EXPECTED}")
        label: float | str
        try:
            if not self.rules.multilabel:
                label = parse_label(first[0])
            elif first.start():
                label, tokens = "", re.finditer(_TOKEN, content)
            else:
                label = parse_label_set(first[0])
        except ValueError as error:
            raise DataError(f"{where}: {error}") from None
        pairs = [
            self._parse_pair(token[0], f"{where}:{token.start() + 1}")
            for i, token in enumerate(tokens) if i or not token[0].startswith(b"qid:")
        ]  # fmt: skip
        if any(b <= a for (a, _), (b, _) in pairwise(pairs)):
            pairs = self._in_order(pairs, where)
        return label, pairs

    def _parse_pair(self, token: bytes, where: str) -> tuple[int, float]:
        """Return feature counted from 0 and value of ``index:value``."""
        index, colon, number = token.partition(b":")
        if not colon:
            raise DataError(f"{where}: expected index:value, got {show(token)}; {_EXPECTED}")
        feature = self._parse_index(index, token, where)
        value = finite_number(number)
        if value is not None:
            return feature, value
        if not number:
            raise DataError(f"{where}: value missing in {show(token)}; leave the feature out where its value is 0")
        if NUMBER.fullmatch(number) or _NOT_FINITE.fullmatch(number):
            raise DataError(
                f"{where}: value {show(number)} of index {index.decode()} is not a finite number; "
                "repair the value or remove the sample"
            )
        raise DataError(f"{where}: value {show(number)} of index {index.decode()} is not a decimal number")

    def _parse_index(self, index: bytes, token: bytes, where: str) -> int:
        """Return feature counted from 0."""
        rules = self.rules
        if not index:
            raise DataError(f"{where}: index missing in {show(token)}; {_EXPECTED}")
        if not _INDEX.fullmatch(index):
            raise DataError(f"{where}: index {show(index)} is not a whole number of at least {rules.first_index}")
        # Python refuses to convert thousands of digits, including leading zeros
        digits = index.lstrip(b"0")
        number = int(digits or b"0") if len(digits) <= 19 else 10**19
        if number < rules.first_index:
            raise DataError(
                f"{where}: index 0, but indices start at 1; use --set data.zero_based=true if this file counts "
                "its features from 0"
            )
        if number > rules.last_index:
            raise DataError(f"{where}: index {show(index)[1:-1]} is above the largest possible, {rules.last_index}")
        feature = number - rules.first_index
        if feature >= rules.limit and not rules.ignore_extra:
            raise DataError(
                f"{where}: index {number} is beyond the {rules.n_features} features expected; "
                "raise data.n_features, or leave it out"
            )
        return feature

    def _in_order(self, pairs: list[tuple[int, float]], where: str) -> list[tuple[int, float]]:
        """Return pairs sorted by feature, if the rules allow sorting."""
        rules = self.rules
        if rules.sort_indices:
            pairs = sorted(pairs)
        features = [feature + rules.first_index for feature, _ in pairs]
        for a, b in pairwise(features):
            if a == b:
                raise DataError(f"{where}: index {b} appears twice; a feature has one value in a sample")
            if a > b:
                raise DataError(
                    f"{where}: index {b} after {a}: indices must increase; use --set data.sort_indices=true to put "
                    "them in order"
                )
        return pairs
