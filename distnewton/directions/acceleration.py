r"""Geodesic acceleration of Levenberg-Marquardt steps ([GA], arXiv 1201.5885).

.. math:: (G + \lambda D)\, v = -g, \qquad (G + \lambda D)\, a = -\tfrac1n J^T B\, \ddot z(v), \qquad
    \theta(\alpha) = \theta + \alpha v + \tfrac12 \alpha^2 a

with the second derivative of the outputs along v: the step follows to second order the curve along which the outputs
go straight, as the linear model has it, so that the prediction is that of v. It costs a forward pass and a second
right-hand side of the same matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from distnewton.backend import Array
from distnewton.curvature.linearization import Linearization
from distnewton.directions.direction import DirectionResult
from distnewton.directions.options import AccelerationOptions


def longest_acceleration(options: Any) -> float:
    """The limit that options name; 0 where they name none."""
    return options.acceleration if isinstance(options, AccelerationOptions) else 0.0


def accelerated(
    problem: Linearization, velocity: DirectionResult, limit: float, solve: Callable[[Array], DirectionResult]
) -> DirectionResult:
    """A step with half its acceleration, where that is small against the step.

    Parameters
    ----------
    problem : Linearization
        The model.
    velocity : DirectionResult
        v.
    limit : float
        Largest length of a against that of v; 0: nothing is done.
    solve : callable
        Finds a along v.

    Returns
    -------
    DirectionResult
        Without acceleration where that is longer than the limit.

    Notes
    -----
    Collective: a forward pass with twice the numbers, what ``solve`` sends, and a sum of two numbers.
    """
    if not limit:
        return velocity
    v = velocity.direction
    acceleration = solve(v)
    a = acceleration.direction
    dot = problem.backend.dot
    vv, aa = problem.grid.sum_of_variables(dot(v, v), dot(a, a))
    n_steps = velocity.inner_iterations + acceleration.inner_iterations
    return replace(velocity, acceleration=0.5 * a if aa <= limit**2 * vv else None, inner_iterations=n_steps)
