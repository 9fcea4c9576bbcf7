"""Worked examples: residual problems with known solutions; recipes of the same names train them."""

from __future__ import annotations

from typing import Any

import numpy as np

from distnewton.backend import Array
from distnewton.physics.points import Box
from distnewton.physics.problem import Problem, Term

pi = np.pi


def poisson2d(n: int = 900) -> Problem:
    """Poisson's equation on the unit square: -lap u = 2 pi^2 sin(pi x) sin(pi y), u = 0 on the boundary."""
    square = Box([0, 0], [1, 1])

    def solution(x: Array) -> Any:
        return np.sin(pi * x[0]) * np.sin(pi * x[1])

    def equation(x: Array, laplacian: Array) -> Any:
        return laplacian[0] + 2 * pi**2 * solution(x)

    terms = [
        Term("equation", square.interior(n), equation),
        Term("boundary", square.boundary(max(4, n // 30 * 4)), lambda u: u[0], weight=10.0),
    ]
    return Problem(terms, solution=solution, test=square.interior(2000))


def poisson5d(n: int = 3000) -> Problem:
    """Poisson's equation in five dimensions: lap u = -pi^2 u with u = sum cos(pi x_i), given on the boundary."""
    cube = Box([0] * 5, [1] * 5)

    def solution(x: Array) -> Any:
        return np.cos(pi * x).sum(axis=0)

    terms = [
        Term("equation", cube.interior(n), lambda x, laplacian: laplacian[0] + pi**2 * solution(x)),
        Term("boundary", cube.boundary(n // 6), lambda x, u: u[0] - solution(x), weight=100.0),
    ]
    return Problem(terms, solution=solution, test=cube.interior(2000))


def heat(n: int = 900) -> Problem:
    """The heat equation u_t = u_xx / 4 in space and time, from u(x, 0) = sin(pi x), u = 0 at both ends."""
    bar = Box([0, 0], [1, 1])

    def solution(x: Array) -> Any:
        return np.exp(-(pi**2) * x[1] / 4) * np.sin(pi * x[0])

    terms = [
        Term("equation", bar.interior(n), lambda du, d2u: du[0, 1] - d2u[0, 0] / 4),
        Term("start", bar.face(n // 15, (1, 0)), lambda x, u: u[0] - np.sin(pi * x[0]), weight=10.0),
        Term("ends", bar.face(n // 15, (0, 0), (0, 1)), lambda u: u[0], weight=10.0),
    ]
    return Problem(terms, solution=solution, test=bar.interior(2000))


def burgers(n: int = 2000) -> Problem:
    """Burgers' equation u_t + u u_x = nu u_xx with nu = 0.01 / pi, from u(x, 0) = -sin(pi x): a front at x = 0."""
    strip, nu = Box([-1, 0], [1, 1]), 0.01 / pi

    # a curriculum (arXiv 2109.01050): the first rounds have more viscosity, so the front forms while it is wide
    def equation(u: Array, du: Array, d2u: Array, round: int) -> Any:
        return du[0, 1] + u[0] * du[0, 0] - nu * max(1.0, 10.0 * 0.6**round) * d2u[0, 0]

    def solution(x: Array) -> Any:
        # Cole and Hopf's transformation, by Gauss and Hermite's rule
        nodes, weights = np.polynomial.hermite.hermgauss(200)
        y = x[0][:, None] - np.sqrt(4 * nu * np.maximum(x[1], 0))[:, None] * nodes
        exponent = -np.cos(pi * y) / (2 * pi * nu)
        kernel = weights * np.exp(exponent - exponent.max(axis=1, keepdims=True))
        return -(np.sin(pi * y) * kernel).sum(axis=1) / kernel.sum(axis=1)

    front = Box([-0.1, 0.2], [0.1, 1])
    terms = [
        Term("equation", strip.interior(n), equation),
        Term("front", front.interior(n // 2), equation),
        Term("start", strip.face(n // 20, (1, 0)), lambda x, u: u[0] + np.sin(pi * x[0]), weight=100.0),
        Term("ends", strip.face(n // 20, (0, 0), (0, 1)), lambda u: u[0], weight=100.0),
    ]
    return Problem(terms, solution=solution, test=strip.interior(2000), resample=8)


def kovasznay(n: int = 900) -> Problem:
    """Kovasznay's flow behind a grid: Navier and Stokes' equations of u, v and p at Reynolds number 40."""
    plane, reynolds = Box([-0.5, -0.5], [1, 1.5]), 40.0
    rate = reynolds / 2 - np.sqrt(reynolds**2 / 4 + 4 * pi**2)

    def solution(x: Array) -> Any:
        decay, angle = np.exp(rate * x[0]), 2 * pi * x[1]
        return np.stack([
            1 - decay * np.cos(angle), rate / (2 * pi) * decay * np.sin(angle), (1 - decay**2) / 2,
        ])  # fmt: skip

    def equations(u: Array, du: Array, laplacian: Array) -> Any:
        (u_x, u_y), (v_x, v_y), (p_x, p_y) = du
        return (
            u[0] * u_x + u[1] * u_y + p_x - laplacian[0] / reynolds,
            u[0] * v_x + u[1] * v_y + p_y - laplacian[1] / reynolds,
            u_x + v_y,
        )

    terms = [
        Term("equations", plane.interior(n), equations),
        Term("walls", plane.boundary(max(4, n // 30 * 4)), lambda x, u: (u - solution(x))[:2], weight=10.0),
        # the pressure is known up to a constant
        Term("pressure", [[1.0, 0.5]], lambda x, u: u[2] - solution(x)[2], weight=10.0),
    ]
    return Problem(terms, n_outputs=3, solution=solution, test=plane.interior(2000))


def helmholtz(n: int = 1600) -> Problem:
    """Helmholtz's equation lap u + k^2 u = f with k = 10: u = sin(3 pi x) sin(4 pi y), zero on the boundary."""
    square, k = Box([0, 0], [1, 1]), 10.0

    def solution(x: Array) -> Any:
        return np.sin(3 * pi * x[0]) * np.sin(4 * pi * x[1])

    def equation(x: Array, u: Array, laplacian: Array) -> Any:
        return laplacian[0] + k**2 * u[0] - (k**2 - 25 * pi**2) * solution(x)

    terms = [
        Term("equation", square.interior(n), equation),
        Term("boundary", square.boundary(max(4, n // 20 * 4)), lambda u: u[0], weight=1000.0),
    ]
    return Problem(terms, solution=solution, test=square.interior(2000))


def inverse_diffusion(n: int = 600) -> Problem:
    """An unknown diffusion: find D = 0.3 in u_t = D u_xx from observations at some points with noise of 0.01."""
    bar, true = Box([0, 0], [1, 1]), 0.3

    def solution(x: Array) -> Any:
        return np.exp(-true * pi**2 * x[1]) * np.sin(pi * x[0])

    generator = np.random.default_rng(0)
    places = bar.interior(n // 2).draw(generator)
    observed = solution(places.T) + 0.01 * generator.standard_normal(len(places))
    terms = [
        Term("equation", bar.interior(n), lambda du, d2u, diffusion: du[0, 1] - diffusion * d2u[0, 0]),
        Term("observed", places, lambda u, data: u[0] - data, data=observed, weight=100.0),
    ]
    return Problem(terms, unknowns={"diffusion": 1.0}, solution=solution, test=bar.interior(2000))


def sinc(n: int = 1000) -> Problem:
    """Regression without noise: sinc(10 x) on [-1, 1], for the method of Levenberg and Marquardt on 61 weights."""
    x = np.linspace(-1, 1, n)
    terms = [Term("fit", x, lambda u, data: u[0] - data, data=np.sinc(10 * x))]
    return Problem(terms, solution=lambda x: np.sinc(10 * x[0]), test=np.linspace(-1, 1, 1001))


def robot_arm(n: int = 3000) -> Problem:
    """Regression without noise: where the hand of a plane arm is, by the angles and lengths of its four links."""
    box = Box([-pi / 2] * 4 + [0.5] * 4, [pi / 2] * 4 + [1.0] * 4)

    def hand(x: Array) -> Any:
        angles, lengths = np.cumsum(x[:4], axis=0), x[4:]
        return np.array([(lengths * np.cos(angles)).sum(axis=0), (lengths * np.sin(angles)).sum(axis=0)])

    terms = [Term("fit", box.interior(n), lambda x, u: u - hand(x))]
    return Problem(terms, n_outputs=2, solution=hand, test=box.interior(2000))
