"""The full Gauss-Newton direction by CG over all ranks against dense matrices, with preconditioners and warm starts."""

from __future__ import annotations

import numpy as np
import pytest
from dense import krylov_minimiser
from problems import alternating, dense_system, linearization, make_case, named_direction

from distnewton.errors import NumericalError
from distnewton.parallel.collectives import Communicator
from distnewton.parallel.termination import NEVER

pytestmark = pytest.mark.mpi(min_size=1, sizes=(3,))

WIDTHS = (5, 4, 3, 2)
NETWORKS = [(WIDTHS, "squared"), ((4, 3, 5, 3), "cross_entropy"), ((3, 4, 2, 1), "logistic"),
            ((4, 3, 2, 3), "logistic")]  # fmt: skip
ROWS = (2, 7)


def solve(problem, steps=400, tolerance=0.0, **options):
    made = dict(cg_tolerance=tolerance, cg_max=steps, cg_min=1, **options)
    return named_direction("gauss_newton", **made).solve(problem, NEVER)


@pytest.mark.parametrize(("widths", "loss"), NETWORKS)
def test_converged_cg_equals_the_dense_solve(world, widths, loss):
    for splits in alternating(world.size, 3):
        case = make_case(world, widths, splits, loss=loss)
        with case.grid:
            A, b = dense_system(case, ROWS, 0.5)
            result = solve(linearization(case, ROWS, damping=0.5), tolerance=1e-12)
            assert result.finished
            assert result.residual <= 1e-12
            np.testing.assert_allclose(case.whole(result.direction), np.linalg.solve(A, b), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("widths", "loss"), NETWORKS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_few_steps_minimise_over_the_krylov_space(world, widths, loss, steps):
    for splits in alternating(world.size, 3):
        case = make_case(world, widths, splits, loss=loss)
        with case.grid:
            A, b = dense_system(case, ROWS, 0.5)
            result = solve(linearization(case, ROWS, damping=0.5), steps)
            assert result.inner_iterations == steps
            found = case.whole(result.direction)
            np.testing.assert_allclose(found, krylov_minimiser(A, b, steps), rtol=0, atol=1e-11)
            assert result.residual == pytest.approx(np.linalg.norm(b - A @ found) / np.linalg.norm(b), rel=1e-8)


@pytest.mark.parametrize("mini_blocks", ["layer", "neuron"])
@pytest.mark.parametrize("preconditioner", ["diagonal", "kfac", "mini_block_fisher"])
@pytest.mark.parametrize(("widths", "loss"), NETWORKS)
def test_a_preconditioner_changes_the_way_but_not_the_solution(world, widths, loss, preconditioner, mini_blocks):
    if mini_blocks == "neuron" and preconditioner != "mini_block_fisher":
        return
    for splits in alternating(world.size, 3):
        case = make_case(world, widths, splits, loss=loss)
        with case.grid:
            A, b = dense_system(case, ROWS, 0.01)
            problem = linearization(case, ROWS, damping=0.01)
            result = solve(problem, tolerance=1e-12, preconditioner=preconditioner, mini_blocks=mini_blocks)
            exact = np.linalg.solve(A, b)
            np.testing.assert_allclose(case.whole(result.direction), exact, rtol=0, atol=1e-9 * np.linalg.norm(exact))
            plain, other = (case.whole(solve(problem, 2, preconditioner=p).direction) for p in ("none", preconditioner))
            assert np.linalg.norm(other - plain) > 1e-3 * np.linalg.norm(plain)


@pytest.mark.parametrize(("widths", "loss"), NETWORKS)
def test_diagonally_preconditioned_steps_minimise_over_their_krylov_space(world, widths, loss):
    for splits in alternating(world.size, 3):
        case = make_case(world, widths, splits, loss=loss)
        with case.grid:
            A, b = dense_system(case, ROWS, 0.1)
            rows = list(range(*ROWS))
            c = case.dense.random_roots(case.theta, rows, 1, np.random.default_rng(7))[:, 0]
            squares = np.einsum("sk,skp->sp", c, case.dense.jacobian(case.theta, rows)) ** 2
            s = (squares.mean(axis=0) + 0.1 + 1 / case.dense.C) ** -0.5
            for steps in (1, 3):
                problem = linearization(case, ROWS, damping=0.1, seed=7)
                found = case.whole(solve(problem, steps, preconditioner="diagonal").direction)
                expected = s * krylov_minimiser(s[:, None] * A * s, s * b, steps)
                np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("preconditioner", ["none", "diagonal"])
def test_every_iterate_is_the_same_on_every_grid(world, preconditioner):
    serial = make_case(Communicator(), WIDTHS, (1, 1, 1, 1), loss="cross_entropy", n=20)
    with serial.grid:
        alone = linearization(serial, (3, 13))
        iterates = [serial.whole(solve(alone, k, preconditioner=preconditioner).direction) for k in (1, 2, 4, 8)]
    for splits in alternating(world.size, 3):
        case = make_case(world, WIDTHS, splits, loss="cross_entropy", n=20)
        with case.grid:
            problem = linearization(case, (3, 13))
            for steps, expected in zip((1, 2, 4, 8), iterates, strict=True):
                found = case.whole(solve(problem, steps, preconditioner=preconditioner).direction)
                np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * np.linalg.norm(expected))


