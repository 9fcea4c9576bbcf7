"""Preconditioners by name."""

from __future__ import annotations

from collections.abc import Callable

from distnewton.directions.diagonal import Diagonal
from distnewton.directions.kfac import KroneckerFactors
from distnewton.directions.mini_block_fisher import MiniBlockFisher
from distnewton.directions.preconditioner import FactorOptions, Preconditioner

PRECONDITIONERS: dict[str, Callable[[FactorOptions], Preconditioner]] = {
    "diagonal": Diagonal,
    "kfac": KroneckerFactors,
    "mini_block_fisher": MiniBlockFisher,
}
