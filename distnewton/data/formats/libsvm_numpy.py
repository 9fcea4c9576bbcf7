"""LIBSVM blocks with whole-array numpy operations; anything unusual is left to the line parser."""

from __future__ import annotations

import numpy as np

from distnewton.data.formats.fields import (
    BLANK,
    DELIMITER,
    EXPONENT,
    NEWLINE,
    POINT,
    Fields,
    byte_classes,
    cut,
    neighbour_table,
    numbers_at,
)
from distnewton.data.formats.libsvm_lines import Rows, Rules
from distnewton.data.formats.numbers import digits_value

_CLASSES = byte_classes(b":", b" \t\r\f\v")
_AFTER_NUMBER = (BLANK, NEWLINE)
_TABLE = neighbour_table(
    filled=[
        (BLANK, DELIMITER),  # an index
        *((left, right) for left in (DELIMITER, NEWLINE) for right in (*_AFTER_NUMBER, POINT, EXPONENT)),
        *((POINT, right) for right in (*_AFTER_NUMBER, EXPONENT)),
        *((EXPONENT, right) for right in _AFTER_NUMBER),
    ],
    # blanks in front of a label are left to the line parser: (BLANK, DELIMITER) would take it for an index
    empty=[
        (BLANK, BLANK),
        (BLANK, NEWLINE),
        (NEWLINE, NEWLINE),
        (DELIMITER, POINT),
        (NEWLINE, POINT),
        *((POINT, right) for right in (*_AFTER_NUMBER, EXPONENT)),
    ],
)
_MAX_INDEX_DIGITS = 10


def parse_block(block: bytes, rules: Rules, start: int, stop: int) -> Rows | None:
    """Parse whole lines whose labels are numbers and which hold neither comments nor ``qid:``.

    Parameters
    ----------
    block : bytes
        Lines, each with its newline.
    rules : Rules
        What is allowed.
    start, stop : int
        Range of features to keep, counted from 0.

    Returns
    -------
    Rows or None
        None where the line parser must look: something is wrong, or merely rare.
    """
    fields = cut(block, _CLASSES, _TABLE)
    if fields is None:
        return None
    opens = np.flatnonzero(fields.kinds == DELIMITER)
    features = _features(fields, opens, rules)
    # a row begins behind a newline that has text or a leading point behind it
    at_newline = np.flatnonzero(fields.kinds[:-1] == NEWLINE)
    row_opens = at_newline[(fields.positions[at_newline + 1] > fields.positions[at_newline] + 1)
                           | (fields.kinds[at_newline + 1] == POINT)]  # fmt: skip
    labels = numbers_at(fields, row_opens)
    if features is None or labels is None:
        return None
    bounds = np.append(np.searchsorted(opens, row_opens), len(opens))
    if not _increasing(features, bounds):
        return None

    n_extra = int(np.count_nonzero(features >= rules.limit))
    if n_extra and not rules.ignore_extra:
        return None
    n_features = int(features.max()) + 1 if features.size else 0
    kept = (features >= start) & (features < min(stop, rules.limit))
    n_stored = len(features) - n_extra
    if not kept.all():
        bounds = np.concatenate(([0], np.cumsum(kept)))[bounds]
        opens, features = opens[kept], features[kept]
    values = numbers_at(fields, opens)
    if values is None:
        return None
    features -= start
    return Rows(labels, np.diff(bounds), features.astype(np.int32), values, n_stored, n_features, n_extra)


def _features(fields: Fields, opens: np.ndarray, rules: Rules) -> np.ndarray | None:
    """Return features counted from 0 of the indices in front of the given separators."""
    first = fields.positions[opens - 1] + 1
    length = fields.positions[opens] - first
    if length.size and length.max() > _MAX_INDEX_DIGITS:
        return None
    index = digits_value(fields.text, first, length).astype(np.int64)
    if index.size and (index.min() < rules.first_index or index.max() > rules.last_index):
        return None
    index -= rules.first_index
    return index


def _increasing(features: np.ndarray, bounds: np.ndarray) -> bool:
    """Return whether features increase within each row, whose bounds are given."""
    rising = features[1:] > features[:-1]
    starts = bounds[(bounds > 0) & (bounds < len(features))]
    rising[starts - 1] = True
    return bool(rising.all())
