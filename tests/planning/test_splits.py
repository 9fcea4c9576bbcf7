"""Splits by themselves: valid for any widths and ranks, sparse features cut, quick for many ranks."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from distnewton.network.shapes import dense_shape
from distnewton.parallel.partition import Partition, divisors
from distnewton.planning.splits import auto_splits

WIDTHS = st.lists(st.integers(1, 3000), min_size=2, max_size=6)


@given(WIDTHS, st.integers(1, 200), st.none() | st.floats(1e-6, 0.25))
@example([1, 1], 1, None)
@example([2, 1, 2], 7, None)
@example([1, 1, 1, 1], 97, 1e-6)
def test_splits_are_valid_for_exactly_these_ranks(widths, n_ranks, density):
    splits = auto_splits(dense_shape(widths), n_ranks, density=density)
    partition = Partition(tuple(widths), splits)
    assert partition.n_ranks == n_ranks
    assert max(a * b for a, b in itertools.pairwise(splits)) == n_ranks
    assert set(splits) <= set(divisors(n_ranks))
    assert splits == auto_splits(dense_shape(tuple(widths)), n_ranks, density=density)
    owners = [[partition.block(m, rank) for rank in range(n_ranks)] for m in range(1, len(widths))]
    n_weights = sum(block.n_params for layer in owners for block in layer if block is not None)
    assert n_weights == sum((a + 1) * b for a, b in itertools.pairwise(widths))


@pytest.mark.parametrize("n_ranks", [2, 3, 4, 7, 16])
@pytest.mark.parametrize("widths", [(1355191, 20), (1355191, 100, 20), (1355191, 100, 50, 2)])
def test_many_sparse_features_are_cut_over_all_ranks(widths, n_ranks):
    splits = auto_splits(dense_shape(widths), n_ranks, density=455 / 1355191)
    assert splits[:2] == (n_ranks, 1)


@pytest.mark.parametrize("widths", [(784, 300, 300, 10), (5000, 5000, 5000)])
@pytest.mark.parametrize("n_ranks", [2, 4, 6, 12])
def test_dense_layers_give_every_rank_work_in_every_layer(widths, n_ranks):
    splits = auto_splits(dense_shape(widths), n_ranks)
    assert all(a * b == n_ranks for a, b in itertools.pairwise(splits))
    assert Partition(widths, splits).idle_ranks() == []


def test_narrow_outputs_are_not_cut_where_it_would_leave_ranks_idle():
    splits = auto_splits(dense_shape((784, 300, 300, 2)), 8)
    assert splits[-1] <= 2
    assert splits[-2] * splits[-1] == 8


@pytest.mark.parametrize("widths", [(1355191, 300, 300, 20), (784, 300, 300, 300, 300, 10), (10, 2)])
@pytest.mark.parametrize("n_ranks", [4096, 5040])
def test_thousands_of_ranks_are_planned_quickly(widths, n_ranks):
    start = time.process_time()
    splits = auto_splits(dense_shape(widths), n_ranks, density=3e-4)
    assert time.process_time() - start < 10
    assert max(a * b for a, b in itertools.pairwise(splits)) == n_ranks


@given(st.lists(st.integers(1, 5000), min_size=2, max_size=6), st.integers(1, 64))
def test_planned_splits_use_all_ranks(widths, n_ranks):
    assert Partition(tuple(widths), auto_splits(dense_shape(widths), n_ranks)).n_ranks == n_ranks


def test_wide_sparse_features_are_cut_over_all_ranks():
    assert auto_splits(dense_shape((130107, 64, 20)), 4, density=0.001) == (4, 1, 4)
    assert auto_splits(dense_shape((10000,) * 6), 4096) == (64,) * 6
