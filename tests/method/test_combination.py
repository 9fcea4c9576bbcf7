"""The 2 x 2 system of the step, its degenerate cases, and the scalars it hands to the damping rule."""

from __future__ import annotations

import numpy as np
import pytest
from problems import alternating, linearization, make_case

from distnewton.method.combination import combine, minimise


def test_minimiser_of_the_model_over_two_directions():
    rng = np.random.default_rng(0)
    M = rng.standard_normal((2, 5))
    A, slopes = M @ M.T, rng.standard_normal(2)
    np.testing.assert_allclose(minimise(A, slopes), -np.linalg.solve(A, slopes), rtol=1e-12)
    np.testing.assert_allclose(minimise(A[:1, :1], slopes[:1]), -slopes[:1] / A[0, 0], rtol=1e-15)


def test_degenerate_directions_do_not_blow_up():
    parallel = np.array([[1.0, 2.0], [2.0, 4.0 + 1e-14]])
    assert minimise(parallel, np.array([-3.0, -6.0])).tolist() == [3.0, 0.0]
    assert minimise(np.zeros((2, 2)), np.zeros(2)).tolist() == [0.0, 0.0]
    assert minimise(np.array([[2.0, 0.0], [0.0, 0.0]]), np.array([-1.0, 0.0])).tolist() == [0.5, 0.0]


@pytest.mark.mpi(min_size=1)
@pytest.mark.parametrize("sketch", [0, 1])
@pytest.mark.parametrize("scale", [True, False])
def test_combination_equals_the_dense_model_on_every_grid(world, scale, sketch):
    # also for a sketch: along its own direction the model is the exact one
    for splits in alternating(world.size, 3):
        case = make_case(world, (5, 4, 3, 2), splits, loss="cross_entropy")
        with case.grid:
            problem = linearization(case, (2, 7), damping=0.3, sketch=sketch)
            rng = np.random.default_rng(3)
            d = rng.standard_normal((2, case.dense.n_params))
            found = combine(problem, case.params, [v[case.own_index] for v in d], scale=scale)
            g, G = case.dense.gradient(case.theta), case.dense.gauss_newton(case.theta, list(range(2, 7)))
            betas = -np.linalg.solve(d @ (G + 0.3 * np.eye(len(g))) @ d.T, d @ g) if scale else np.array([1.0, 0.0])
            whole = betas @ d
            np.testing.assert_allclose(case.whole(found.direction), whole, rtol=0, atol=1e-11)
            expected = [g @ whole, whole @ G @ whole, whole @ whole, case.theta @ whole]
            scalars = [found.slope, found.curvature, found.squared_norm, found.params_dot]
            np.testing.assert_allclose(scalars, expected, rtol=1e-10)
