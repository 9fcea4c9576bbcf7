"""Parse LIBSVM blocks in one compiled pass over the bytes; the line parser handles anything unusual.

Imported only when numba is wanted: compiling takes seconds, and loading the compiled code from its cache less than one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

import numba
import numpy as np
from numpy.typing import NDArray

from distnewton.data.formats import numbers
from distnewton.data.formats.libsvm_lines import Rows, Rules
from distnewton.data.formats.numbers import EXACT_INTEGER, MAX_DIGITS, MAX_POWER, POWERS_OF_TEN, finite_number

_ZERO, _NINE, _MINUS, _PLUS, _POINT, _COLON, _NEWLINE, _BLANK = (ord(c) for c in "09-+.:\n ")
_TAB, _RETURN = ord("\t"), ord("\r")
_LOWER_E, _UPPER_E = ord("e"), ord("E")
_WRONG, _EXACT, _OPEN = 0, 1, 2  # verdicts on a token: not a number, converted, to be converted by `float`
_MAX_INDEX_DIGITS = 10
_MAX_EXPONENT = 9999
_SCRATCH_STEP = 1 << 18


_njit: Any = numba.njit


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function with numba; cache the code on disk if a cache folder is writable."""
    try:
        return _njit(cache=True)(function)
    except RuntimeError:
        return _njit(function)


two_product = _njit(numbers.two_product)


def _is_blank(c: int) -> bool:
    """Whether a byte separates tokens of a line."""
    return c == _BLANK or (_TAB <= c <= _RETURN and c != _NEWLINE)


is_blank = _njit(_is_blank)


def _scaled(mantissa: int, power: int) -> tuple[float, bool]:
    """Return ``mantissa * 10**power`` correctly rounded, and whether that is certain (see numbers.py)."""
    scale = POWERS_OF_TEN[abs(power)]
    high = float(mantissa)
    if mantissa <= np.uint64(EXACT_INTEGER):
        return (high / scale if power < 0 else high * scale), True
    low = float(np.int64(mantissa - np.uint64(high)))
    if power < 0:
        value = high / scale
        product, error = two_product(value, scale)
        rest = high - product
        correction = ((rest - error) + low) / scale
        doubt = (abs(rest) + abs(error) + abs(low)) / scale
    else:
        value, error = two_product(high, scale)
        rest = low * scale
        correction = error + rest
        doubt = abs(error) + abs(rest)
    doubt *= 2.0**-45
    return value + correction, value + (correction - doubt) == value + (correction + doubt)


scaled = _njit(_scaled)


def _number(text: NDArray[np.uint8], i: int) -> tuple[int, float, int]:
    """Return verdict, value and end of the number at byte ``i``, which should end at a blank or newline."""
    negative = text[i] == _MINUS
    if negative or text[i] == _PLUS:
        i += 1
    mantissa = np.uint64(0)
    begin = i
    while _ZERO <= text[i] <= _NINE:
        mantissa = mantissa * np.uint64(10) + np.uint64(text[i] - _ZERO)
        i += 1
    n_digits, n_fraction = i - begin, 0
    if text[i] == _POINT:
        i += 1
        point = i
        while _ZERO <= text[i] <= _NINE:
            mantissa = mantissa * np.uint64(10) + np.uint64(text[i] - _ZERO)
            i += 1
        n_fraction = i - point
        n_digits += n_fraction
    if n_digits == 0:
        return _WRONG, 0.0, i
    if n_digits > MAX_DIGITS:
        while text[begin] == _ZERO or text[begin] == _POINT:
            n_digits -= text[begin] == _ZERO
            begin += 1
    power = 0
    if text[i] == _LOWER_E or text[i] == _UPPER_E:
        i += 1
        negative_power = text[i] == _MINUS
        if negative_power or text[i] == _PLUS:
            i += 1
        first = i
        while _ZERO <= text[i] <= _NINE:
            power = min(power * 10 + (text[i] - _ZERO), _MAX_EXPONENT)
            i += 1
        if i == first:
            return _WRONG, 0.0, i
        power = -power if negative_power else power
    if not (is_blank(text[i]) or text[i] == _NEWLINE):
        return _WRONG, 0.0, i
    power -= n_fraction
    if n_digits > MAX_DIGITS or abs(power) > MAX_POWER:
        return _OPEN, 0.0, i
    value, certain = scaled(mantissa, power)
    return (_EXACT if certain else _OPEN), (-value if negative else value), i


