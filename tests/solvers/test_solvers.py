"""CG, line search and damping on small problems, without a network."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dense import krylov_minimiser

from distnewton.errors import NumericalError
from distnewton.solvers.conjugate_gradient import ConjugateGradient
from distnewton.solvers.damping import LevenbergMarquardt, reduction_ratio
from distnewton.solvers.line_search import backtrack


def spd(n, seed=0):
    A = np.random.default_rng(seed).standard_normal((n, n))
    return A @ A.T + np.eye(n)


def dot(x, y):
    return float(x @ y)


def solver(A, b, **options):
    options = {"tolerance": 0.0, "max_steps": 50} | options
    return ConjugateGradient(lambda v: A @ v, b, dot, **options)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_each_iterate_minimises_over_the_krylov_space(k):
    A, b = spd(8), np.random.default_rng(1).standard_normal(8)
    cg = solver(A, b)
    for _ in range(k):
        cg.step()
    np.testing.assert_allclose(cg.x, krylov_minimiser(A, b, k), rtol=0, atol=1e-11)
    assert cg.residual_norm == pytest.approx(np.linalg.norm(b - A @ cg.x), rel=1e-8)


def test_stopping_rule():
    A, b = spd(8), np.ones(8)
    cg = solver(A, b, tolerance=0.5, min_steps=3, max_steps=4)
    while not cg.finished:
        cg.step()
    assert 3 <= cg.n_steps <= 4
    assert solver(A, b, max_steps=1).finished is False
    assert solver(A, 0 * b).finished
    assert solver(A, 0 * b).relative_residual == 0.0


def test_non_positive_curvature_is_an_error():
    cg = solver(-np.eye(3), np.ones(3))
    with pytest.raises(NumericalError, match=r"curvature -3 at step 1.*float64"):
        cg.step()
    with pytest.raises(NumericalError, match="curvature nan"):
        solver(np.full((2, 2), np.nan), np.ones(2)).step()


def search(f, slope, **options):
    return backtrack(lambda alpha: (f(alpha), alpha), f(0.0), slope, **options)


def test_line_search_takes_the_first_sufficient_decrease():
    result = search(lambda a: (3 * a - 1) ** 2, -6.0)
    assert (result.step_size, result.trials, result.state) == (0.5, 2, 0.5)
    assert result.value == 0.25


def test_overflow_is_no_decrease():
    result = search(lambda a: math.nan if a == 1 else math.inf if a == 0.5 else -a, -1.0)
    assert (result.step_size, result.trials) == (0.25, 3)


def test_search_without_descent_ends():
    assert search(lambda a: a, 1.0).trials == 0
    assert search(lambda a: a, math.nan).state is None
    result = search(lambda a: 1 + a, -1.0, max_trials=5)
    assert (result.step_size, result.value, result.trials, result.state) == (0.0, 1.0, 5, None)


def test_damping_follows_the_ratio():
    damping = LevenbergMarquardt(1.0)
    damping.update(0.9)
    assert damping.value == pytest.approx(2 / 3)
    damping.update(0.4)
    assert damping.value == pytest.approx(2 / 3)
    damping.update(0.1)
    assert damping.value == pytest.approx(1.0)
    damping.update(math.nan)
    damping.reject()
    assert damping.value == pytest.approx(2.25)


def test_ratio_is_one_where_the_model_is_exact():
    # f(a) = -2 a + 3 a^2: slope -2, curvature 6
    assert reduction_ratio(-2 * 0.25 + 3 * 0.0625, -2.0, 6.0, 0.25) == pytest.approx(1.0)
    assert math.isnan(reduction_ratio(0.0, 0.0, 0.0, 1.0))
