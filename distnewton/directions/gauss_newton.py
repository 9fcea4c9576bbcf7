r"""The full subsampled Gauss-Newton direction by CG over all ranks, one fused sum a step.

.. math:: (G_S + \lambda I)\, d = -g

The product needs J r summed over ranks; r^T r rides in the same message, and r^T (G + lambda I) r then follows from
J r without another (Chronopoulos and Gear's form of CG), so a step synchronises once, which is optimal short of
s-step methods.
"""

from __future__ import annotations

import math

import numpy as np

from distnewton.backend import Array
from distnewton.curvature.linearization import Linearization
from distnewton.directions.base import DirectionOptions, DirectionResult
from distnewton.parallel.faults import faults
from distnewton.parallel.termination import EarlyTermination
from distnewton.solvers.conjugate_gradient import check_curvature, rounding_floor


class GaussNewton:
    """CG on the full system; the same trajectory on every grid.

    Parameters
    ----------
    options : DirectionOptions
        Stopping rule of CG.
    """

    stops_early = False

    def __init__(self, options: DirectionOptions) -> None:
        self._options = options

    def solve(self, problem: Linearization, termination: EarlyTermination) -> DirectionResult:
        """Solve together; all ranks do the same steps, so nobody is waited for or stopped early."""
        options = self._options
        x = problem.backend.zeros(problem.jacobian.layout.n_params)
        r = -problem.gradient
        p, s = r.copy(), x.copy()
        w, rr, rAr = _product(problem, r)
        target, floor = options.cg_tolerance * math.sqrt(rr), rounding_floor(r, rr)
        rr_start, beta, alpha, n_steps = rr, 0.0, math.inf, 0
        faults.start("cg")
        while n_steps < options.cg_max and rr > floor:
            if n_steps >= options.cg_min and math.sqrt(rr) <= target:
                break
            alpha = rr / check_curvature(rAr - beta * rr / alpha, n_steps)
            p *= beta
            p += r
            s *= beta
            s += w
            x += alpha * p
            r -= alpha * s
            previous = rr
            w, rr, rAr = _product(problem, r)
            beta = rr / previous
            n_steps += 1
            faults.at("cg")
        residual = math.sqrt(rr / rr_start) if rr_start else 0.0
        return DirectionResult(x, n_steps, True, residual)


def _product(problem: Linearization, r: Array) -> tuple[Array, float, float]:
    """(G + lambda I) r, r^T r and r^T (G + lambda I) r with one sum over all ranks."""
    jacobian = problem.jacobian
    q = jacobian.matvec(r)
    message = np.append(q.ravel().astype(np.float64), problem.backend.dot(r, r))
    problem.grid.sum_all(message)
    rr = float(message[-1])
    Jr = message[:-1].reshape(q.shape)
    U = problem.loss_hessian.matvec(Jr)
    U /= problem.n_samples
    rAr = float(np.vdot(Jr, U)) + problem.shift * rr
    product = jacobian.rmatvec(problem.backend.asarray(U), problem.backend.empty(len(r)))
    product += problem.shift * r
    return product, rr, rAr
