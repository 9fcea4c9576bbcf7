r"""Decimal numbers to float64, rounded exactly as ``float(token)`` rounds them.

A token of at most 19 significant digits is an integer m < 10^19 times a power of ten,

.. math:: x = m \, 10^k, \qquad |k| \le 22

For m <= 2^53 both m and 10^|k| are doubles, and one division or product rounds correctly (Clinger, 1990).
Beyond, m = h + l with doubles h, l; the quotient or product is formed with its rounding error (Dekker, 1971),
and is taken when no error within a generous bound could change the last bit. What remains open goes to
``float``.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUMBER = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
POWERS_OF_TEN = np.array([float(f"1e{k}") for k in range(23)])
MAX_DIGITS = 19
MAX_POWER = 22
_EXACT_DIGITS = 15
EXACT_INTEGER = 1 << 53

_SPLIT = float((1 << 27) + 1)
_DOUBT = 2.0**-45
_INTEGER_POWERS = np.array([10**k for k in range(20)], dtype=np.uint64)


def two_product(a: Any, b: Any) -> Any:
    """Return product of two doubles and its rounding error, exactly; scalars or arrays."""
    product = a * b
    scaled = _SPLIT * a
    a_high = scaled - (scaled - a)
    a_low = a - a_high
    scaled = _SPLIT * b
    b_high = scaled - (scaled - b)
    b_low = b - b_high
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return product, error


def divided(high: Any, low: Any, power: Any) -> Any:
    """Return correctly rounded (high + low) / power, and whether that is certain; scalars or arrays."""
    quotient = high / power
    product, error = two_product(quotient, power)
    remainder = high - product
    correction = ((remainder - error) + low) / power
    doubt = _DOUBT * (abs(remainder) + abs(error) + abs(low)) / power
    return quotient + correction, quotient + (correction - doubt) == quotient + (correction + doubt)


def multiplied(high: Any, low: Any, power: Any) -> Any:
    """Return correctly rounded (high + low) * power, and whether that is certain; scalars or arrays."""
    product, error = two_product(high, power)
    rest = low * power
    correction = error + rest
    doubt = _DOUBT * (abs(error) + abs(rest))
    return product + correction, product + (correction - doubt) == product + (correction + doubt)


def finite_number(token: bytes) -> float | None:
    """Value of a token that is a finite decimal number; None for others, ``nan`` and ``1e999`` included.

    Parameters
    ----------
    token : bytes
        Without blanks around it.

    Returns
    -------
    float or None
    """
    if not NUMBER.fullmatch(token):
        return None
    value = float(token)
    return value if abs(value) != float("inf") else None


def digits_value(text: NDArray[np.uint8], start: NDArray[np.int64], length: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Integers that runs of digits spell, eight digits at a time in one 64-bit word.

    Parameters
    ----------
    text : ndarray of uint8
        At least 8 bytes longer than the last run's start.
    start, length : ndarray of int64 of shape (n,)
        Where each run of ASCII digits lies; length 0 gives 0, more than 19 gives nonsense.

    Returns
    -------
    ndarray of uint64 of shape (n,)
    """
    longest = int(length.max(initial=0))
    if longest <= 4:
        word = _words(text, start, length, "<u4")
        word &= np.uint32(0x0F0F0F0F)
        word *= np.uint32(2561)
        word >>= np.uint32(8)
        word &= np.uint32(0x00FF00FF)
        word *= np.uint32(6553601)
        word >>= np.uint32(16)
        return word.astype(np.uint64)
    short = length if longest <= 8 else np.minimum(length, 8)
    word = _words(text, start + (length - short), short, "<u8")
    word &= np.uint64(0x0F0F0F0F0F0F0F0F)
    word *= np.uint64(2561)
    word >>= np.uint64(8)
    word &= np.uint64(0x00FF00FF00FF00FF)
    word *= np.uint64(6553601)
    word >>= np.uint64(16)
    word &= np.uint64(0x0000FFFF0000FFFF)
    word *= np.uint64(42949672960001)
    word >>= np.uint64(32)
    if longest > 8:
        (longer,) = np.nonzero(length > 8)
        head = digits_value(text, start[longer], length[longer] - 8)
        word[longer] += head * np.uint64(10**8)
    return word


def _words(text: NDArray[np.uint8], start: NDArray[np.int64], length: NDArray[np.int64], dtype: str) -> NDArray[Any]:
    """Return digits as little-endian words, the last digit in the highest byte, zeros in the lowest."""
    size = np.dtype(dtype).itemsize
    windows = np.lib.stride_tricks.as_strided(text[:8].view(dtype), (len(text) - 7,), (1,))
    shift = (size * 8 - 8 * length).astype(dtype)
    # a shift by the whole word gives 0 in numpy
    words: NDArray[Any] = np.left_shift(windows[start], shift)
    return words


def join_parts(
    whole: NDArray[np.uint64],
    n_whole: NDArray[np.int64],
    fraction: NDArray[np.uint64],
    n_fraction: NDArray[np.int64],
    exponent: NDArray[np.int64] | None,
) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None]:
    """Absolute values of numbers from their whole part, fraction and exponent.

    Parameters
    ----------
    whole, fraction : ndarray of uint64 of shape (n,)
        Digits before and behind the point, as integers.
    n_whole, n_fraction : ndarray of int64 of shape (n,)
        How many digits these have, leading zeros included.
    exponent : ndarray of int64 of shape (n,), or None
        Power of ten behind ``e``, 0 without one; None where no number has one.

    Returns
    -------
    values : ndarray of float64 of shape (n,)
    certain : ndarray of bool of shape (n,), or None
        False where the value must be computed by ``float``; None where it need not be anywhere.
    """
    digits = n_whole + n_fraction
    few = int(digits.max(initial=0)) <= _EXACT_DIGITS
    mantissa = whole * _INTEGER_POWERS.take(n_fraction, mode="clip")
    mantissa += fraction
    values = mantissa.astype(np.float64)
    if few and exponent is None:
        values /= POWERS_OF_TEN.take(n_fraction)
        return values, None
    power = -n_fraction if exponent is None else exponent - n_fraction
    size = np.abs(power)
    certain = size <= MAX_POWER
    scale = POWERS_OF_TEN.take(size, mode="clip")
    np.divide(values, scale, out=values, where=power < 0)
    np.multiply(values, scale, out=values, where=power > 0)
    if not few:
        certain &= (digits <= MAX_DIGITS) | ((whole == 0) & (n_fraction <= MAX_DIGITS) & (n_whole <= MAX_DIGITS))
        (wide,) = np.nonzero(certain & (mantissa > EXACT_INTEGER))
        if wide.size:
            values[wide], certain[wide] = _wide_values(mantissa[wide], power[wide], scale[wide])
    return values, certain


def _wide_values(
    mantissa: NDArray[np.uint64], power: NDArray[np.int64], scale: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return values whose mantissa does not fit a double."""
    high = mantissa.astype(np.float64)
    low = (mantissa - high.astype(np.uint64)).view(np.int64).astype(np.float64)
    down, certain_down = divided(high, low, scale)
    up, certain_up = multiplied(high, low, scale)
    return np.where(power < 0, down, up), np.where(power < 0, certain_down, certain_up)
