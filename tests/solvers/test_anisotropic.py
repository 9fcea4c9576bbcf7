"""Step sizes of groups: the equation, the choice among its solutions, and where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distnewton.solvers.anisotropic import step_sizes


def problem(n, seed, lowest):
    """H with a given smallest eigenvalue, g, and third derivatives of both signs."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n, n))
    H = A @ A.T
    H += (lowest - np.linalg.eigvalsh(H)[0]) * np.eye(n)
    return H, rng.standard_normal(n), 3.0 * rng.standard_normal(n)


def matrix(H, third, damping, r):
    return H + 0.5 * damping * r * np.diag(np.cbrt(np.abs(third)) ** 2)


def length(third, eta):
    return np.linalg.norm(np.cbrt(np.abs(third)) * eta)


def check_equation(H, g, third, damping, eta, rtol=1e-8):
    r = length(third, eta)
    A = matrix(H, third, damping, r)
    assert np.linalg.norm(A @ eta - g) <= rtol * (np.linalg.norm(g) + np.linalg.norm(A) * np.linalg.norm(eta))
    eigenvalues = np.linalg.eigvalsh(A)
    assert eigenvalues[0] >= -1e-9 * eigenvalues[-1]
    return r


def largest_root(H, g, third, damping, upto):
    """Largest r with || D A(r)^-1 g || = r below a bound, by signs on a fine scan."""
    scan = np.linspace(1e-6, upto, 40001)
    D = np.cbrt(np.abs(third))
    excess = [np.linalg.norm(D * np.linalg.solve(matrix(H, third, damping, r), g)) - r for r in scan]
    crossings = np.flatnonzero(np.diff(np.sign(excess)) < 0)
    return scan[crossings[-1]]


@given(st.integers(1, 6), st.integers(0, 99), st.sampled_from([0.5, -2.0]), st.sampled_from([0.01, 1.0, 10.0]))
def test_the_equation_holds_with_a_positive_definite_matrix(n, seed, lowest, damping):
    H, g, third = problem(n, seed, lowest)
    eta = step_sizes(H, g, third, damping)
    check_equation(H, g, third, damping, eta)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("lowest", [0.3, -0.7])
def test_the_largest_root_is_taken(seed, lowest):
    H, g, third = problem(3, seed, lowest)
    r = length(third, step_sizes(H, g, third, 2.0))
    assert largest_root(H, g, third, 2.0, 3 * r) == pytest.approx(r, rel=1e-3)


def test_an_indefinite_problem_has_smaller_roots_that_are_not_taken():
    # (-1 + r) eta = 0.2, |eta| = r: r = (1 + sqrt(1.8)) / 2, and with the other sign two below it
    H, g, third = np.array([[-1.0]]), np.array([0.2]), np.array([1.0])
    (eta,) = step_sizes(H, g, third, 2.0)
    assert eta == pytest.approx((1 + np.sqrt(1.8)) / 2, rel=1e-12)
    for r in np.roots([1, -1, 0.2]):
        smaller = 0.2 / (-1 + r)
        assert abs(smaller) == pytest.approx(r)
        assert r < eta


def test_one_positive_group_is_the_root_of_a_quadratic():
    # (3 + 5 * 2^2 * 2 eta) eta = 0.7 with D = 2, lambda = 10
    (eta,) = step_sizes(np.array([[3.0]]), np.array([0.7]), np.array([-8.0]), 10.0)
    assert eta == pytest.approx((-3 + np.sqrt(9 + 4 * 40 * 0.7)) / 80, rel=1e-12)
    assert step_sizes(np.array([[3.0]]), np.array([-0.7]), np.array([8.0]), 10.0)[0] == pytest.approx(-eta, rel=1e-12)


@pytest.mark.parametrize("lowest", [0.5, -0.5])
def test_groups_without_third_derivative(lowest):
    H, g, third = problem(5, 2, lowest)
    third[[1, 3]] = 0.0
    H[1, 1] += 10.0
    H[3, 3] += 10.0
    eta = step_sizes(H, g, third, 2.0)
    r = check_equation(H, g, third, 2.0, eta)
    assert largest_root(H, g, third, 2.0, 3 * r) == pytest.approx(r, rel=1e-3)


def test_a_rounding_error_of_a_third_derivative_hardly_counts():
    H, g, third = problem(3, 4, 0.5)
    third[2] = 0.0
    exact = step_sizes(H, g, third, 2.0)
    third[2] = 1e-16 * abs(third).max()
    np.testing.assert_allclose(step_sizes(H, g, third, 2.0), exact, rtol=1e-9)