@pytest.mark.parametrize("method", ["gauss_newton", "block_diagonal"])
@pytest.mark.parametrize("blocks", ["rank", "layer"])
@pytest.mark.parametrize("preconditioner", ["none", "kfac"])
def test_a_warm_start_at_the_solution_takes_no_step(world, method, blocks, preconditioner):
    for splits in alternating(world.size, 3):
        case = make_case(world, WIDTHS, splits, loss="cross_entropy")
        with case.grid:
            options = {"blocks": blocks, "warm_start": 1.0, "preconditioner": preconditioner}
            direction = named_direction(method, cg_tolerance=1e-6, cg_max=300, cg_min=0, **options)
            problem = linearization(case, ROWS)
            first = direction.solve(problem, NEVER)
            assert case.agree(not len(problem.gradient) or first.inner_iterations > 0)
            again = direction.solve(problem, NEVER)
            assert case.agree(again.inner_iterations == 0)
            assert case.agree(np.array_equal(again.direction, first.direction))


def test_the_first_step_of_a_warm_start_descends_from_the_shrunk_solution(world):
    for splits in alternating(world.size, 3):
        case = make_case(world, WIDTHS, splits, loss="cross_entropy")
        with case.grid:
            A, b = dense_system(case, ROWS, 0.5)
            problem = linearization(case, ROWS, damping=0.5)
            direction = named_direction("gauss_newton", cg_tolerance=0.0, cg_max=1, cg_min=1, warm_start=0.7)
            x = krylov_minimiser(A, b, 1)
            for _ in range(3):
                np.testing.assert_allclose(case.whole(direction.solve(problem, NEVER).direction), x, atol=1e-12)
                x = 0.7 * x
                r = b - A @ x
                x += (r @ r) / (r @ A @ r) * r


def test_a_warm_start_saves_steps(world):
    for splits in alternating(world.size, 3):
        case = make_case(world, WIDTHS, splits, loss="cross_entropy", n=20)
        with case.grid:
            direction = named_direction("gauss_newton", cg_tolerance=1e-6, cg_max=300, cg_min=1, warm_start=0.95)
            problem = linearization(case, (0, 20), damping=0.01)
            steps = [direction.solve(problem, NEVER).inner_iterations for _ in range(2)]
            assert steps[1] < steps[0]


@pytest.mark.parametrize("warm_start", [0.0, 0.9])
def test_the_rule_of_progress_ends_cg_where_the_model_stalls(world, warm_start):
    for splits in alternating(world.size, 2):
        case = make_case(world, (12, 5, 3), splits, loss="cross_entropy", n=30, C=1e3)
        with case.grid:
            A, b = dense_system(case, (0, 30), 1e-3)
            options = {"cg_tolerance": 0.0, "cg_max": 300, "cg_min": 1, "cg_stop": "progress", "warm_start": warm_start}
            direction = named_direction("gauss_newton", **options)
            problem = linearization(case, (0, 30), damping=1e-3)
            counts = [direction.solve(problem, NEVER).inner_iterations for _ in range(2)]
            x0 = np.zeros_like(b)
            for count in counts:
                # from x0 CG minimises over x0 plus the Krylov space of the first residual
                points = [x0 + krylov_minimiser(A, b - A @ x0, k) for k in range(60)]
                phi = [0.5 * x @ A @ x - b @ x for x in points]
                spans = [(i, max(10, int(np.ceil(i / 10)))) for i in range(60)]
                stops = [i for i, k in spans if i > k and phi[i] < 0 and (phi[i] - phi[i - k]) / phi[i] < k * 5e-4]
                assert count == stops[0]
                x0 = warm_start * points[count]


def test_negative_curvature_is_told_by_all_ranks(world):
    case = make_case(world, WIDTHS, (1, world.size, 1, 1))
    with case.grid:
        problem = linearization(case, ROWS, damping=-1e6)
        with pytest.raises(NumericalError, match=r"curvature -.* at step 1.*float64"):
            solve(problem, 3)
