r"""The full subsampled Gauss-Newton direction by CG over all ranks, with one fused sum per step.

.. math:: (G_S + \lambda I)\, d = -g

With z = M^{-1} r the product needs J z summed over ranks; the same message carries r^T r, r^T z and z^T z, and
z^T (G + lambda I) z then follows from J z (Chronopoulos and Gear's form of CG). So a step synchronises once, which is
optimal short of s-step methods. Preconditioners are block-diagonal over ranks and need no communication.

If the Jacobian does not fit in memory, as with images, its products can be recomputed: J z by a forward pass (the
R-operator) and J^T u by a backward pass, with the messages of both.

If the grid has replicas, each multiplies with its own samples; the products are summed, so the matrix is the same.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from distnewton.backend import Array, add_scaled, namespace, scalar, scale_and_add
from distnewton.curvature.linearization import Linearization
from distnewton.directions.acceleration import accelerated, longest_acceleration
from distnewton.directions.cg import CGDirection
from distnewton.directions.direction import DirectionResult, RoleOptions
from distnewton.directions.options import AccelerationOptions, CGOptions, SketchOptions
from distnewton.directions.preconditioner import Preconditioner
from distnewton.frozen import frozen
from distnewton.parallel.termination import EarlyTermination
from distnewton.solvers.conjugate_gradient import Progress, check_curvature, rounding_floor


class GaussNewtonOptions(CGOptions, SketchOptions):
    """Options of CG on the full system."""

    jacobian: Literal["stored", "recomputed"] = Field(
        "stored",
        description="keep the Jacobian's factors, or pass forward and backward at each CG step instead: no memory for "
        "them, but messages and time",
    )

    @model_validator(mode="after")
    def _is_exact(self) -> Self:
        if self.jacobian == "recomputed" and self.sketch not in ("auto", 0):
            raise ValueError("sketch has no effect with jacobian = recomputed, which is exact")
        return self


class GaussNewton(CGDirection):
    """CG on the full system, with the same iterates on every grid.

    Preconditioners other than ``diagonal`` depend on the logical blocks, which by default are the ranks'.
    """

    name = "gauss_newton"
    help = "the full Gauss-Newton system by CG over all ranks, a sum each step"
    own_options = GaussNewtonOptions
    # a proposal is scaled along straight lines, so it takes no acceleration
    role_options: ClassVar[RoleOptions] = {"direction": (AccelerationOptions,), "solver": (AccelerationOptions,)}
    planned_as = "gauss_newton"

    def __init__(self, options: Any = None, preconditioner: Preconditioner | None = None) -> None:
        super().__init__(options, preconditioner)
        self.curvature = "jacobian" if self.options.jacobian == "stored" else "cotangents"

    def solve(self, problem: Linearization, termination: EarlyTermination) -> DirectionResult:
        """Solve on all ranks together: all take the same steps, so none waits or is stopped early."""
        if self._preconditioners is not None:
            self._preconditioners.update(problem)
        velocity = self._solve(problem, self._last)
        self._remember(velocity.direction)

        def solve(v: Array) -> DirectionResult:
            sample = problem.sample
            if sample.residuals is None:
                second = sample.point.loss_hessian.matvec(sample.curve(v)[1])
                force = sample.pull_back(second / problem.n_samples)
            else:
                force = sample.transposed_product(sample.bend(v) / problem.n_samples)
            return self._solve(replace(problem, gradient=force), None)

        return accelerated(problem, velocity, longest_acceleration(self.options), solve)

    def _solve(self, problem: Linearization, last: Array | None) -> DirectionResult:
        """Solve for the problem's gradient by CG, starting from a multiple of the last solution if there is one."""
        options = self.options
        x, r, phi, bb = self._start(problem, last)
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
            # computed from sums over all ranks, so all ranks raise the same error
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
        return DirectionResult(x, n_steps, True, math.sqrt(step.rr / bb) if bb else 0.0)

    def _start(self, problem: Linearization, last: Array | None) -> tuple[Array, Array, float, float | None]:
        """First iterate, its residual, its image under the model, and b^T b if that differs from the residual's."""
        b = -problem.gradient
        if last is None:
            return problem.backend.zeros(len(b)), b, 0.0, None
        x = self.options.warm_start * last
        r = b - _product(problem, x, x).Az
        dot = problem.backend.dot
        xr, xb, bb = problem.grid.sum_of_variables(dot(x, r), dot(x, b), dot(b, b))
        return x, r, -0.5 * (xr + xb), bb

    def _precondition(self, r: Array) -> Array:
        return r if self._preconditioners is None else self._preconditioners.apply(r)


@frozen
class _Product:
    """(G + lambda I) z and the inner products of a step, over all ranks; `curvature` is z^T (G + lambda I) z."""

    Az: Array
    rr: float
    rz: float
    curvature: float


def _product(problem: Linearization, r: Array, z: Array) -> _Product:
    """One Gauss-Newton product: one sum over the ranks of a replica, and one of a rank's variables over replicas."""
    sample, dot = problem.sample, problem.backend.dot
    rr = dot(r, r)
    rz, zz = (rr, rr) if z is r else (dot(r, z), dot(z, z))
    scalars = [rr, rz, problem.shift_matrix.inner(z, zz, dot)]
    Jz, sums = sample.product(z, scalars)
    U = problem.loss_hessian.matvec(Jz)
    U /= problem.n_samples
    zGz, rr, rz, zSz = _numbers(problem, scalar(namespace(U).vdot(Jz, U)), sums)
    product = sample.transposed_product(problem.backend.asarray(U))
    problem.shift_matrix.add_product(product, z)
    return _Product(product, rr, rz, zGz + zSz)


def _numbers(problem: Linearization, of_samples: float, of_variables: Array) -> list[float]:
    """z^T G z over the samples of all replicas, and the inner products, which the first replica contributes."""
    numbers = np.array([of_samples, *of_variables])
    if problem.grid.n_replicas > 1:
        numbers[1:] *= problem.grid.replica == 0
        problem.grid.sum_of_samples(numbers)
    return [float(number) for number in numbers]
