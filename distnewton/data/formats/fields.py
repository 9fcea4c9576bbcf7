"""Blocks of delimited numbers, cut into fields and converted with whole-array operations.

The text is cut at *separators* of five kinds. Which kinds may follow each other, with or without text between
them, is a table of each format; a block that breaks the table is left to that format's line parser.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distnewton.data.formats.numbers import MAX_POWER, digits_value, finite_number, join_parts

BLANK, NEWLINE, DELIMITER, POINT, EXPONENT = range(5)
_DIGIT, _SIGN, _OTHER = 5, 6, 7
_PADDING = b"0" * 8


def byte_classes(delimiter: bytes, blanks: bytes = b"") -> bytes:
    """Class of every byte value.

    Parameters
    ----------
    delimiter : bytes
        The one byte of kind ``DELIMITER``.
    blanks : bytes
        All bytes of kind ``BLANK``.

    Returns
    -------
    bytes of length 256
        For ``bytes.translate``.
    """
    classes = bytearray([_OTHER] * 256)
    kinds = (b"0123456789", _DIGIT), (b"+-", _SIGN), (b".", POINT), (b"eE", EXPONENT), (b"\n", NEWLINE)
    for members, kind in (*kinds, (blanks, BLANK), (delimiter, DELIMITER)):
        for member in members:
            classes[member] = kind
    return bytes(classes)


def neighbour_table(filled: list[tuple[int, int]], empty: list[tuple[int, int]]) -> bytes:
    """Which separators may be neighbours.

    Parameters
    ----------
    filled, empty : list of (int, int)
        Allowed kinds to the left and right of a field with text, and of one without.

    Returns
    -------
    bytes
        Codes ``is_empty * 32 + left * 5 + right`` of the allowed pairs.
    """
    return bytes(
        is_empty * 32 + left * 5 + right for is_empty, pairs in enumerate((filled, empty)) for left, right in pairs
    )


@dataclass(frozen=True)
class Fields:
    """Separators of a block of text.

    Attributes
    ----------
    text : ndarray of uint8
        A newline, the block, and padding.
    positions : ndarray of int64 of shape (n_separators,)
        Where the separators stand in the text, ascending; the first is the newline in front of the block.
    kinds : ndarray of uint8 of shape (n_separators,)
        Of the separators.
    """

    text: NDArray[np.uint8]
    positions: NDArray[np.int64]
    kinds: NDArray[np.uint8]

    def lengths(self) -> NDArray[np.int64]:
        """Return number of bytes between each separator and the next, (n_separators - 1,)."""
        return np.diff(self.positions) - 1


def cut(block: bytes, classes: bytes, allowed: bytes) -> Fields | None:
    """Cut a block into fields.

    Parameters
    ----------
    block : bytes
        Whole lines, with the last newline.
    classes : bytes
        From :func:`byte_classes`.
    allowed : bytes
        From :func:`neighbour_table`.

    Returns
    -------
    Fields or None
        None where a byte, a sign or a pair of separators does not belong where it stands.
    """
    padded = b"".join((b"\n", block, _PADDING))
    text = np.frombuffer(padded, dtype=np.uint8)
    classed = np.frombuffer(padded.translate(classes), dtype=np.uint8)[: len(block) + 1]
    if classed.max() == _OTHER:
        return None
    positions = np.flatnonzero(classed <= EXPONENT)
    kinds = classed[positions]
    before_sign = classed[np.flatnonzero(classed == _SIGN) - 1]
    signs_ok = (before_sign == DELIMITER) | (before_sign == NEWLINE) | (before_sign == EXPONENT)
    code = kinds[:-1] * np.uint8(5)
    code += kinds[1:]
    code += ((positions[1:] - positions[:-1]) == 1).view(np.uint8) << np.uint8(5)
    if not signs_ok.all() or code.tobytes().translate(None, allowed):
        return None
    return Fields(text, positions, kinds)


def numbers_at(fields: Fields, opens: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Values of the numbers that begin behind the given separators.

    Parameters
    ----------
    fields : Fields
        A block that agrees with its table.
    opens : ndarray of int64 of shape (n,)
        Indices of separators with a number behind them.

    Returns
    -------
    ndarray of float64 of shape (n,) or None
        None where a number has no digits or is too large.
    """
    text, positions, kinds = fields.text, fields.positions, fields.kinds
    first = positions[opens] + 1
    negative = text[first] == ord("-")
    start = first + (negative | (text[first] == ord("+")))
    close = opens + 1
    n_whole = positions[close] - start
    whole = digits_value(text, start, n_whole)

    fraction = np.zeros(len(opens), dtype=np.uint64)
    n_fraction = np.zeros(len(opens), dtype=np.int64)
    (at,) = np.nonzero(kinds[close] == POINT)
    if at.size:
        point = positions[close[at]] + 1
        close[at] += 1
        n_fraction[at] = positions[close[at]] - point
        fraction[at] = digits_value(text, point, n_fraction[at])

    exponent = None
    (at,) = np.nonzero(kinds[close] == EXPONENT)
    if at.size:
        power = _exponents(fields, close[at])
        if power is None:
            return None
        exponent = np.zeros(len(opens), dtype=np.int64)
        exponent[at] = power
        close[at] += 1

    if not (n_whole + n_fraction).all():
        return None
    values, certain = join_parts(whole, n_whole, fraction, n_fraction, exponent)
    np.negative(values, out=values, where=negative)
    return values if certain is None else _settle(fields, values, certain, first, positions[close])


def _exponents(fields: Fields, opens: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Return powers of ten behind ``e``; five digits and more become one that is never certain."""
    first = fields.positions[opens] + 1
    negative = fields.text[first] == ord("-")
    start = first + (negative | (fields.text[first] == ord("+")))
    n_digits = fields.positions[opens + 1] - start
    if (n_digits == 0).any():
        return None
    size = digits_value(fields.text, start, np.minimum(n_digits, 4)).astype(np.int64)
    size[n_digits > 4] = 100 * MAX_POWER
    return np.where(negative, -size, size)


def _settle(
    fields: Fields,
    values: NDArray[np.float64],
    certain: NDArray[np.bool_],
    first: NDArray[np.int64],
    end: NDArray[np.int64],
) -> NDArray[np.float64] | None:
    """Convert with ``float`` what arithmetic could not decide."""
    for i in np.flatnonzero(~certain):
        value = finite_number(fields.text[first[i] : end[i]].tobytes())
        if value is None:
            return None
        values[i] = value
    return values
