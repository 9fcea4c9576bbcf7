r"""The full subsampled Gauss-Newton direction by CG over all ranks, one fused sum a step.

.. math:: (G_S + \lambda I)\, d = -g

With z = M^{-1} r the product needs J z summed over ranks; r^T r, r^T z and z^T z ride in the same message, and
z^T (G + lambda I) z then follows from J z without another (Chronopoulos and Gear's form of CG), so a step synchronises
once, which is optimal short of s-step methods. Preconditioners are block-diagonal over ranks and send nothing.

Where the Jacobian does not fit, as with images, its products can be recomputed: J z by a forward pass (the
R-operator) and
J^T u by a backward pass, with the messages of both.

Of replicas of the grid each multiplies with its samples; their products are summed, so that the matrix is the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from distnewton.backend import Array, add_scaled, namespace, scalar, scale_and_add
from distnewton.checkpoint.state import State
from distnewton.curvature.linearization import Linearization
from distnewton.directions.direction import (
    Curvature,
    DirectionOptions,
    DirectionResult,
    SharedDirection,
    restore_cg_state,
    state_of_cg,
)
from distnewton.directions.preconditioner import Preconditioner
from distnewton.network.layout import ParameterLayout
from distnewton.parallel.termination import EarlyTermination
from distnewton.solvers.conjugate_gradient import Progress, check_curvature, rounding_floor


class GaussNewton(SharedDirection):
    """CG on the full system; the same trajectory on every grid.

    Parameters
    ----------
    options : DirectionOptions
        Stopping rule of CG.
    preconditioner : Preconditioner or None
        Of CG. All but ``none`` and ``diagonal`` depend on the grid, as their blocks are the ranks'.
    """

    stops_early = False
    averages_gradient = False

    def __init__(self, options: DirectionOptions, preconditioner: Preconditioner | None = None) -> None:
        self.curvature: Curvature = "jacobian" if options.jacobian == "stored" else "cotangents"
        self._options = options
        self._preconditioner = preconditioner
        self._last: Array | None = None

    def solve(self, problem: Linearization, termination: EarlyTermination) -> DirectionResult:
        """Solve together; all ranks do the same steps, so nobody is waited for or stopped early."""
        options = self._options
        if self._preconditioner is not None:
            self._preconditioner.update(problem)
        x, r, phi, bb = self._start(problem)
        z = self._precondition(r)
        p, s = z.copy(), 0 * x
        step = _product(problem, r, z)
        bb = step.rr if bb is None else bb
        target, floor = options.cg_tolerance * math.sqrt(bb), rounding_floor(r, bb)
        progress = Progress(options.cg_progress, phi)
        beta, alpha, n_steps = 0.0, math.inf, 0
        while n_steps < options.cg_max and step.rr > floor:
            if n_steps >= options.cg_min and (math.sqrt(step.rr) <= target or progress.exhausted):
                break
            # from sums over all ranks, so that all refuse it alike
            alpha = step.rz / check_curvature(step.curvature - beta * step.rz / alpha, n_steps, collective=True)
            scale_and_add(p, beta, z)
            scale_and_add(s, beta, step.Az)
            add_scaled(x, alpha, p)
            add_scaled(r, -alpha, s)
            progress.step(0.5 * alpha * step.rz)
            previous = step.rz
            z = self._precondition(r)
            step = _product(problem, r, z)
            beta = step.rz / previous
            n_steps += 1
        if options.warm_start:
            self._last = x
        return DirectionResult(x, n_steps, True, math.sqrt(step.rr / bb) if bb else 0.0)

    def state(self) -> State:
        """The last solution, with a warm start, and the preconditioner."""
        return state_of_cg(self._last, self._preconditioner)

    def restore(self, state: State, layout: ParameterLayout) -> None:
        """Take over the last solution and the preconditioner."""
        self._last = restore_cg_state(state, layout, self._preconditioner)

    def _start(self, problem: Linearization) -> tuple[Array, Array, float, float | None]:
        """First iterate, its residual, the model there, and b^T b where it is not the residual's."""
        b = -problem.gradient
        if self._last is None:
            return problem.backend.zeros(len(b)), b, 0.0, None
        x = self._options.warm_start * self._last
        r = b - _product(problem, x, x).Az
        dot = problem.backend.dot
        xr, xb, bb = problem.grid.sum_of_variables(dot(x, r), dot(x, b), dot(b, b))
        return x, r, -0.5 * (xr + xb), bb

    def _precondition(self, r: Array) -> Array:
        return r if self._preconditioner is None else self._preconditioner.apply(r)


@dataclass(frozen=True)
class _Product:
    """(G + lambda I) z and the inner products of a step, over all ranks; the curvature is z^T (G + lambda I) z."""

    Az: Array
    rr: float
    rz: float
    curvature: float


def _product(problem: Linearization, r: Array, z: Array) -> _Product:
    """One Gauss-Newton product with one sum over the ranks of a replica; over replicas one of a rank's variables."""
    sample, dot = problem.sample, problem.backend.dot
    rr = dot(r, r)
    scalars = [rr, rr, rr] if z is r else [rr, dot(r, z), dot(z, z)]
    Jz, sums = sample.product(z, scalars)
    U = problem.loss_hessian.matvec(Jz)
    U /= problem.n_samples
    zGz, rr, rz, zz = _numbers(problem, scalar(namespace(U).vdot(Jz, U)), sums)
    curvature = zGz + problem.shift * zz
    product = sample.transposed_product(problem.backend.asarray(U))
    product += problem.shift * z
    return _Product(product, rr, rz, curvature)


def _numbers(problem: Linearization, of_samples: float, of_variables: Array) -> list[float]:
    """z^T G z over the samples of all replicas, and the inner products, which the first replica knows for all."""
    numbers = np.array([of_samples, *of_variables])
    if problem.grid.n_replicas > 1:
        numbers[1:] *= problem.grid.replica == 0
        problem.grid.sum_of_samples(numbers)
    return [float(number) for number in numbers]
