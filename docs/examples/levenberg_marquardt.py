r"""Levenberg-Marquardt with geodesic acceleration (Transtrum and Sethna, arXiv 1201.5885).

.. math:: (G + \lambda D)\, v = -g, \qquad (G + \lambda D)\, a = -J^T B\, \ddot z(v), \qquad
    \theta(\alpha) = \theta + \alpha v + \tfrac12 \alpha^2 a

with D = diag(G) (Fletcher), and the second derivative of the outputs along v. The step follows the curve of steepest
descent in the space of outputs to second order, where a straight line leaves it. The correction is left out where it
is not small against v.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import Field

from distnewton.curvature.linearization import Linearization
from distnewton.directions.direction import DirectionResult
from distnewton.directions.gauss_newton import GaussNewton, GaussNewtonOptions
from distnewton.parallel.termination import EarlyTermination


class LevenbergMarquardtOptions(GaussNewtonOptions):
    """Full Gauss-Newton's, with other defaults."""

    damping_form: Literal["identity", "diagonal"] = Field("diagonal", description="what lambda multiplies")
    longest: float = Field(0.75, ge=0.0, description="largest length of a against that of v; 0: no acceleration")


class LevenbergMarquardt(GaussNewton):
    """Two solves with the same matrix by CG over all ranks."""

    name = "levenberg_marquardt"
    help = "Levenberg-Marquardt with geodesic acceleration"
    own_options = LevenbergMarquardtOptions
    # diag(G) makes systems ill-conditioned: CG goes far, so that rounding does not show, on whatever grid
    presets = {  # noqa: RUF012
        "direction": {"subsample": 1.0, "sketch": 0, "cg_tolerance": 1e-10, "cg_max": 500, "combine": "none"}
    }

    def solve(self, problem: Linearization, termination: EarlyTermination) -> DirectionResult:
        """Solve for the velocity, then for the acceleration."""
        velocity = super().solve(problem, termination)
        if not self.options.longest:
            return velocity
        v = velocity.direction
        _, second = problem.sample.curve(v)
        force = problem.sample.pull_back(problem.loss_hessian.matvec(second) / problem.n_samples)
        acceleration = super().solve(replace(problem, gradient=force), termination)
        a = acceleration.direction
        dot = problem.backend.dot
        vv, aa = problem.grid.sum_of_variables(dot(v, v), dot(a, a))
        n_steps = velocity.inner_iterations + acceleration.inner_iterations
        if aa > self.options.longest**2 * vv:
            return replace(velocity, inner_iterations=n_steps)
        return replace(velocity, acceleration=0.5 * a, inner_iterations=n_steps)
