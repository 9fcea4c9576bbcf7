"""Ownership arithmetic, against numpy.array_split and by exhaustive enumeration."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distnewton.errors import ConfigError
from distnewton.parallel.partition import Partition, bounds, check_rank_count, regular_splits

widths_and_splits = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 4)), min_size=2, max_size=5)


@given(st.integers(0, 50), st.integers(1, 12))
def test_bounds_cut_as_array_split(n, parts):
    expected = np.array_split(np.arange(n), parts)
    assert [list(range(*bounds(n, parts, i))) for i in range(parts)] == [list(part) for part in expected]


@given(widths_and_splits)
def test_blocks_tile_every_layer_and_owner_inverts_block(drawn):
    partition = Partition(*map(tuple, zip(*drawn, strict=True)))
    for m in range(1, partition.n_layers + 1):
        covered = np.zeros((partition.widths[m - 1], partition.widths[m]), int)
        biases = np.zeros(partition.widths[m], int)
        for rank in range(partition.n_ranks):
            block = partition.block(m, rank)
            if block is not None:
                assert partition.owner(m, block.i, block.j) == rank
                covered[slice(*block.inputs), slice(*block.outputs)] += 1
                biases[slice(*block.outputs)] += block.owns_bias
        assert (covered == 1).all()
        assert (biases == 1).all()
    n_params = sum((a + 1) * b for a, b in zip(partition.widths, partition.widths[1:], strict=False))
    assert sum(partition.n_params(rank) for rank in range(partition.n_ranks)) == n_params


@given(widths_and_splits)
def test_boundary_holds_exactly_the_owners_around_a_group(drawn):
    partition = Partition(*map(tuple, zip(*drawn, strict=True)))
    for m in range(1, partition.n_layers):
        for j in range(partition.splits[m]):
            around = set()
            for rank in range(partition.n_ranks):
                below, above = partition.block(m, rank), partition.block(m + 1, rank)
                if (below is not None and below.j == j) or (above is not None and above.i == j):
                    around.add(rank)
            assert partition.boundary(m, j) == tuple(sorted(around))


@pytest.mark.parametrize("n_ranks", [1, 2, 3, 4, 6, 7, 12])
def test_on_alternating_grids_those_who_sum_a_group_are_those_who_need_it(n_ranks):
    for splits in regular_splits(n_ranks, 4):
        partition = Partition((13,) * 5, splits)
        assert partition.n_ranks == n_ranks
        for m in range(1, 4):
            for j in range(splits[m]):
                owners = {partition.owner(m, i, j) for i in range(splits[m - 1])}
                assert set(partition.boundary(m, j)) == owners


def test_errors_name_what_fits():
    with pytest.raises(ConfigError, match=r"needs 4 ranks .* but 3 were started.*1-3-1, 3-1-3"):
        check_rank_count(Partition((4, 3, 2), (2, 2, 2)), 3)
    with pytest.raises(ConfigError, match="one number per width"):
        Partition((4, 3, 2), (2, 2))
    with pytest.raises(ConfigError, match="positive"):
        Partition((4, 0, 2), (2, 2, 1))


def test_idle_ranks_are_those_without_variables():
    partition = Partition((2, 3, 1), (1, 4, 1))
    assert partition.idle_ranks() == [3]
