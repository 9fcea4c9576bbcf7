"""Passes in pieces that take turns: the same numbers, whatever the grid and however few the samples."""

from __future__ import annotations

import numpy as np
import pytest
from problems import alternating, linearization, make_case

import distnewton
from distnewton.network.network import pieces, take_turns

pytestmark = pytest.mark.mpi(min_size=1, sizes=(3, 4))


def test_pieces_cover_all_samples():
    for n in range(9):
        for k in range(1, 6):
            found = pieces(n, k)
            assert [i for rows in found for i in range(rows.start, rows.stop)] == list(range(n))
            assert len(found) == max(1, min(n, k))


def test_works_take_turns_until_all_have_ended():
    seen = []

    def work(name, n):
        for k in range(n):
            seen.append(f"{name}{k}")
            yield
        seen.append(f"{name}.")

    take_turns([work("a", 2), work("b", 0), work("c", 1)])
    assert seen == ["a0", "b.", "c0", "a1", "c.", "a."]


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("n", [1, 2, 9])
def test_loss_gradient_and_jacobian_in_pieces(world, sparse, n):
    rng = np.random.default_rng(0)
    for splits in alternating(world.size, 4):
        found = []
        v = rng.standard_normal(200)
        for n_pieces in (1, 3):
            case = make_case(world, (6, 5, 4, 4, 3), splits, n=n, sparse=sparse, n_pieces=n_pieces)
            with case.grid:
                problem = linearization(case, (0, (n + 1) // 2))
                product = problem.jacobian.matvec(v[case.own_index])
                evaluation = case.objective.evaluate(case.params, None)
                found.append([problem.gradient, case.grid.sum_all(product), evaluation.outputs])
        for plain, overlapped in zip(*found, strict=True):
            np.testing.assert_allclose(overlapped, plain, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("method", [
    {"direction": "gauss_newton", "subsample": 0.5}, {"direction": "block_diagonal", "subsample": 0.5, "sketch": 2},
    {"direction": "kfac", "batch": 7},
], ids=str)  # fmt: skip
def test_runs_in_pieces_are_the_same(world, method):
    rng = np.random.default_rng(1)
    y = rng.integers(3, size=50)
    X = rng.standard_normal((50, 6)) + 2 * rng.standard_normal((3, 6))[y]
    found = []
    for overlap in (1, 4):
        tree = {
            "network": {"layers": ["auto", 7, 5, 4, "auto"]}, "method": method,
            "run": {"iterations": 4, "dtype": "float64", "deterministic": True, "threads": 1, "overlap": overlap},
        }  # fmt: skip
        result = distnewton.train(distnewton.make_config(tree), world, train_data=distnewton.ArraySource(X, y))
        result.model.grid.free()
        found.append([record.objective for record in result.history])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-10)
