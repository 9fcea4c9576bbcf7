"""What the system in sample space may be: dealt out over ranks, damped by a diagonal, with momentum, accelerated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from groups import taylor
from problems import alternating, dense_system, linearization, make_case, named_direction, newton_trainer, weigh

from distnewton.directions.sample_space import SampleSpace
from distnewton.parallel.termination import NEVER
from distnewton.solvers.block_cholesky import block_bounds, system_size

pytestmark = pytest.mark.mpi(min_size=1, sizes=(2, 4))

WIDTHS = (5, 4, 3, 2)
ALL = (0, 9)
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def grids(world, n_layers=3):
    """Splits and replicas: alternating and uneven ones, ranks without a block, and replicas without a sample."""
    return [(splits, R) for R in (1, 2) if world.size % R == 0 for splits in alternating(world.size // R, n_layers)]


@pytest.fixture(autouse=True)
def through_samples(monkeypatch):
    """Solve in sample space, however few variables there are."""
    monkeypatch.setattr("distnewton.solvers.least_squares.MOST_VARIABLES", 0)


@pytest.fixture
def dealt(monkeypatch):
    """Deal out matrices however small, in block columns of a few rows."""
    monkeypatch.setattr("distnewton.directions.sample_space.MOST_REPLICATED", 0)
    monkeypatch.setattr("distnewton.solvers.block_cholesky._NARROWEST", 3)


def model(case, rows=ALL, **options):
    return linearization(case, rows, rooted=True, **options)


def agrees(case, direction, exact, tolerance=1e-9):
    np.testing.assert_allclose(case.whole(direction), exact, rtol=0, atol=tolerance * np.linalg.norm(exact))


def dense_rows(case, rows=ALL):
    """J times roots of B, and u with J^T u / n the gradient of the mean squared loss."""
    rows = list(range(*rows))
    J = np.sqrt(2) * case.dense.jacobian(case.theta, rows).reshape(-1, case.dense.n_params)
    return J, np.sqrt(2) * (case.dense.outputs(case.theta, rows) - case.dense.y[rows]).ravel()


def dense_second_derivative(case, v):
    """d^2/dt^2 of the outputs at theta + t v."""
    return taylor(lambda t: case.dense.outputs(case.theta + t[:, None] * v), 2, 0.05 / np.linalg.norm(v))[2]


@pytest.mark.parametrize(("rows", "damping", "C", "sparse"), [(ALL, 0.5, 5.0, False), ((2, 7), 0.01, np.inf, True)])
@pytest.mark.parametrize(("widths", "loss"), [((3, 3, 2), "cross_entropy"), ((3, 2), "squared")])
def test_a_matrix_dealt_over_ranks_gives_the_dense_solve(world, dealt, widths, loss, rows, damping, C, sparse):
    for splits, R in grids(world, len(widths) - 1):
        case = make_case(world, widths, splits, loss=loss, C=C, sparse=sparse, n_replicas=R)
        with case.grid:
            A, b = dense_system(case, rows, damping)
            result = named_direction("dual").solve(model(case, rows, damping=damping), NEVER)
            agrees(case, result.direction, np.linalg.solve(A, b))
            assert case.agree(result.residual < 1e-9)
            n = (rows[1] - rows[0]) * widths[-1]
            assert case.agree(result.rank == n)


def test_a_dealt_matrix_makes_the_same_run_as_a_replicated_one(world, monkeypatch):
    runs = []
    for most in (2048, 0):
        monkeypatch.setattr("distnewton.directions.sample_space.MOST_REPLICATED", most)
        monkeypatch.setattr("distnewton.solvers.block_cholesky._NARROWEST", 3)
        case = make_case(world, WIDTHS, (1, world.size, 1, 1))
        with case.grid:
            trainer = newton_trainer(case, named_direction("dual"), subsample=1.0)
            records = list(trainer.iterations(5))
            runs.append(([record.objective for record in records], [r.direction.condition for r in records[1:]]))
    np.testing.assert_allclose(*(np.array(run[0]) for run in runs), rtol=1e-9)
    np.testing.assert_allclose(*(np.array(run[1]) for run in runs), rtol=1e-6)


@pytest.mark.parametrize("form", ["identity", "diagonal"])
@pytest.mark.parametrize("C", [5.0, np.inf])
@pytest.mark.parametrize("name", ["dual", "block_dual"])
def test_the_residuals_of_squares_give_the_dense_solve(world, name, C, form):
    for splits, R in grids(world) if name == "dual" else [(s, 1) for s in alternating(world.size, 3)]:
        case = make_case(world, WIDTHS, splits, C=C, n_replicas=R)
        with case.grid:
            problem = model(case, damping=0.3, form=form, of_sample=True)
            A, b = dense_system(case, ALL, 0.0)
            A = A + 0.3 * (np.diag(np.diag(A)) if form == "diagonal" else np.eye(len(A)))
            exact = np.zeros_like(b)
            parts = [np.arange(len(b))] if name == "dual" else [case.index_of(rank) for rank in range(case.grid.size)]
            for index in parts:
                exact[index] = np.linalg.solve(A[np.ix_(index, index)], b[index])
            result = named_direction(name, damping_form=form).solve(problem, NEVER)
            agrees(case, result.direction, exact)


def test_weighted_squares_have_residuals_too(world):
    weights = np.arange(9.0)
    case = weigh(make_case(world, WIDTHS, (1, world.size, 1, 1), C=np.inf), weights)
    with case.grid:
        problem = model(case, damping=0.3)
        exact = named_direction("dual").solve(problem, NEVER)
        result = named_direction("dual").solve(model(case, damping=0.3, of_sample=True), NEVER)
        agrees(case, result.direction, case.whole(exact.direction))


def test_little_damping_keeps_the_direction_where_the_usual_form_loses_it(world):
    case = make_case(world, WIDTHS, (1, world.size, 1, 1), C=np.inf)
    with case.grid:
        J, u = dense_rows(case)
        exact = -np.linalg.lstsq(J, u, rcond=None)[0]
        found = {
            of_sample: named_direction("dual").solve(model(case, damping=1e-13, of_sample=of_sample), NEVER)
            for of_sample in (False, True)
        }
        agrees(case, found[True].direction, exact, 1e-6)
        lost = case.whole(found[False].direction)
        assert np.linalg.norm(lost - exact) > 1e-3 * np.linalg.norm(exact)


@pytest.mark.parametrize(("C", "form", "of_sample"), [(np.inf, "identity", True), (5.0, "diagonal", False)])
def test_momentum_is_that_of_spring(world, C, form, of_sample):
    mu, damping = 0.9, 0.2
    for splits, R in grids(world):
        case = make_case(world, WIDTHS, splits, C=C, n_replicas=R)
        with case.grid:
            problem = model(case, damping=damping, form=form, of_sample=of_sample)
            direction = named_direction("dual", momentum=mu, damping_form=form)
            first = case.whole(direction.solve(problem, NEVER).direction)
            direction.step_taken(np.zeros(0), 0.25)
            second = case.whole(direction.solve(problem, NEVER).direction)
            J, u = dense_rows(case)
            if form == "identity":
                # equation 13 of the paper, with its lambda n times ours and phi = -d
                T = J @ J.T + 9 * damping * np.eye(len(J))
                phi = [J.T @ np.linalg.solve(T, u)]
                phi.append(J.T @ np.linalg.solve(T, u - mu * J @ phi[0]) + mu * phi[0])
            else:
                A, b = dense_system(case, ALL, 0.0)
                D = np.diag(np.diag(A))
                phi = [-np.linalg.solve(A + damping * D, b)]
                phi.append(-np.linalg.solve(A + damping * D, b - damping * mu * D @ phi[0]))
            np.testing.assert_allclose(first, -phi[0], rtol=0, atol=1e-9 * np.linalg.norm(phi[0]))
            np.testing.assert_allclose(second, -phi[1], rtol=0, atol=1e-9 * np.linalg.norm(phi[1]))
            direction.step_taken(np.zeros(0), 0.0)
            again = case.whole(direction.solve(problem, NEVER).direction)
            np.testing.assert_allclose(again, first, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", ["identity", "diagonal"])
@pytest.mark.parametrize("name", ["dual", "gauss_newton"])
@pytest.mark.parametrize("loss", ["squared", "cross_entropy"])
def test_acceleration_is_half_the_second_order_correction(world, loss, name, form):
    for splits, R in grids(world, 2) if name == "dual" else [((1, world.size, 1), 1)]:
        case = make_case(world, (3, 3, 2), splits, loss=loss, n_replicas=R)
        with case.grid:
            problem = linearization(case, ALL, damping=0.3, form=form, rooted=name == "dual", of_sample=True)
            A, b = dense_system(case, ALL, 0.0)
            A = A + 0.3 * (np.diag(np.diag(A)) if form == "diagonal" else np.eye(len(A)))
            v = np.linalg.solve(A, b)
            J = case.dense.jacobian(case.theta, list(range(9)))
            second = dense_second_derivative(case, v)
            B = case.objective.loss.hessian(case.dense.outputs(case.theta), np.asarray(case.dense.y))
            force = np.einsum("iap,ia->p", J, B.matvec(second)) / 9
            exact = np.linalg.solve(A, -force)
            options = {"damping_form": form, "cg_tolerance": 1e-14, "cg_max": 500, "cg_min": 1}
            limit = np.linalg.norm(exact) / np.linalg.norm(v)
            taken = named_direction(name, acceleration=1.01 * limit, **options).solve(problem, NEVER)
            agrees(case, taken.direction, v)
            agrees(case, taken.acceleration, 0.5 * exact, 1e-7)
            left = named_direction(name, acceleration=0.99 * limit, **options).solve(problem, NEVER)
            agrees(case, left.direction, v)
            assert case.agree(left.acceleration is None)


def test_what_cholesky_refuses_is_solved_by_eigenvalues_and_told(world):
    # three layers of one unit: 18 rows, of rank 9 at most
    case = make_case(world, (2, 1, 1, 2), (1, 1, 1, world.size), C=np.inf)
    with case.grid:
        problem = model(case, damping=1e-30, of_sample=True)
        trainer_note = named_direction("dual").solve(problem, NEVER)
        J, u = dense_rows(case)
        exact = -np.linalg.pinv(J, rcond=1e-7) @ u
        rank = np.linalg.matrix_rank(J)
        assert rank < len(J)
        agrees(case, trainer_note.direction, exact, 1e-6)
        assert case.agree(trainer_note.rank == rank)
        assert case.agree(f"largest {rank} of its {len(J)} eigenvalues" in trainer_note.note)


def test_records_tell_rank_condition_and_what_was_mended(world):
    case = make_case(world, (2, 1, 1, 2), (1, 1, 1, world.size), C=np.inf)
    with case.grid:
        trainer = newton_trainer(case, named_direction("dual"), subsample=1.0, damping=1e-30)
        record = list(trainer.iterations(1))[-1]
        assert case.agree(len(record.direction.rank) == world.size and max(record.direction.rank) < 18)
        assert case.agree("eigenvalues" in record.note)
        trainer = newton_trainer(case, named_direction("dual"), subsample=1.0, damping=0.1)
        record = list(trainer.iterations(1))[-1]
        J, _ = dense_rows(case)
        K = J @ J.T + 9 * 0.1 * np.eye(len(J))
        assert case.agree(record.direction.rank == [18] * world.size and not record.note)
        np.testing.assert_allclose(record.direction.condition, np.linalg.cond(K, 1), rtol=0.5)


def test_another_damping_at_the_same_point_makes_no_new_matrix(world, monkeypatch):
    case = make_case(world, WIDTHS, (1, world.size, 1, 1))
    with case.grid:
        direction, problem = named_direction("dual"), model(case, damping=0.5)
        direction.solve(problem, NEVER)
        monkeypatch.setattr("distnewton.curvature.gram.GramMatrix.columns", None)
        again = type(problem)(
            problem.gradient, problem.sample, problem.regularization, 0.01, problem.grid, "identity"
        )
        A, b = dense_system(case, ALL, 0.01)
        agrees(case, direction.solve(again, NEVER).direction, np.linalg.solve(A, b))


def test_a_share_of_a_large_matrix_is_what_the_ranks_hold():
    for n_ranks in (2, 4, 16):
        n = 16_000
        bounds = block_bounds(n, 1, n_ranks)
        held = [0] * n_ranks
        for j, start in enumerate(bounds[:-1]):
            held[j % n_ranks] += (n - start) * (bounds[j + 1] - start)
        assert max(held) <= system_size(n, n_ranks) <= 1.2 * n**2 / n_ranks


def test_systems_without_rows_of_their_own_are_solved(world):
    case = make_case(world, (4, 3, 2), (1, 1, 1) if world.size == 1 else (1, world.size, 1), n=1)
    with case.grid:
        space = SampleSpace(model(case, (0, 1), damping=0.5), [])
        direction, _ = space.solve(None, model(case, (0, 1)).gradient)
        assert case.agree(not direction.any())


def test_the_example_of_the_docs_takes_the_same_steps(world, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    from levenberg_marquardt import LevenbergMarquardt, LevenbergMarquardtOptions

    cg = {"cg_tolerance": 1e-10, "cg_max": 500, "damping_form": "diagonal"}
    runs = []
    for direction in (
        LevenbergMarquardt(LevenbergMarquardtOptions(**cg, sketch=0)),
        named_direction("gauss_newton", acceleration=0.75, **cg),
        named_direction("dual", acceleration=0.75, **cg),
    ):
        case = make_case(world, WIDTHS, (1, world.size, 1, 1))
        with case.grid:
            trainer = newton_trainer(case, direction, subsample=1.0, combine="none")
            runs.append([record.objective for record in trainer.iterations(6)])
    assert runs[0] == runs[1]
    np.testing.assert_allclose(runs[2], runs[0], rtol=1e-9)
