"""Worked examples: residual problems with known solutions, which recipes of the same names train."""

from __future__ import annotations

from typing import Any

import numpy as np

from distnewton.backend import Array
from distnewton.physics.points import Box
from distnewton.physics.problem import Problem, Term

pi = np.pi


def poisson2d() -> Problem:
    """Poisson's equation on the unit square: -lap u = 2 pi^2 sin(pi x) sin(pi y), u = 0 on the boundary."""
    square = Box([0, 0], [1, 1])

    def solution(x: Array) -> Any:
        return np.sin(pi * x[0]) * np.sin(pi * x[1])

    def equation(x: Array, laplacian: Array) -> Any:
        return laplacian[0] + 2 * pi**2 * np.sin(pi * x[0]) * np.sin(pi * x[1])

    def boundary(u: Array) -> Any:
        return u[0]

    terms = [Term("equation", square.interior(900), equation), Term("boundary", square.boundary(120), boundary)]
    return Problem(terms, solution=solution, test=square.interior(9000))
