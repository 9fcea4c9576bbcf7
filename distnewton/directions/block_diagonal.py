r"""The direction of [DNM]: every rank solves with its own diagonal block, without communication.

.. math:: (G_{pp} + \lambda I)\, d_p = -g_p

Of replicas of the grid each solves with its own share of the subsample, still without communication; the step takes the
mean of their directions.
"""

from __future__ import annotations

from typing import ClassVar

from distnewton.backend import Array
from distnewton.curvature.linearization import Linearization
from distnewton.curvature.operators import BlockGaussNewton
from distnewton.directions.cg import CGDirection
from distnewton.directions.direction import Curvature, DirectionResult, RoleOptions
from distnewton.directions.options import BlockOptions, CGOptions, EarlyTerminationOptions, SketchOptions
from distnewton.parallel.termination import EarlyTermination
from distnewton.solvers.conjugate_gradient import ConjugateGradient


class BlockDiagonalOptions(CGOptions, SketchOptions, BlockOptions):
    """CG on a rank's own block."""


class BlockDiagonal(CGDirection):
    """Local CG on each rank's block, ended early when enough ranks have finished."""

    name = "block_diagonal"
    help = "each rank solves with its own diagonal block of G by CG, without communication"
    own_options = BlockDiagonalOptions
    # the ranks of a proposal all finish, since they compute its step sizes together right after
    role_options: ClassVar[RoleOptions] = dict.fromkeys(("direction", "solver"), (EarlyTerminationOptions,))
    planned_as = "block_diagonal"
    stops_early = apart = True
    curvature: Curvature = "jacobian"

    def solve(self, problem: Linearization, termination: EarlyTermination) -> DirectionResult:
        """Solve with this rank's block; the only messages are those of early termination."""
        if self._preconditioner is not None:
            self._preconditioner.update(problem)
        solvers = self._solvers(problem)
        n_steps = 0
        while any(not cg.finished for cg in solvers):
            for cg in solvers:
                if not cg.finished:
                    cg.step()
            n_steps += 1
            if n_steps >= self.options.cg_min and termination.enough_finished(n_steps):
                break
        finished = all(cg.finished for cg in solvers)
        if finished:
            termination.announce()
        direction = problem.backend.zeros(problem.layout.n_params)
        for cg in solvers:
            direction += cg.x
        self._remember(direction)
        residual = max((cg.relative_residual for cg in solvers), default=0.0)
        return DirectionResult(direction, n_steps, finished, residual)

    def set_mean_direction(self, direction: Array) -> None:
        """Start the next CG from the mean of the replicas' directions."""
        self._remember(direction)

    def _solvers(self, problem: Linearization) -> list[ConjugateGradient]:
        """One CG a block; blocks without variables have none."""
        jacobian, options = problem.jacobian, self.options
        blocks = [[m] for m in jacobian.layers] if options.by_layer else [jacobian.layers]
        solvers = []
        for layers in blocks:
            if not any(problem.layout.blocks[m].n_params for m in layers):
                continue
            matrix = BlockGaussNewton(jacobian, problem.loss_hessian, problem.shift_matrix, layers)
            start = None if self._last is None else self._restrict(problem, self._last, layers, options.warm_start)
            solvers.append(
                ConjugateGradient(
                    matrix.matvec,
                    self._restrict(problem, problem.gradient, layers, -1.0),
                    problem.backend.dot,
                    tolerance=options.cg_tolerance,
                    max_steps=options.cg_max,
                    min_steps=options.cg_min,
                    precondition=None if self._preconditioner is None else self._preconditioner.restricted(layers),
                    start=start,
                    progress=options.cg_progress,
                )
            )
        return solvers

    @staticmethod
    def _restrict(problem: Linearization, v: Array, layers: list[int], factor: float) -> Array:
        """A multiple of a vector in some layers, zero in the others."""
        b = problem.backend.zeros(problem.layout.n_params)
        for m in layers:
            part = problem.layout.slices[m]
            b[part] = factor * v[part]
        return b
