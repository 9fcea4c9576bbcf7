"""The exact direction through sample space, whole or by block: dense solves, its one message, its refusals."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from problems import alternating, dense_system, linearization, make_case, named_direction

from distnewton.backend import Backend
from distnewton.directions.dual import Dual
from distnewton.errors import ConfigError, NumericalError
from distnewton.guards.ledger import allreduce_bytes
from distnewton.network.network import PartitionedNetwork
from distnewton.parallel.termination import NEVER
from distnewton.solvers.block_cholesky import system_size

pytestmark = pytest.mark.mpi(min_size=1, sizes=(4,))

WIDTHS = (5, 4, 3, 2)
NETWORKS = [(WIDTHS, "squared"), ((4, 3, 5, 3), "cross_entropy"), ((3, 4, 2, 1), "logistic"), ((3, 2), "squared"),
            ((4, 3, 2, 3), "logistic")]  # fmt: skip
MODELS = [
    ((0, 9), 0.5, 5.0, False),  # all samples
    ((2, 7), 0.01, np.inf, True),  # more samples in the gradient than in the curvature; sparse features
    ((3, 4), 0.0, 5.0, False),  # one sample, and weight decay for all damping
]


def solve(name, problem, blocks="rank"):
    return named_direction(name, blocks=blocks).solve(problem, NEVER)


@pytest.mark.parametrize(("rows", "damping", "C", "sparse"), MODELS)
@pytest.mark.parametrize(("widths", "loss"), NETWORKS)
def test_dual_equals_the_dense_solve(world, widths, loss, rows, damping, C, sparse):
    for splits in alternating(world.size, len(widths) - 1):
        case = make_case(world, widths, splits, loss=loss, C=C, sparse=sparse)
        with case.grid:
            A, b = dense_system(case, rows, damping)
            result = solve("dual", linearization(case, rows, damping=damping, rooted=True))
            exact = np.linalg.solve(A, b)
            found = case.whole(result.direction)
            np.testing.assert_allclose(found, exact, rtol=0, atol=1e-10 * np.linalg.norm(exact))
            assert case.agree(result.finished and result.inner_iterations == 0 and result.residual < 1e-10)


@pytest.mark.parametrize("blocks", ["rank", "layer"])
@pytest.mark.parametrize(("rows", "damping", "C", "sparse"), MODELS)
@pytest.mark.parametrize(("widths", "loss"), NETWORKS)
def test_block_dual_equals_dense_solves_by_block(world, widths, loss, rows, damping, C, sparse, blocks):
    for splits in alternating(world.size, len(widths) - 1):
        case = make_case(world, widths, splits, loss=loss, C=C, sparse=sparse)
        with case.grid:
            A, b = dense_system(case, rows, damping)
            exact = np.zeros_like(b)
            for rank in range(world.size):
                for index in case.index_of(rank, by_layer=True) if blocks == "layer" else [case.index_of(rank)]:
                    exact[index] = np.linalg.solve(A[np.ix_(index, index)], b[index])
            result = solve("block_dual", linearization(case, rows, damping=damping, rooted=True), blocks)
            found = case.whole(result.direction)
            np.testing.assert_allclose(found, exact, rtol=0, atol=1e-10 * np.linalg.norm(exact))


def test_gram_matrices_are_made_in_chunks(world, monkeypatch):
    monkeypatch.setattr("distnewton.curvature.gram._IN_CACHE", 70)
    case = make_case(world, WIDTHS, (1, world.size, 1, world.size))
    with case.grid:
        A, b = dense_system(case, (0, 9), 0.5)
        result = solve("dual", linearization(case, (0, 9), damping=0.5, rooted=True))
        np.testing.assert_allclose(case.whole(result.direction), np.linalg.solve(A, b), rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ["dual", "block_dual"])
def test_dual_sends_one_message_and_block_dual_none(world, name):
    for splits in alternating(world.size, 3):
        case = make_case(world, WIDTHS, splits)
        with case.grid:
            problem = linearization(case, (0, 6), rooted=True)
            case.grid.ledger.take()
            with case.grid.ledger.phase("direction"):
                solve(name, problem)
            cost = case.grid.ledger.take()["direction"]
            n_messages = int(name == "dual" and world.size > 1)
            assert case.agree(cost.n_messages == n_messages)
            expected = n_messages * allreduce_bytes(8 * (12 * 12 + 12), world.size)
            assert case.agree(cost.sent_bytes == pytest.approx(expected))


@pytest.mark.parametrize("name", ["dual", "block_dual"])
def test_without_damping_and_weight_decay_all_ranks_refuse(world, name):
    case = make_case(world, WIDTHS, (1, world.size, 1, 1), C=np.inf)
    with case.grid:
        problem = linearization(case, (0, 9), damping=0.0, rooted=True)
        with pytest.raises(NumericalError, match=r"method\.damping > 0, or a finite method\.C") as caught:
            solve(name, problem)
        assert caught.value.collective


def test_float32_gives_the_direction_to_its_precision(world):
    case = make_case(world, WIDTHS, (1, world.size, 1, 1), loss="cross_entropy")
    with case.grid:
        A, b = dense_system(case, (2, 7), 0.5)
        network = case.network = PartitionedNetwork(case.grid, "tanh", Backend.of("float32"))
        case.objective.network, case.objective.X = network, case.objective.X.astype(np.float32)
        case.theta = case.theta.astype(np.float32)
        result = solve("dual", linearization(case, (2, 7), damping=0.5, rooted=True))
        assert case.agree(result.direction.dtype == np.float32)
        exact = np.linalg.solve(A, b)
        np.testing.assert_allclose(case.whole(result.direction), exact, rtol=0, atol=2e-5 * np.linalg.norm(exact))


def fits(*sizes):
    try:
        Dual().check_memory(*sizes)
    except ConfigError:
        return False
    return True


@given(st.integers(1, 5000), st.integers(1, 1000), st.sampled_from([4, 8]), st.floats(1e-3, 4096.0))
def test_what_the_refusal_advises_fits(n_samples, n_rows, itemsize, memory_mb):
    assume(not fits(n_samples, n_rows, itemsize, memory_mb))
    with pytest.raises(ConfigError) as caught:
        Dual().check_memory(n_samples, n_rows, itemsize, memory_mb)
    text, n = str(caught.value), n_samples * n_rows
    needed = (3 * n**2 if n <= 2048 else system_size(n, 1)) * itemsize / 2**20
    assert f"= {n:,} unknowns: {needed:,.0f} MB" in text
    assert f"{needed / memory_mb:.1f} times run.memory_mb" in text
    assert "gauss_newton" in text
    advised = {
        r"at most (\d+) samples": lambda number: (number, n_rows, itemsize, memory_mb),
        r"sketch = (\d+)": lambda number: (n_samples, number, itemsize, memory_mb),
        r"\(run\.memory_mb = (\d+)\)": lambda number: (n_samples, n_rows, itemsize, number),
    }
    found = {}
    for pattern, sizes in advised.items():
        for number in map(int, re.findall(pattern, text)):
            found[pattern] = number
            assert number >= 1
            assert fits(*sizes(number)), pattern
    # memory always helps; samples and rows where at least one of them is left
    assert len(found) == 1 + fits(1, n_rows, itemsize, memory_mb) + fits(n_samples, 1, itemsize, memory_mb)


def test_a_system_that_just_fits_is_taken():
    assert fits(256, 4, 4, 12.0)
    assert not fits(256, 4, 4, 11.99)
    assert not fits(257, 4, 4, 12.0)


def test_few_variables_need_no_matrix_of_all_rows():
    # 20,000 rows of a network of 61 variables: J takes 20 MB, a matrix in sample space 3 GB
    Dual().check_memory(20_000, 1, 8, 1024.0, 1, 61)
    with pytest.raises(ConfigError, match="20,000 unknowns"):
        Dual().check_memory(20_000, 1, 8, 1024.0, 1, 20_000)
