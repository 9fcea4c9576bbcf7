"""The exact direction through the space of variables, where they are fewer than residuals: against dense solves."""

from __future__ import annotations

import numpy as np
import pytest
from problems import alternating, dense_system, linearization, make_case

from distnewton.directions.variable_space import VariableSpace, _Normal, _Orthogonal

pytestmark = pytest.mark.mpi(min_size=1, sizes=(3,))

WIDTHS = (2, 1, 3, 2)


@pytest.mark.parametrize("form", ["identity", "diagonal"])
@pytest.mark.parametrize("n_replicas", [1, 3])
@pytest.mark.parametrize("kind", [_Normal, _Orthogonal])
def test_directions_equal_the_dense_solve(world, monkeypatch, form, n_replicas, kind):
    monkeypatch.setattr("distnewton.directions.variable_space._LEAST", 0.0 if kind is _Normal else 1.0)
    if world.size % n_replicas:
        pytest.skip("no such grid")
    for splits in alternating(world.size // n_replicas, 3):
        case = make_case(world, WIDTHS, splits, n=14, n_replicas=n_replicas)
        with case.grid:
            evaluation = case.objective.evaluate(case.params, (0, 14))
            problem = linearization(case, (0, 14), damping=1e-3, rooted=True, form=form)
            A, b = dense_system(case, (0, 14), 0.0)
            A += 1e-3 * (np.eye(len(A)) if form == "identity" else np.diag(A.diagonal()))
            exact = np.linalg.solve(A, b)
            assert case.agree(VariableSpace.suits(problem) and len(evaluation.outputs) > 0)
            space = VariableSpace(problem, problem.jacobian.layers)
            assert case.agree(type(space._factor) is kind)
            again = VariableSpace(problem, problem.jacobian.layers, known=space.known)
            decay = problem.regularization * problem.params
            for found, residual in (
                space.solve(None, problem.gradient),
                again.solve(problem.sample.residuals, decay),
            ):
                whole = np.zeros(case.dense.n_params)
                whole[case.own_index] = found
                np.testing.assert_allclose(
                    case.grid.comm.sum_inplace(whole), exact, rtol=0, atol=1e-9 * np.linalg.norm(exact)
                )
                assert case.agree(residual < 1e-9)


def test_a_small_damping_keeps_the_digits_of_small_residuals(world):
    case = make_case(world, WIDTHS, (1, world.size, 1, 1), n=14, C=np.inf)
    with case.grid:
        problem = linearization(case, (0, 14), damping=1e-14, rooted=True)
        # normal equations first: what they leave of the point serves QR, too
        known = VariableSpace(linearization(case, (0, 14), damping=1e-2, rooted=True), problem.jacobian.layers).known
        space = VariableSpace(problem, problem.jacobian.layers, known=known)
        assert case.agree(type(space._factor) is _Orthogonal)
        found, _ = space.solve(problem.sample.residuals, None)
        J = np.sqrt(2) * case.dense.jacobian(case.theta, range(14)).reshape(28, -1)
        u = np.sqrt(2) * (case.dense.outputs(case.theta) - case.dense.y).ravel()
        damped = np.concatenate([J / np.sqrt(14), 1e-7 * np.eye(J.shape[1])])
        exact = np.linalg.lstsq(damped, -np.concatenate([u / np.sqrt(14), np.zeros(J.shape[1])]), rcond=None)[0]
        np.testing.assert_allclose(case.whole(found), exact, rtol=0, atol=1e-6 * np.linalg.norm(exact))
