r"""The direction of [DNM]: every rank solves with its own diagonal block, without communication.

.. math:: (G_{pp} + \lambda I)\, d_p = -g_p
"""

from __future__ import annotations

from distnewton.backend import Array
from distnewton.curvature.gauss_newton import BlockGaussNewton
from distnewton.curvature.linearization import Linearization
from distnewton.directions.base import DirectionOptions, DirectionResult
from distnewton.parallel.faults import faults
from distnewton.parallel.termination import EarlyTermination
from distnewton.solvers.conjugate_gradient import ConjugateGradient


class BlockDiagonal:
    """Local CG on each rank's block, ended early when enough ranks have finished.

    Parameters
    ----------
    options : DirectionOptions
        Stopping rule of CG, and what a block is.
    """

    stops_early = True

    def __init__(self, options: DirectionOptions) -> None:
        self._options = options

    def solve(self, problem: Linearization, termination: EarlyTermination) -> DirectionResult:
        """Solve with this rank's block; the only messages are those of early termination."""
        solvers = self._solvers(problem)
        n_steps = 0
        faults.start("cg")
        while any(not cg.finished for cg in solvers):
            for cg in solvers:
                if not cg.finished:
                    cg.step()
            n_steps += 1
            faults.at("cg")
            if n_steps >= self._options.cg_min and termination.enough_finished():
                break
        finished = all(cg.finished for cg in solvers)
        if finished:
            termination.announce()
        direction = problem.backend.zeros(problem.jacobian.layout.n_params)
        for cg in solvers:
            direction += cg.x
        residual = max((cg.relative_residual for cg in solvers), default=0.0)
        return DirectionResult(direction, n_steps, finished, residual)

    def _solvers(self, problem: Linearization) -> list[ConjugateGradient]:
        """One CG a block; blocks without variables have none."""
        jacobian = problem.jacobian
        by_layer = self._options.blocks == "layer"
        blocks = [[m] for m in jacobian.layers] if by_layer else [jacobian.layers]
        made = []
        for layers in blocks:
            b = self._restrict(problem, layers)
            if not any(jacobian.layout.blocks[m].n_params for m in layers):
                continue
            matrix = BlockGaussNewton(jacobian, problem.loss_hessian, problem.shift, layers)
            made.append(
                ConjugateGradient(
                    matrix.matvec,
                    b,
                    problem.backend.dot,
                    tolerance=self._options.cg_tolerance,
                    max_steps=self._options.cg_max,
                    min_steps=self._options.cg_min,
                )
            )
        return made

    @staticmethod
    def _restrict(problem: Linearization, layers: list[int]) -> Array:
        """Minus the gradient in some layers, zero in the others."""
        b = problem.backend.zeros(problem.jacobian.layout.n_params)
        for m in layers:
            part = problem.jacobian.layout.slices[m]
            b[part] = -problem.gradient[part]
        return b
