r"""Geodesic acceleration of Levenberg-Marquardt steps ([GA], arXiv 1201.5885).

.. math:: (G + \lambda D)\, v = -g, \qquad (G + \lambda D)\, a = -\tfrac1n J^T B\, \ddot z(v), \qquad
    \theta(\alpha) = \theta + \alpha v + \tfrac12 \alpha^2 a

where the double-dotted z is the second derivative of the outputs along v. To second order the step follows the curve
along which the outputs change linearly, as the linear model predicts, so v's prediction holds for it. It costs a
forward pass and a second solve with the same matrix.
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
    """Return the limit in the options; 0 if they have none."""
    return options.acceleration if isinstance(options, AccelerationOptions) else 0.0


def accelerated(
    problem: Linearization, velocity: DirectionResult, limit: float, solve: Callable[[Array], DirectionResult]
) -> DirectionResult:
    """Add half the acceleration to a step, if the acceleration is small relative to the step.

    Parameters
    ----------
    problem : Linearization
        The model.
    velocity : DirectionResult
        v, the direction without acceleration.
    limit : float
        Largest ratio of the length of a to that of v; 0 disables acceleration.
    solve : callable
        Finds a along v.

    Returns
    -------
    DirectionResult
        Result without acceleration if that is longer than the limit.

    Notes
    -----
    Collective: a forward pass with twice the numbers, the messages of ``solve``, and a sum of two numbers.
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
