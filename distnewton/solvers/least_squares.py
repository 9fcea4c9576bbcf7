"""Whether a damped least-squares problem is solved for its variables, by QR, and the memory for that."""

from __future__ import annotations

MOST_VARIABLES = 2048
"""Largest number of variables of a system that every rank factorises."""
MOST_NUMBERS = 1 << 24
"""Largest size of J, which every rank holds twice during the factorisation: 256 MB, the same on every grid."""


def solves_for_variables(n_rows: int, n_params: int) -> bool:
    """Whether there are no more variables than rows, and few enough for every rank."""
    return n_params <= min(n_rows, MOST_VARIABLES) and n_params * n_rows <= MOST_NUMBERS


def variable_system_bytes(n_rows: int, n_params: int) -> float:
    """Bytes that a rank needs for J and the residuals, in float64, during the factorisation."""
    return 16.0 * n_rows * (n_params + 1)