number = _njit(_number)


def _scan(
    text: NDArray[np.uint8],
    first_index: int,
    last_index: int,
    limit: int,
    ignore_extra: bool,
    start: int,
    stop: int,
    labels: NDArray[np.float64],
    lengths: NDArray[np.int64],
    indices: NDArray[np.int32],
    values: NDArray[np.float64],
    open_numbers: NDArray[np.int32],
) -> tuple[bool, int, int, int, int, int, int]:
    """Fill the arrays; return verdict and the counts of rows, kept, open, stored, features, extra."""
    n_rows = n_kept = n_open = n_stored = n_features = n_extra = 0
    bad = (False, 0, 0, 0, 0, 0, 0)
    i, n = 0, len(text)
    while i < n:
        if text[i] == _NEWLINE or is_blank(text[i]):
            i += 1
            continue
        begin = i
        verdict, value, i = number(text, i)
        if verdict == _WRONG:
            return bad
        if verdict == _OPEN:
            open_numbers[n_open] = (-1 - n_rows, begin, i)
            n_open += 1
        labels[n_rows] = value
        previous = -1
        row_begin = n_kept
        while True:
            while is_blank(text[i]):
                i += 1
            if text[i] == _NEWLINE:
                break
            begin = i
            index = 0
            while _ZERO <= text[i] <= _NINE:
                index = index * 10 + (text[i] - _ZERO)
                i += 1
            if text[i] != _COLON or i == begin or i - begin > _MAX_INDEX_DIGITS:
                return bad
            feature = index - first_index
            if index > last_index or feature <= previous:
                return bad
            previous = feature
            begin = i + 1
            verdict, value, i = number(text, begin)
            if verdict == _WRONG:
                return bad
            if feature >= limit:
                if not ignore_extra:
                    return bad
                n_extra += 1
                continue
            n_stored += 1
            if start <= feature < stop:
                if verdict == _OPEN:
                    open_numbers[n_open] = (n_kept, begin, i)
                    n_open += 1
                indices[n_kept] = feature - start
                values[n_kept] = value
                n_kept += 1
        n_features = max(n_features, previous + 1)
        lengths[n_rows] = n_kept - row_begin
        n_rows += 1
    return True, n_rows, n_kept, n_open, n_stored, n_features, n_extra


_scan_compiled = compiled(_scan)


@lru_cache(maxsize=1)
def _scratch(n_bytes: int) -> tuple[NDArray[Any], ...]:
    """Return arrays that any block of this size fits in: labels, lengths, indices, values, open numbers."""
    n_rows, n_values = n_bytes // 2 + 1, n_bytes // 4 + 1  # "1\n" and " 1:1"
    return (
        np.empty(n_rows),
        np.empty(n_rows, dtype=np.int64),
        np.empty(n_values, dtype=np.int32),
        np.empty(n_values),
        np.empty((n_rows, 3), dtype=np.int32),
    )


def parse_block(block: bytes, rules: Rules, start: int, stop: int) -> Rows | None:
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
        None if the line parser must take over, because something is wrong or just unusual.
    """
    scratch = _scratch((len(block) // _SCRATCH_STEP + 1) * _SCRATCH_STEP)
    labels, lengths, indices, values, open_numbers = scratch
    fine, n_rows, n_kept, n_open, n_stored, n_features, n_extra = cast(
        "tuple[bool, int, int, int, int, int, int]",
        _scan_compiled(
            np.frombuffer(block, dtype=np.uint8),
            rules.first_index, rules.last_index, rules.limit, rules.ignore_extra, start, stop,
            *scratch,
        ),
    )  # fmt: skip
    if not fine:
        return None
    for i, begin, end in open_numbers[:n_open].tolist():
        value = finite_number(block[begin:end])
        if value is None:
            return None
        if i < 0:
            labels[-1 - i] = value
        else:
            values[i] = value
    return Rows(
        labels[:n_rows].copy(),
        lengths[:n_rows].copy(),
        indices[:n_kept].copy(),
        values[:n_kept].copy(),
        n_stored,
        n_features,
        n_extra,
    )
