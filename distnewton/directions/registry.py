"""Directions and preconditioners by name."""

from __future__ import annotations

from distnewton.directions.block_diagonal import BlockDiagonal
from distnewton.directions.diagonal import Diagonal
from distnewton.directions.direction import Direction
from distnewton.directions.dual import BlockDual, Dual
from distnewton.directions.first_order import Adam, SteepestDescent
from distnewton.directions.gauss_newton import GaussNewton
from distnewton.directions.grouped_newton import GroupedNewton
from distnewton.directions.kfac import KFAC, KroneckerFactors
from distnewton.directions.mini_block_fisher import MiniBlockFisher, MiniBlockFisherGradient
from distnewton.directions.preconditioner import Preconditioner
from distnewton.directions.sgn import StochasticGaussNewton
from distnewton.registry import Registry

DIRECTIONS: Registry[type[Direction]] = Registry(
    "direction",
    Direction,
    (
        BlockDiagonal, GaussNewton, Dual, BlockDual, StochasticGaussNewton,
        KFAC, MiniBlockFisherGradient, GroupedNewton, SteepestDescent, Adam,
    ),
    "distnewton.directions",
)  # fmt: skip
PRECONDITIONERS: Registry[type[Preconditioner]] = Registry(
    "preconditioner", Preconditioner, (Diagonal, KroneckerFactors, MiniBlockFisher), "distnewton.preconditioners"
)
