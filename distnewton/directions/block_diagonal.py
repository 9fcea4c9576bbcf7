r"""The direction of [DNM]: every rank solves with its own diagonal block, without communication.

.. math:: (G_{pp} + \lambda I)\, d_p = -g_p

Of replicas of the grid each solves with its own share of the subsample, still without communication; the step takes the
mean of their directions.
"""

from __future__ import annotations

from distnewton.backend import Array
from distnewton.checkpoint.state import State
from distnewton.curvature.linearization import Linearization
from distnewton.curvature.operators import BlockGaussNewton
from distnewton.directions.direction import (
    Curvature,
    DirectionOptions,
    DirectionResult,
    restore_cg_state,
    state_of_cg,
)
from distnewton.directions.preconditioner import Preconditioner
from distnewton.network.layout import ParameterLayout
from distnewton.parallel.termination import EarlyTermination
from distnewton.solvers.conjugate_gradient import ConjugateGradient


class BlockDiagonal:
    """Local CG on each rank's block, ended early when enough ranks have finished.

    Parameters
    ----------
    options : DirectionOptions
        Stopping rule of CG, and what a block is.
    preconditioner : Preconditioner or None
        Of CG.
    """

    stops_early = apart = True
    curvature: Curvature = "jacobian"
    averages_gradient = False

    def __init__(self, options: DirectionOptions, preconditioner: Preconditioner | None = None) -> None:
        self._options = options
        self._preconditioner = preconditioner
        self._last: Array | None = None

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
            if n_steps >= self._options.cg_min and termination.enough_finished():
                break
        finished = all(cg.finished for cg in solvers)
        if finished:
            termination.announce()
        direction = problem.backend.zeros(problem.layout.n_params)
        for cg in solvers:
            direction += cg.x
        if self._options.warm_start:
            self._last = direction
        residual = max((cg.relative_residual for cg in solvers), default=0.0)
        return DirectionResult(direction, n_steps, finished, residual)

    def set_mean_direction(self, direction: Array) -> None:
        """Start the next CG from the mean of what the replicas have found."""
        if self._options.warm_start:
            self._last = direction

    def state(self) -> State:
        """The last solution, with a warm start, and the preconditioner."""
        return state_of_cg(self._last, self._preconditioner)

    def restore(self, state: State, layout: ParameterLayout) -> None:
        """Take over the last solution and the preconditioner."""
        self._last = restore_cg_state(state, layout, self._preconditioner)

    def _solvers(self, problem: Linearization) -> list[ConjugateGradient]:
        """One CG a block; blocks without variables have none."""
        jacobian, options = problem.jacobian, self._options
        blocks = [[m] for m in jacobian.layers] if options.blocks == "layer" else [jacobian.layers]
        made = []
        for layers in blocks:
            if not any(problem.layout.blocks[m].n_params for m in layers):
                continue
            matrix = BlockGaussNewton(jacobian, problem.loss_hessian, problem.shift, layers)
            start = None if self._last is None else self._restrict(problem, self._last, layers, options.warm_start)
            made.append(
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
        return made

    @staticmethod
    def _restrict(problem: Linearization, v: Array, layers: list[int], factor: float) -> Array:
        """A multiple of a vector in some layers, zero in the others."""
        b = problem.backend.zeros(problem.layout.n_params)
        for m in layers:
            part = problem.layout.slices[m]
            b[part] = factor * v[part]
        return b
