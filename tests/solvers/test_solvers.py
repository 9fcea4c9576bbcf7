"""CG, line search and damping on small problems, without a network."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dense import krylov_minimiser

from distnewton.errors import NumericalError
from distnewton.solvers.conjugate_gradient import ConjugateGradient, Progress
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


def test_damping_stops_at_its_minimum_but_is_not_raised_to_it():
    damping = LevenbergMarquardt(1.0, drop=0.5, minimum=0.3)
    values = []
    for ratio in (0.9, 0.9, 0.9, 0.1):
        damping.update(ratio)
        values.append(damping.value)
    assert values == [0.5, 0.3, 0.3, pytest.approx(0.45)]
    below = LevenbergMarquardt(0.1, minimum=0.3)
    below.update(0.9)
    assert below.value == 0.1
    below.reject()
    assert below.value == pytest.approx(0.15)


def test_damping_is_bounded_where_everything_is_rejected():
    damping = LevenbergMarquardt(1.0)
    for _ in range(1000):
        damping.reject()
    assert damping.value == 1e12
    damping.update(-1.0)
    assert damping.value == 1e12
    # what a user begins with is not taken down
    high = LevenbergMarquardt(1e15)
    high.reject()
    assert high.value == 1e15


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


def test_nielsens_rule_follows_the_ratio():
    damping = LevenbergMarquardt(1.0, nielsen=True)
    values = []
    for ratio in (1.0, 0.9, 0.75, 0.5, 0.25, 0.01):
        before = damping.value
        damping.update(ratio)
        values.append(damping.value / before)
    # 1 - 0.8^3 is less than the factor of every good step, 1 - 0.5^3 is not
    assert values == pytest.approx([1 / 3, 1 - 0.8**3, 2 / 3, 1.0, 1.125, 1 + 0.98**3])


def test_failures_in_a_row_raise_nielsens_damping_ever_faster():
    damping = LevenbergMarquardt(1.0, nielsen=True)
    values = []
    for step in (damping.reject, damping.reject, lambda: damping.update(math.nan), lambda: damping.update(-0.1)):
        step()
        values.append(damping.value)
    assert values == [2.0, 8.0, 64.0, 1024.0]
    damping.update(0.5)
    damping.reject()
    assert damping.value == 2048.0
    low = LevenbergMarquardt(1.0, nielsen=True, minimum=0.5)
    low.update(1.0)
    assert low.value == 0.5


def test_the_first_damping_is_a_share_of_the_curvature():
    damping = LevenbergMarquardt(math.nan, nielsen=True)
    assert not damping.begun
    damping.begin(30.0)
    assert damping.begun
    assert damping.value == pytest.approx(3.0)
    # a flat function, or one that overflows, says nothing of a scale
    for curvature in (0.0, math.inf, math.nan):
        damping.begin(curvature)
        assert damping.value == 1.0


def test_ratio_is_one_where_the_model_is_exact():
    # f(a) = -2 a + 3 a^2: slope -2, curvature 6
    assert reduction_ratio(-2 * 0.25 + 3 * 0.0625, -2.0, 6.0, 0.25) == pytest.approx(1.0)
    assert math.isnan(reduction_ratio(0.0, 0.0, 0.0, 1.0))


def run(cg):
    """Steps to the end, and the iterate after each, the start included."""
    iterates = [cg.x.copy()]
    while not cg.finished:
        cg.step()
        iterates.append(cg.x.copy())
    return iterates


def test_preconditioned_cg_minimises_over_its_own_krylov_space():
    A, b, M = spd(9), np.random.default_rng(1).standard_normal(9), spd(9, seed=2)
    root = np.linalg.cholesky(np.linalg.inv(M))
    precondition = np.linalg.inv(M).dot
    for k in (1, 2, 4):
        cg = solver(A, b, max_steps=k, precondition=precondition)
        run(cg)
        # CG on root^T A root, in the variables root^-1 x
        expected = root @ krylov_minimiser(root.T @ A @ root, root.T @ b, k)
        np.testing.assert_allclose(cg.x, expected, rtol=0, atol=1e-11)
        assert cg.residual_norm == pytest.approx(np.linalg.norm(b - A @ cg.x), rel=1e-8)


@pytest.mark.parametrize("start", [None, np.linspace(-2.0, 3.0, 9)], ids=["cold", "warm"])
@pytest.mark.parametrize("M", [None, spd(9, seed=2)], ids=["plain", "preconditioned"])
def test_cg_reaches_the_solution_from_anywhere_with_any_preconditioner(M, start):
    A, b = spd(9), np.random.default_rng(1).standard_normal(9)
    kept = b.copy()
    precondition = None if M is None else np.linalg.inv(M).dot
    cg = solver(A, b, tolerance=1e-12, precondition=precondition, start=start)
    run(cg)
    np.testing.assert_allclose(cg.x, np.linalg.solve(A, b), rtol=0, atol=1e-10)
    assert cg.n_steps <= 15
    assert np.array_equal(b, kept)


def test_a_perfect_preconditioner_takes_one_step():
    A, b = spd(9), np.ones(9)
    cg = solver(A, b, tolerance=1e-10, precondition=np.linalg.inv(A).dot)
    run(cg)
    assert cg.n_steps == 1


def test_a_start_at_the_solution_takes_no_step_once_steps_are_not_forced():
    A, b = spd(9), np.ones(9)
    start = np.linalg.solve(A, b)
    assert solver(A, b, tolerance=1e-8, min_steps=0, start=start).finished
    assert not solver(A, b, tolerance=1e-8, min_steps=0, start=0.9 * start).finished
    cg = solver(A, b, tolerance=0.11, min_steps=0, start=0.9 * start)
    assert cg.relative_residual == pytest.approx(0.1)
    assert cg.finished
    assert np.array_equal(start, np.linalg.solve(A, b))


def progress_system(n=120):
    """Eigenvalues over four decades: the model creeps on for long."""
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    return (Q * np.logspace(-2, 2, n)) @ Q.T, rng.standard_normal(n)


@pytest.mark.parametrize("M", [None, np.diag(np.linspace(1.0, 5.0, 120))], ids=["plain", "preconditioned"])
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("epsilon", [5e-4, 5e-2])
def test_martens_rule_stops_at_its_step(epsilon, warm, M):
    A, b = progress_system()
    start = np.random.default_rng(3).standard_normal(len(b)) if warm else None
    precondition = None if M is None else np.linalg.inv(M).dot
    options = {"max_steps": 300, "precondition": precondition, "start": start}
    points = run(solver(A, b, **options))
    phi = [0.5 * x @ A @ x - b @ x for x in points]
    met = []
    for i in range(1, len(phi)):
        k = max(10, math.ceil(i / 10))
        if i > k and phi[i] < 0 and (phi[i] - phi[i - k]) / phi[i] < k * epsilon:
            met.append(i)
    stopped = solver(A, b, progress=epsilon, **options)
    run(stopped)
    assert stopped.n_steps == met[0]
    assert 10 < met[0] < 300
    later = solver(A, b, progress=epsilon, min_steps=met[0] + 5, **options)
    run(later)
    assert later.n_steps == min(i for i in met if i >= met[0] + 5)


def test_far_steps_of_martens_rule_look_back_a_tenth():
    progress = Progress(1e-3)
    for _ in range(200):
        progress.step(1.0)
        # k steps are k / i of phi_i = -i
        assert not progress.exhausted
    n_still = 0
    while not progress.exhausted:
        progress.step(0.0)
        n_still += 1
    # 200 - (i - k) < 0.2 k with k = i / 10 = 22, rounded up; k = 10 would end after 9
    assert n_still == 18


def test_progress_means_nothing_while_the_model_is_positive():
    progress = Progress(0.1, start=100.0)
    for _ in range(50):
        progress.step(0.0)
    assert not progress.exhausted
    progress.step(101.0)
    # negative at last, but only just arrived there
    assert not progress.exhausted


def test_the_rule_of_progress_waits_for_more_than_ten_steps():
    progress = Progress(0.1, start=-100.0)
    for _ in range(10):
        progress.step(0.0)
        assert not progress.exhausted
    progress.step(0.0)
    assert progress.exhausted
