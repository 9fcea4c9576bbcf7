"""Roots of the loss Hessian, exact and random, and the Gauss-Newton matrices and directions made of them."""

from __future__ import annotations

import numpy as np
import pytest
from problems import alternating, dense_system, linearization, make_case, named_direction, newton_trainer

import distnewton
from distnewton.curvature.operators import BlockGaussNewton
from distnewton.curvature.sketch import auto_sketch
from distnewton.method.batches import draws
from distnewton.network.losses import LOSSES
from distnewton.network.shapes import dense_shape
from distnewton.parallel.collectives import Communicator
from distnewton.parallel.partition import Partition
from distnewton.parallel.termination import NEVER

pytestmark = pytest.mark.mpi(min_size=1, sizes=(3,))

NETWORKS = [((4, 3, 5, 3), "cross_entropy"), ((5, 4, 3, 3), "squared"), ((3, 4, 2, 1), "logistic"),
            ((4, 3, 2, 3), "logistic")]  # fmt: skip
ROWS = (2, 7)
SEED = 11


def hessian_at(case, rows):
    return case.objective.loss.hessian(case.dense.outputs(case.theta, rows), case.objective.targets[rows])


@pytest.mark.parametrize(("widths", "loss"), NETWORKS)
def test_squares_of_exact_roots_add_up_to_the_hessian(world, widths, loss):
    case = make_case(world, widths, (1, world.size, 1, 1), loss=loss)
    with case.grid:
        rows = list(range(9))
        roots = hessian_at(case, rows).roots(widths[-1], None)
        assert roots.shape == (9, widths[-1], widths[-1])
        B = case.dense.analytic_loss_hessians(case.theta, rows)
        np.testing.assert_allclose(np.einsum("sab,sac->sbc", roots, roots), B, rtol=0, atol=1e-14)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("loss", ["cross_entropy", "squared", "logistic"])
def test_squares_of_random_roots_have_the_hessian_as_their_mean(loss, k):
    n_draws, n_out = 10_000, 1 if loss == "logistic" else 3
    z = np.array([[0.3], [-2.0]]) if loss == "logistic" else np.array([[0.3, -1.0, 0.5], [3.0, 0.0, 0.0]])
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    q = 1 / (1 + np.exp(-z))
    B = {
        "cross_entropy": np.array([np.diag(row) - np.outer(row, row) for row in p]),
        "squared": np.array([2 * np.eye(n_out)] * 2),
        "logistic": (q * (1 - q))[:, :, None],
    }[loss]
    # each draw is a sample of its own
    roots = LOSSES[loss].hessian(np.repeat(z, n_draws, axis=0), None).roots(k, np.random.default_rng(0))
    assert roots.shape == (2 * n_draws, k, n_out)
    squares = np.einsum("sab,sac->sbc", roots, roots).reshape(2, n_draws, n_out, n_out)
    errors = squares.std(axis=1) / np.sqrt(n_draws)
    assert (abs(squares.mean(axis=1) - B) <= 4.5 * errors + 1e-12).all()
    if loss == "logistic":
        # one output: the square of a sign is no draw
        assert errors.max() < 1e-12
    else:
        # off the diagonal chance never leaves: so the mean above is one, not the matrix itself
        assert (errors[:, ~np.eye(n_out, dtype=bool)] > 1e-5).all()
    # rows of a sample, and samples, are drawn apart: their products have mean zero
    rows = roots.reshape(2, n_draws, k, n_out)
    pairs = [(rows[:, :-1, 0], rows[:, 1:, 0])] + [(rows[:, :, 0], rows[:, :, -1])] * (k > 1)
    for left, right in pairs:
        products = left[:, :, :, None] * right[:, :, None, :]
        errors = products.std(axis=1) / np.sqrt(n_draws)
        assert (abs(products.mean(axis=1)) <= 4.5 * errors + 1e-3 / n_draws).all()


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize(("widths", "loss"), NETWORKS)
def test_random_roots_follow_the_documented_draws(world, widths, loss, k):
    case = make_case(world, widths, (1, world.size, 1, 1), loss=loss)
    with case.grid:
        rows = list(range(*ROWS))
        roots = hessian_at(case, rows).roots(k, np.random.default_rng(SEED))
        expected = case.dense.random_roots(case.theta, rows, k, np.random.default_rng(SEED))
        np.testing.assert_allclose(roots, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("widths", "loss"), NETWORKS)
def test_exact_roots_make_the_same_products_as_the_hessian(world, widths, loss):
    for splits in alternating(world.size, 3):
        case = make_case(world, widths, splits, loss=loss)
        with case.grid:
            v = np.random.default_rng(1).standard_normal(case.dense.n_params)[case.own_index]
            plain, rooted = (linearization(case, ROWS, rooted=r) for r in (False, True))
            products = [BlockGaussNewton(p.jacobian, p.loss_hessian, p.shift).matvec(v) for p in (plain, rooted)]
            assert case.agree(np.allclose(products[1], products[0], rtol=0, atol=1e-12))
            options = {"cg_tolerance": 0.0, "cg_max": 4, "cg_min": 1}
            found = [named_direction("gauss_newton", **options).solve(p, NEVER).direction for p in (plain, rooted)]
            assert case.agree(np.allclose(found[1], found[0], rtol=0, atol=1e-11))


