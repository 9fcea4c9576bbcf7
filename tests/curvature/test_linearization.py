"""What a direction may ask beyond products: other points, second derivatives, the diagonal, two forms of damping."""

from __future__ import annotations

import numpy as np
import pytest
from convolutional import Conv
from groups import taylor
from problems import alternating, linearization, make_case, make_image_case, named_direction

from distnewton.curvature.operators import BlockGaussNewton
from distnewton.curvature.point import Point
from distnewton.curvature.sample import CurvatureSample
from distnewton.method.combination import combine
from distnewton.parallel.termination import NEVER
from distnewton.solvers.conjugate_gradient import ConjugateGradient

pytestmark = pytest.mark.mpi(min_size=1)
ROWS = 2, 8
WIDTHS = (4, 5, 3, 3)


def cases(world, pooling="max_pool"):
    """The same problem on every grid, and one on images."""
    for splits in alternating(world.size, 3):
        yield make_case(world, WIDTHS, splits, loss="cross_entropy")
    convs = [Conv(3, (2, 2), pool=(pooling, (2, 2), (2, 2)))]
    yield make_image_case(world, (2, 5, 5), convs, [4], 3, (1, world.size, 1, 1), loss="cross_entropy", n=9)


def derivatives(case, rows, v):
    """First and second derivative of the outputs along v, from outputs alone."""
    def output(k, c):
        return taylor(lambda t: case.dense.outputs(case.theta + t[:, None] * v, [k])[:, 0, c], 2, 0.05)

    every = np.array([[output(k, c) for c in range(case.dense.widths[-1])] for k in rows])
    return every[:, :, 1], every[:, :, 2]


def dense_diagonal(case):
    G = case.dense.gauss_newton(case.theta, list(range(*ROWS)))
    return np.diag(G) - 1 / case.dense.C


def direction(case):
    return np.random.default_rng(3).standard_normal(case.dense.n_params)


@pytest.mark.parametrize("options", [{}, {"rooted": True}, {"curvature": False}])
def test_other_points_curves_and_cotangents(world, options):
    for case in cases(world, "avg_pool"):
        with case.grid:
            sample, rows = linearization(case, ROWS, **options).sample, list(range(*ROWS))
            v = 0.3 * direction(case)
            moved = sample.outputs((case.theta + v)[case.own_index])
            assert case.agree(np.allclose(moved, case.dense.outputs(case.theta + v, rows), rtol=1e-12, atol=1e-13))
            first, second = sample.curve(v[case.own_index])
            along, bent = derivatives(case, rows, v)
            assert case.agree(np.allclose(first, along, rtol=1e-9, atol=1e-10))
            assert case.agree(np.allclose(second, bent, rtol=1e-7, atol=1e-7))
            U = np.random.default_rng(4).standard_normal(first.shape)
            expected = np.einsum("sk,skp->p", U, case.dense.jacobian(case.theta, rows))[case.own_index]
            assert case.agree(np.allclose(sample.pull_back(U), expected, rtol=1e-11, atol=1e-12))


def test_curves_of_many_samples_are_those_of_few(world, monkeypatch):
    for case in cases(world, "avg_pool"):
        with case.grid:
            sample, v = linearization(case, ROWS).sample, direction(case)[case.own_index]
            whole = sample.curve(v)
            with monkeypatch.context() as patch:
                patch.setattr("distnewton.network.activations._STRIP", 1)
                parts = sample.curve(v)
            assert case.agree(all(np.array_equal(a, b) for a, b in zip(whole, parts, strict=True)))


@pytest.mark.parametrize("options", [{}, {"rooted": True}, {"curvature": False}])
def test_the_diagonal_is_exact(world, options):
    for case in cases(world):
        with case.grid:
            sample = linearization(case, ROWS, **options).sample
            expected = dense_diagonal(case)[case.own_index]
            assert case.agree(np.allclose(sample.diagonal(), expected, rtol=1e-11, atol=1e-13))


def test_the_diagonal_of_a_sketch_is_that_of_its_matrix(world):
    for splits in alternating(world.size, 3):
        with (case := make_case(world, WIDTHS, splits, loss="cross_entropy")).grid:
            sample = linearization(case, ROWS, sketch=2).sample
            rows = list(range(*ROWS))
            roots = case.dense.random_roots(case.theta, rows, 2, np.random.default_rng(0))
            R = np.einsum("sak,skp->sap", roots, case.dense.jacobian(case.theta, rows))
            expected = (R**2).sum(axis=(0, 1)) / len(rows)
            assert case.agree(np.allclose(sample.diagonal(), expected[case.own_index], rtol=1e-10, atol=1e-12))


