"""Directions by name, made from the options."""

from __future__ import annotations

from collections.abc import Callable

from distnewton.directions.block_diagonal import BlockDiagonal
from distnewton.directions.direction import Direction, DirectionOptions
from distnewton.directions.dual import Dual
from distnewton.directions.first_order import Adam, SteepestDescent
from distnewton.directions.gauss_newton import GaussNewton
from distnewton.directions.grouped_newton import GroupedNewton, GroupOptions
from distnewton.directions.preconditioned import PreconditionedGradient
from distnewton.directions.preconditioner import FactorOptions, Preconditioner
from distnewton.directions.preconditioner_registry import PRECONDITIONERS

DIRECTIONS: dict[str, Callable[[DirectionOptions], Direction]] = {
    "block_diagonal": lambda o: BlockDiagonal(o, _preconditioner(o.preconditioner, o)),
    "gauss_newton": lambda o: GaussNewton(o, _preconditioner(o.preconditioner, o)),
    "dual": lambda o: Dual(local=False),
    "block_dual": lambda o: Dual(local=True, blocks=o.blocks),
    "kfac": lambda o: PreconditionedGradient(PRECONDITIONERS["kfac"](_factor_options(o))),
    "mini_block_fisher": lambda o: PreconditionedGradient(
        PRECONDITIONERS["mini_block_fisher"](_factor_options(o)), averages_gradient=True
    ),
    "grouped_newton": lambda o: _grouped_newton(o),
    "sgd": lambda o: SteepestDescent(),
    "adam": lambda o: Adam(o.beta1, o.beta2, o.epsilon),
}
"""``sgn`` is not among them: it is one of these on mini-batches."""


def _preconditioner(name: str, options: DirectionOptions) -> Preconditioner | None:
    return None if name == "none" else PRECONDITIONERS[name](_factor_options(options))


def _grouped_newton(options: DirectionOptions) -> Direction:
    """Any other direction, scaled by group; the momentum of plain gradients is part of the proposal, as in [GN3]."""
    return GroupedNewton(
        DIRECTIONS[options.proposal](options),
        GroupOptions(
            options.groups,
            options.internal_damping,
            options.rate_period,
            options.rate_momentum,
            options.negative_rates,
        ),
        averages_gradient=options.proposal == "sgd",
    )


def _factor_options(options: DirectionOptions) -> FactorOptions:
    return FactorOptions(
        options.statistics_decay, options.statistics_period, options.inverse_period, options.mini_blocks
    )