@pytest.mark.parametrize("rooted", [False, True])
@pytest.mark.parametrize("sketch", [3, 4])
def test_a_sketch_of_all_outputs_or_more_is_none(world, sketch, rooted):
    case = make_case(world, (4, 3, 5, 3), (1, world.size, 1, 1), loss="cross_entropy")
    with case.grid:
        v = np.random.default_rng(1).standard_normal(case.dense.n_params)[case.own_index]
        products = [linearization(case, ROWS, sketch=k, rooted=rooted).jacobian.matvec(v) for k in (0, sketch)]
        assert case.agree(np.array_equal(*products))
        small = linearization(case, ROWS, sketch=2, rooted=rooted)
        assert small.jacobian.n_out == 2
        assert small.jacobian.matvec(v).shape == (5, 2)


@pytest.mark.parametrize("sketch", [1, 2])
@pytest.mark.parametrize("name", ["gauss_newton", "block_diagonal", "dual", "block_dual"])
@pytest.mark.parametrize(("widths", "loss"), NETWORKS[:2])
def test_sketched_directions_equal_dense_solves_with_the_same_cotangents(world, widths, loss, name, sketch):
    for splits in alternating(world.size, 3):
        case = make_case(world, widths, splits, loss=loss)
        with case.grid:
            rows = list(range(*ROWS))
            roots = case.dense.random_roots(case.theta, rows, sketch, np.random.default_rng(SEED))
            A, b = dense_system(case, ROWS, 0.3, roots)
            direction = named_direction(name, cg_tolerance=1e-12, cg_max=300, cg_min=1)
            rooted = direction.curvature == "roots"
            problem = linearization(case, ROWS, damping=0.3, sketch=sketch, rooted=rooted, seed=SEED)
            exact = np.zeros_like(b)
            whole = name in {"gauss_newton", "dual"}
            for index in [np.arange(len(b))] if whole else map(case.index_of, range(world.size)):
                exact[index] = np.linalg.solve(A[np.ix_(index, index)], b[index])
            found = case.whole(direction.solve(problem, NEVER).direction)
            np.testing.assert_allclose(found, exact, rtol=0, atol=1e-9 * np.linalg.norm(exact))


@pytest.mark.parametrize("preconditioner", ["none", "diagonal"])
@pytest.mark.parametrize("name", ["gauss_newton", "dual"])
def test_a_sketched_run_is_the_same_on_every_grid(world, name, preconditioner):
    if name == "dual" and preconditioner != "none":
        return
    options = {"cg_tolerance": 0.0, "cg_max": 4, "cg_min": 1, "preconditioner": preconditioner}

    def objectives(comm, splits, sketch):
        case = make_case(comm, (4, 5, 3, 3), splits, loss="cross_entropy", n=16)
        with case.grid:
            trainer = newton_trainer(case, named_direction(name, **options), seed=3, sketch=sketch)
            return [record.objective for record in trainer.iterations(5)]

    alone = objectives(Communicator(), (1, 1, 1, 1), 1)
    assert alone[-1] < alone[0]
    assert abs(alone[-1] - objectives(Communicator(), (1, 1, 1, 1), 0)[-1]) > 1e-4
    for splits in alternating(world.size, 3):
        np.testing.assert_allclose(objectives(world, splits, 1), alone, rtol=1e-9)


def test_draws_are_a_function_of_seed_stage_and_step():
    first = draws(3, 1, 7).random(4)
    np.testing.assert_array_equal(draws(3, 1, 7).random(4), first)
    for other in [(4, 1, 7), (3, 2, 7), (3, 1, 8)]:
        assert not np.isclose(draws(*other).random(4), first).any()


def test_few_outputs_are_exact_and_the_rows_of_many_are_limited():
    def partition(n_out):
        return Partition((16, 300, 300, n_out), (1, 2, 1, 2))

    def rows(n_out, n, itemsize, memory):
        return auto_sketch(dense_shape((16, 300, 300, n_out)), partition(n_out), n, itemsize, memory)

    assert rows(64, 750, 4, 1e9) == 0
    assert rows(65, 750, 4, 1e9) == 16
    # a rank's own outputs are 150, 300 and 338 wide
    assert rows(676, 750, 4, 750 * 788 * 4 * 10.5) == 10
    assert rows(676, 750, 4, 1e3) == 4


def test_many_outputs_are_sketched_and_the_run_says_so(world):
    rng = np.random.default_rng(0)
    source = distnewton.ArraySource(rng.standard_normal((140, 5)), np.arange(140) % 70)
    tree = {"network": {"layers": ["auto", 4, 6, "auto"]}, "run": {"iterations": 2, "threads": 1, "dtype": "float64"}}
    method = {"direction": "gauss_newton", "subsample_min": 70}
    auto = distnewton.train(distnewton.make_config({**tree, "method": method}), world, train_data=source)
    assert "gauss_newton: 16 random cotangents a sample replace 70 outputs" in auto.summary.notes[0]
    given, exact = (
        distnewton.train(distnewton.make_config({**tree, "method": method | {"sketch": k}}), world, train_data=source)
        for k in (16, 0)
    )
    assert [r.objective for r in given.history] == [r.objective for r in auto.history]
    assert exact.last.objective != auto.last.objective
