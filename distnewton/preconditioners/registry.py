"""Preconditioners by name."""

from __future__ import annotations

from collections.abc import Callable

from distnewton.preconditioners.base import FactorOptions, Preconditioner
from distnewton.preconditioners.diagonal import Diagonal
from distnewton.preconditioners.kfac import KroneckerFactors
from distnewton.preconditioners.mini_block_fisher import MiniBlockFisher

PRECONDITIONERS: dict[str, Callable[[FactorOptions], Preconditioner]] = {
    "diagonal": Diagonal,
    "kfac": KroneckerFactors,
    "mini_block_fisher": MiniBlockFisher,
}