@pytest.mark.parametrize("spread", [1e-3, 1e-7, 1e-12])
@pytest.mark.parametrize("lowest", [0.4, -0.4])
@pytest.mark.parametrize("damping", [0.1, 10.0])
def test_groups_of_any_scale_keep_their_cubic_terms(spread, lowest, damping):
    # cutting small D_s would leave no solution: the negative curvature is everywhere
    H, g, third = problem(5, 12, lowest)
    eta = step_sizes(H, g, third, damping)
    factors = np.array([1.0, spread, -(spread**0.5), 1 / spread, 1.0])
    scaled = step_sizes(np.outer(factors, factors) * H, factors * g, factors**3 * third, damping)
    np.testing.assert_allclose(scaled * factors, eta, rtol=1e-9)


def test_a_problem_beyond_all_scales_has_no_solution():
    assert step_sizes(np.array([[-1e300]]), np.array([1.0]), np.array([1e-290]), 1.0) is None


def test_groups_without_variables_get_zero():
    H, g, third = problem(4, 5, -1.0)
    for s in (0, 2):
        H[s, :] = H[:, s] = g[s] = third[s] = 0.0
    eta = step_sizes(H, g, third, 3.0)
    kept = [1, 3]
    np.testing.assert_allclose(eta[kept], step_sizes(H[np.ix_(kept, kept)], g[kept], third[kept], 3.0), rtol=1e-12)
    assert not eta[[0, 2]].any()
    assert not step_sizes(np.zeros((2, 2)), np.zeros(2), np.zeros(2), 1.0).any()
    assert not step_sizes(np.zeros((2, 2)), np.zeros(2), np.zeros(2), 0.0).any()


def test_no_gradient_no_step():
    H, _, third = problem(3, 6, 0.5)
    assert not step_sizes(H, np.zeros(3), third, 2.0).any()
    # a saddle point with no gradient: the equation's solution of positive length is along an eigenvector, not unique
    assert step_sizes(H - 2.0 * np.eye(3), np.zeros(3), third, 2.0) is None


@pytest.mark.parametrize("lowest", [0.5, 1e-6])
def test_without_damping_or_third_derivatives_it_is_newton(lowest):
    H, g, third = problem(4, 7, lowest)
    expected = np.linalg.solve(H, g)
    np.testing.assert_allclose(step_sizes(H, g, third, 0.0), expected, rtol=1e-8)
    np.testing.assert_allclose(step_sizes(H, g, 0 * third, 5.0), expected, rtol=1e-8)


def test_no_solution():
    H, g, third = problem(3, 8, -0.5)
    assert step_sizes(H, g, third, 0.0) is None
    assert step_sizes(H, g, 0 * third, 1.0) is None
    # negative curvature along the group that has no third derivative
    assert step_sizes(np.diag([1.0, -1.0]), np.ones(2), np.array([1.0, 0.0]), 1.0) is None
    # singular along it
    assert step_sizes(np.diag([1.0, 0.0]), np.ones(2), np.array([1.0, 0.0]), 1.0) is None
    # the hard case: nothing of g along the negative direction, and too little along the other
    assert step_sizes(np.diag([-1.0, 1.0]), np.array([0.0, 0.5]), np.ones(2), 2.0) is None


def test_the_hard_case_with_enough_gradient_elsewhere():
    H, g, third = np.diag([-1.0, 1.0]), np.array([0.0, 5.0]), np.ones(2)
    eta = step_sizes(H, g, third, 2.0)
    assert check_equation(H, g, third, 2.0, eta) > 1.0
    # (1 + r) r = 5
    assert eta == pytest.approx([0.0, (np.sqrt(21) - 1) / 2], rel=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_have_no_solution(bad):
    H, g, third = problem(2, 9, 0.5)
    assert step_sizes(np.where(np.eye(2), H, bad), g, third, 1.0) is None
    assert step_sizes(H, np.array([bad, 1.0]), third, 1.0) is None
    assert step_sizes(H, g, np.array([1.0, bad]), 1.0) is None


@pytest.mark.parametrize("damping", [0.0, 1.0, 10.0])
@pytest.mark.parametrize("lowest", [0.4, -0.4])
def test_scaling_the_direction_of_a_group_scales_its_step_inversely(damping, lowest):
    H, g, third = problem(4, 10, lowest)
    factors = np.array([1e-3, 1.0, 20.0, -5.0])
    eta = step_sizes(H, g, third, damping)
    scaled = step_sizes(np.outer(factors, factors) * H, factors * g, factors**3 * third, damping)
    if damping or lowest > 0:
        np.testing.assert_allclose(scaled * factors, eta, rtol=1e-7)
    else:
        assert eta is None
        assert scaled is None


def test_arguments_are_kept():
    H, g, third = problem(3, 11, -0.5)
    before = H.copy(), g.copy(), third.copy()
    assert step_sizes(H, g, third, 1.0) is not None
    for array, copy in zip((H, g, third), before, strict=True):
        np.testing.assert_array_equal(array, copy)