def test_replicas_share_the_samples_of_the_diagonal(world):
    if world.size % 2:
        pytest.skip("two replicas need an even number of ranks")
    case = make_case(world, WIDTHS, (1, world.size // 2, 1, world.size // 2), loss="cross_entropy", n_replicas=2)
    with case.grid:
        evaluation = case.objective.evaluate(case.params, ROWS)
        samples, activations = evaluation.subsample
        targets = case.objective.targets[slice(*samples)]
        point = Point(case.network, case.params, activations, case.objective.loss, targets)
        sample = CurvatureSample(point, share=evaluation.share)
        sample.linearize()
        assert case.agree(np.allclose(sample.diagonal(), dense_diagonal(case)[case.own_index], rtol=1e-11, atol=1e-13))


@pytest.mark.parametrize("form", ["identity", "diagonal"])
@pytest.mark.parametrize("options", [{}, {"rooted": True}, {"curvature": False}])
def test_damped_products_of_both_forms(world, form, options):
    for case in cases(world):
        with case.grid:
            problem = linearization(case, ROWS, damping=0.4, form=form, **options)
            G = case.dense.gauss_newton(case.theta, list(range(*ROWS)))
            D = np.ones(len(G)) if form == "identity" else np.diag(G)
            v = direction(case)
            expected = (G @ v + 0.4 * D * v)[case.own_index]
            assert case.agree(np.allclose(problem.matvec(v[case.own_index]), expected, rtol=1e-11, atol=1e-12))
            assert problem.shift == pytest.approx(1 / case.dense.C + 0.4 * D.mean(), rel=1e-12)


def test_own_blocks_solve_with_the_diagonal_form(world):
    for splits in alternating(world.size, 3):
        with (case := make_case(world, WIDTHS, splits, loss="cross_entropy")).grid:
            problem = linearization(case, ROWS, damping=0.4, form="diagonal")
            G = case.dense.gauss_newton(case.theta, list(range(*ROWS)))
            own = case.own_index
            A, b = (G + 0.4 * np.diag(np.diag(G)))[np.ix_(own, own)], -problem.gradient
            matrix = BlockGaussNewton(problem.sample.jacobian, problem.sample.loss_hessian, problem.shift_matrix)
            cg = ConjugateGradient(matrix.matvec, b, np.dot, tolerance=1e-13, max_steps=300)
            while len(own) and not cg.finished:
                cg.step()
            fine = not len(own) or np.allclose(cg.x, np.linalg.solve(A, b), rtol=1e-9, atol=1e-10)
            assert case.agree(fine)


def test_variables_without_curvature_are_damped(world):
    case = make_case(world, (3, 4, 2), (1, world.size, 1), activation="relu", C=np.inf)
    case.theta[:] = 0.0
    with case.grid:
        problem = linearization(case, ROWS, form="diagonal")
        assert case.agree((problem.damping_matrix > 0).all())


@pytest.mark.parametrize("method", ["gauss_newton", "block_diagonal"])
def test_directions_and_their_combination_damp_by_the_diagonal(world, method):
    for splits in alternating(world.size, 3):
        with (case := make_case(world, WIDTHS, splits, loss="cross_entropy")).grid:
            problem = linearization(case, ROWS, damping=0.4, form="diagonal")
            G, g = case.dense.gauss_newton(case.theta, list(range(*ROWS))), case.dense.gradient(case.theta)
            A = G + 0.4 * np.diag(np.diag(G))
            solver = named_direction(method, cg_tolerance=1e-13, cg_max=400)
            found = case.whole(solver.solve(problem, NEVER).direction)
            expected = np.zeros(len(g))
            for index in [range(len(g))] if method == "gauss_newton" else map(case.index_of, range(world.size)):
                expected[index] = np.linalg.solve(A[np.ix_(index, index)], -g[index])
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * np.linalg.norm(expected))
            other = direction(case)
            combined = combine(problem, case.params, [expected[case.own_index], other[case.own_index]])
            basis = np.column_stack([expected, other])
            betas = np.linalg.solve(basis.T @ A @ basis, -basis.T @ g)
            np.testing.assert_allclose(combined.betas, betas, rtol=1e-8, atol=1e-10)
