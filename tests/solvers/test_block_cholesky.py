"""Cholesky's factorisation over ranks, and condition numbers from factors, against dense matrices."""

from __future__ import annotations

import numpy as np
import pytest

from distnewton.backend import Backend
from distnewton.errors import NumericalError
from distnewton.solvers.block_cholesky import BlockCholesky, block_bounds
from distnewton.solvers.condition import inverse_norm

BACKEND = Backend.of("float64")


def matrix(n, seed=0):
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    return Q @ np.diag(np.geomspace(1e-4, 1.0, n)) @ Q.T


def dealt(comm, A, bounds, shift=0.0):
    """The factor where every rank has an equal share of A."""
    return BlockCholesky(comm, BACKEND, bounds, lambda start, stop: A[start:, start:stop] / comm.size, shift)


@pytest.mark.mpi(min_size=1, sizes=(2, 3, 4))
@pytest.mark.parametrize("bounds", [[0, 7], [0, 1, 2, 3, 4, 5, 6, 7], [0, 3, 4, 7], [0, 1]], ids=str)
def test_a_system_over_ranks_is_the_dense_one(world, bounds):
    n = bounds[-1]
    A, b = matrix(n), np.arange(1.0, n + 1)
    cholesky = dealt(world, A, bounds, shift=0.5)
    shifted = A + 0.5 * np.eye(n)
    right = np.allclose(cholesky.solve(b), np.linalg.solve(shifted, b), rtol=1e-11, atol=0)
    right &= np.allclose(cholesky.solve(-b), -np.linalg.solve(shifted, b), rtol=1e-11, atol=0)
    right &= np.isclose(cholesky.norm, np.abs(shifted).sum(axis=0).max(), rtol=1e-12)
    assert not world.any(not right)


@pytest.mark.mpi(min_size=1, sizes=(3,))
@pytest.mark.parametrize("place", [0, 4, 6])
def test_all_ranks_refuse_a_matrix_that_is_not_positive_definite(world, place):
    A = np.eye(7)
    A[place, place] = -1.0
    with pytest.raises(NumericalError, match=r"not positive definite") as caught:
        dealt(world, A, [0, 2, 5, 7])
    assert caught.value.collective


def test_block_columns_keep_the_rows_of_a_sample_together():
    for n, unit, n_ranks in [(16_000, 1, 4), (16_000, 10, 4), (3000, 1000, 4), (50, 1, 64), (1, 1, 1)]:
        bounds = block_bounds(n, unit, n_ranks)
        widths = np.diff(bounds)
        assert bounds[0] == 0
        assert bounds[-1] == n
        assert (widths > 0).all()
        assert all(start % unit == 0 for start in bounds)
        assert widths.max() <= max(unit, 128)


@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_the_norm_of_an_inverse_is_estimated_from_below(n):
    for seed in range(5):
        A = matrix(n, seed)
        exact = np.linalg.norm(np.linalg.inv(A), 1)
        assert 0.3 * exact <= inverse_norm(lambda b, A=A: np.linalg.solve(A, b), np.zeros(n)) <= 1.000001 * exact
    assert inverse_norm(lambda b: b, np.zeros(0)) == 0.0
