r"""Conversion of decimal numbers to float64, rounded exactly as by ``float(token)``.

A token of at most 19 significant digits is an integer m < 10^19 times a power of ten,

.. math:: x = m \, 10^k, \qquad |k| \le 22

For m <= 2^53 both m and 10^|k| are doubles, and one division or product rounds correctly (Clinger, 1990).
For larger m, m = h + l with doubles h, l; the quotient or product is computed with its rounding error (Dekker, 1971),
and accepted if no error within a generous bound could change the last bit. All other cases go to ``float``.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

DECIMAL_COMMA = re.compile(r"[+-]?[0-9]*,[0-9]*")
NUMBER = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
POWERS_OF_TEN = np.array([float(f"1e{k}") for k in range(23)])
MAX_DIGITS = 19
MAX_POWER = 22
EXACT_INTEGER = 1 << 53

_SPLIT = float((1 << 27) + 1)


def two_product(a: Any, b: Any) -> Any:
    """Return the product of two doubles (scalars or arrays) and its exact rounding error."""
    product = a * b
    scaled = _SPLIT * a
    a_high = scaled - (scaled - a)
    a_low = a - a_high
    scaled = _SPLIT * b
    b_high = scaled - (scaled - b)
    b_low = b - b_high
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return product, error


def finite_number(token: bytes) -> float | None:
    """Convert a token that is a finite decimal number; None for others, including ``nan`` and ``1e999``.

    Parameters
    ----------
    token : bytes
        Token without surrounding blanks.

    Returns
    -------
    float or None
    """
    if not NUMBER.fullmatch(token):
        return None
    value = float(token)
    return value if abs(value) != float("inf") else None
