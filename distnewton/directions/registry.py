"""Directions by name."""

from __future__ import annotations

from collections.abc import Callable

from distnewton.directions.base import Direction, DirectionOptions
from distnewton.directions.block_diagonal import BlockDiagonal
from distnewton.directions.gauss_newton import GaussNewton

DIRECTIONS: dict[str, Callable[[DirectionOptions], Direction]] = {
    "block_diagonal": BlockDiagonal,
    "gauss_newton": GaussNewton,
}
