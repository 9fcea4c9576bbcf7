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

NUMBER = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
POWERS_OF_TEN = np.array([float(f"1e{k}") for k in range(23)])
MAX_DIGITS = 19
MAX_POWER = 22
EXACT_INTEGER = 1 << 53

_SPLIT = float((1 << 27) + 1)


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
