"""Directions and preconditioners by name."""

from __future__ import annotations

from distnewton.directions.direction import Direction
from distnewton.directions.preconditioner import Preconditioner
from distnewton.registry import Registry

DIRECTIONS: Registry[type[Direction]] = Registry(
    "direction",
    Direction,
    {
        "block_diagonal": "distnewton.directions.block_diagonal:BlockDiagonal",
        "gauss_newton": "distnewton.directions.gauss_newton:GaussNewton",
        "dual": "distnewton.directions.dual:Dual",
        "block_dual": "distnewton.directions.dual:BlockDual",
        "sgn": "distnewton.directions.sgn:StochasticGaussNewton",
        "kfac": "distnewton.directions.kfac:KFAC",
        "mini_block_fisher": "distnewton.directions.mini_block_fisher:MiniBlockFisherGradient",
        "grouped_newton": "distnewton.directions.grouped_newton:GroupedNewton",
        "sgd": "distnewton.directions.first_order:SteepestDescent",
        "adam": "distnewton.directions.first_order:Adam",
    },
    "distnewton.directions",
)
PRECONDITIONERS: Registry[type[Preconditioner]] = Registry(
    "preconditioner",
    Preconditioner,
    {
        "diagonal": "distnewton.directions.diagonal:Diagonal",
        "kfac": "distnewton.directions.kfac:KroneckerFactors",
        "mini_block_fisher": "distnewton.directions.mini_block_fisher:MiniBlockFisher",
    },
    "distnewton.preconditioners",
)
