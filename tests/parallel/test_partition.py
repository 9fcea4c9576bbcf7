"""Ownership arithmetic, against numpy.array_split and by exhaustive enumeration."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distnewton.errors import ConfigError
from distnewton.parallel.cuts import FileOwners, files_of_ranks
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


@pytest.mark.parametrize("n_ranks", [2, 3, 4, 6])
@pytest.mark.parametrize("blocks", [False, True])
def test_a_rank_without_speed_owns_nothing_whichever_it_is(n_ranks, blocks):
    widths = (12, 12, 12, 12)
    for slow in range(n_ranks):
        speeds = tuple(1e-9 if rank == slow else 1.0 for rank in range(n_ranks))
        cut = (1, 12, 1, 12) if blocks else ()
        partition = Partition(widths, (1, n_ranks, 1, n_ranks), speeds=speeds, block_splits=cut)
        of_some = partition.of_features(np.arange(12) > 5)
        for each in (partition, of_some):
            assert each.blocks(slow) == []
            blocks_of_all = [block for rank in range(n_ranks) for block in each.blocks(rank)]
            assert sum(block.n_params for block in blocks_of_all) == sum(
                (a + 1) * b for a, b in zip(each.widths, each.widths[1:], strict=False)
            )
            parts = [(number, sum(b.n_params for b in each.logical.blocks(number))) for number in range(
                each.logical.n_ranks)]  # fmt: skip
            held = [0] * n_ranks
            for number, n_params in parts:
                held[each.holder(number)] += n_params
            assert held == [each.n_params(rank) for rank in range(n_ranks)]


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


def test_ranks_without_variables_stand_on_no_boundary_below_the_outputs():
    for slow in range(1, 4):
        speeds = tuple(1e-9 if rank == slow else 1.0 for rank in range(4))
        partition = Partition((12, 9, 9, 2), (4, 1, 4, 1), speeds=speeds)
        others = tuple(rank for rank in range(4) if rank != slow)
        assert partition.idle_ranks() == [slow]
        assert partition.blocks(slow) == []
        assert [partition.boundary(0, j) for j in range(4)] == [(j,) if j != slow else () for j in range(4)]
        assert partition.boundary(1, 0) == others
        assert partition.column(1, 0) == list(others)
        assert partition.boundary(3, 0) == (0, 1, 2, 3)
    # all features are on all ranks: the first with variables speaks for them
    partition = Partition((12, 9, 9, 2), (1, 4, 1, 4), speeds=(1e-9, 1.0, 1.0, 1.0))
    assert partition.first_of_features(0) == 1


def test_idle_ranks_are_those_without_variables():
    partition = Partition((2, 3, 1), (1, 4, 1))
    assert partition.idle_ranks() == [3]


@pytest.mark.parametrize(("n_files", "n_ranks", "splits", "counts", "files"), [
    (3, 4, (), (), [0, 0, 1, 2]),
    (3, 3, (), (), [0, 1, 2]),
    (2, 4, (2, 2, 2), (), [0, 0, 1, 1]),
    (2, 6, (3, 2, 3), (), [0, 0, 0, 0, 1, 1]),
    (3, 4, (), (1, 1, 2), [0, 1, 2, 2]),
])
def test_files_are_dealt_out_to_ranks(n_files, n_ranks, splits, counts, files):
    assert files_of_ranks(n_files, n_ranks, splits, counts) == tuple((i, i + 1) for i in files)


def test_few_ranks_own_several_files_and_ranks_without_features_none():
    assert files_of_ranks(3, 1) == ((0, 3),)
    assert files_of_ranks(3, 2) == ((0, 2), (2, 3))
    assert files_of_ranks(2, 3, (2, 1, 3)) == ((0, 1), (1, 2), (0, 0))
    with pytest.raises(ConfigError, match=r"partition\.files has 2 numbers of 3 ranks together, but there are 2 files"):
        files_of_ranks(2, 4, (), (1, 2))


def test_groups_of_features_end_where_files_end():
    owners = FileOwners((5, 0, 2), files_of_ranks(3, 6, (), (3, 1, 2)))
    partition = Partition((7, 4, 2), (6, 1, 6), owners=owners)
    assert [partition.group(0, j) for j in range(6)] == [(0, 2), (2, 4), (4, 5), (5, 5), (5, 6), (6, 7)]
    assert [partition.group(1, 0), partition.group(2, 5)] == [(0, 4), (2, 2)]
    pairs = FileOwners((5, 2), files_of_ranks(2, 4))
    assert [Partition((7, 4, 2), (2, 2, 2), owners=pairs).group(0, j) for j in range(2)] == [(0, 5), (5, 7)]
    whole = FileOwners((5, 2, 1), files_of_ranks(3, 2))
    assert [Partition((8, 4, 2), (2, 1, 2), owners=whole).group(0, j) for j in range(2)] == [(0, 7), (7, 8)]
    for splits in [(1, 4, 1), (3, 1, 4)]:
        assert pairs.suits(splits) == (splits == (3, 1, 4))
    with pytest.raises(ConfigError, match="splits 1-4-1 give ranks that own different files the same features"):
        Partition((7, 4, 2), (1, 4, 1), owners=pairs)
    with pytest.raises(ConfigError, match="a network on images has no use for them"):
        Partition((8, 4, 2), (4, 1, 4), owners=pairs)


def test_plans_of_files_leave_their_features_whole():
    from distnewton.network.shapes import dense_shape
    from distnewton.planning.plan import candidates
    from distnewton.planning.splits import auto_splits

    shape, owners = dense_shape((70, 500, 500, 10)), FileOwners((50, 20), files_of_ranks(2, 4))
    found = candidates(shape, 4, owners=owners)
    assert (4, 1, 4, 1) in found
    assert (2, 2, 2, 2) in found
    assert (1, 4, 1, 4) not in found
    assert owners.suits(auto_splits(shape, 4, owners=owners))
    assert auto_splits(shape, 3, owners=FileOwners((50, 10, 10), files_of_ranks(3, 3)))[:2] == (3, 1)
