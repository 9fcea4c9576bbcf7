r"""The direction of [DNM]: every rank solves with its own diagonal blocks, without communication.

.. math:: (G_{pp} + \lambda I)\, d_p = -g_p

A rank owns one block p, or several if ``partition.blocks`` says so. Several blocks take their CG steps in turn, so
early termination sees the same as with as many ranks of equal speed.

If the grid has replicas, each solves with its own share of the subsample, still without communication; the step uses
the mean of their directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import ClassVar

from distnewton.backend import Array
from distnewton.curvature.linearization import BlockModel, Linearization
from distnewton.curvature.operators import BlockGaussNewton
from distnewton.directions.cg import CGDirection
from distnewton.directions.direction import Curvature, DirectionResult, Presets, RoleOptions
from distnewton.directions.options import BlockOptions, CGOptions, EarlyTerminationOptions, SketchOptions
from distnewton.network.layout import LogicalBlock
from distnewton.parallel.termination import EarlyTermination
from distnewton.solvers.conjugate_gradient import ConjugateGradient


class BlockDiagonalOptions(CGOptions, SketchOptions, BlockOptions):
    """Options of CG on a rank's own blocks."""


class BlockDiagonal(CGDirection):
    """Local CG on each rank's block, ended early when enough ranks have finished."""

    name = "block_diagonal"
    help = "each rank solves with its own diagonal blocks of G by CG, without communication"
    own_options = BlockDiagonalOptions
    # the ranks of a proposal all finish, since they compute its step sizes together right after;
    # many iterations with few CG steps, few random cotangents and Kronecker factors gain more per second than few
    # iterations with many steps on all outputs, and a first iteration gains more in parts; lambda has a lower bound at
    # which float32 can still invert a factor (docs/guide/directions.md)
    presets: ClassVar[Presets] = {
        **CGDirection.presets,
        "direction": {
            "preconditioner": "kfac", "sketch": 2, "cg_max": 2, "cg_min": 1, "parts": 8, "damping_min": 1e-6
        },
    }  # fmt: skip
    role_options: ClassVar[RoleOptions] = dict.fromkeys(("direction", "solver"), (EarlyTerminationOptions,))
    planned_as = "block_diagonal"
    stops_early = apart = True
    curvature: Curvature = "jacobian"

    def solve(self, problem: Linearization, termination: EarlyTermination) -> DirectionResult:
        """Solve with this rank's blocks; the only messages are those of early termination."""
        if self._preconditioners is not None:
            self._preconditioners.update(problem)
        solvers = [self._solvers(block, model) for block, model in problem.by_block]
        every = list(chain.from_iterable(solvers))
        n_steps = self._iterate(solvers, termination)
        finished = all(cg.finished for cg in every)
        if finished:
            termination.announce()
        direction = problem.backend.zeros(problem.layout.n_params)
        for (block, model), of_block in zip(problem.by_block, solvers, strict=True):
            block.scatter(sum((cg.x for cg in of_block), model.backend.zeros(model.layout.n_params)), direction)
        self._remember(direction)
        return DirectionResult(direction, n_steps, finished, max((cg.relative_residual for cg in every), default=0.0))

    def _iterate(self, solvers: Sequence[Sequence[ConjugateGradient]], termination: EarlyTermination) -> int:
        """Advance all solvers until each, or enough other ranks, have finished; returns the number of steps."""
        n_steps = 0
        while (left := [cg for of_block in solvers for cg in of_block if not cg.finished]):
            for cg in left:
                cg.step()
            n_steps += 1
            n_finished = sum(all(cg.finished for cg in of_block) for of_block in solvers)
            if n_steps >= self.options.cg_min and termination.enough_finished(n_steps, n_finished):
                break
        return n_steps

    def set_mean_direction(self, direction: Array) -> None:
        """Start the next CG from the mean of the replicas' directions."""
        self._remember(direction)

    def _solvers(self, block: LogicalBlock, model: BlockModel) -> list[ConjugateGradient]:
        """CG of a logical block, or one for each of its layers; layers without variables have none."""
        jacobian, options = model.jacobian, self.options
        last = None if self._last is None else block.gather(self._last)
        precondition = None if self._preconditioners is None else self._preconditioners.of(block).restricted
        solvers = []
        for layers in [[m] for m in jacobian.layers] if options.by_layer else [jacobian.layers]:
            if not any(model.layout.blocks[m].n_params for m in layers):
                continue
            matrix = BlockGaussNewton(jacobian, model.loss_hessian, model.shift_matrix, layers)
            solvers.append(
                ConjugateGradient(
                    matrix.matvec,
                    _restrict(model, model.gradient, layers, -1.0),
                    model.backend.dot,
                    tolerance=options.cg_tolerance,
                    max_steps=options.cg_max,
                    min_steps=options.cg_min,
                    precondition=None if precondition is None else precondition(layers),
                    start=None if last is None else _restrict(model, last, layers, options.warm_start),
                    progress=options.cg_progress,
                )
            )
        return solvers


def _restrict(model: BlockModel, v: Array, layers: list[int], factor: float) -> Array:
    """A multiple of a vector in some layers, zero in the others."""
    b = model.backend.zeros(model.layout.n_params)
    for m in layers:
        part = model.layout.slices[m]
        b[part] = factor * v[part]
    return b
