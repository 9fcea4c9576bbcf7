"""What ranks of different speeds own: a slow one less than its speed says, since part of its work cannot be shared."""

from __future__ import annotations

import numpy as np
import pytest

from distnewton.config import load_config
from distnewton.planning.shares import suitable_shares, work_of_ranks
from distnewton.runs.data_size import DataSize
from distnewton.runs.planned import planned_problem

WIDTHS = (256, 300, 300, 10)
SIZE = DataSize(7291, WIDTHS[0], WIDTHS[-1])


def problem():
    config = load_config("usps")
    return config, planned_problem(config, config.network.shape(WIDTHS[0], None, WIDTHS[-1]), SIZE)


@pytest.mark.parametrize("splits", [(4, 1, 4, 1), (1, 4, 1, 4), (2, 2, 2, 2)])
@pytest.mark.parametrize("slow", [0, 3])
def test_a_slow_rank_owns_less_than_in_proportion(splits, slow):
    _, usps = problem()
    speeds = [0.2 if rank == slow else 1.0 for rank in range(4)]
    shares, work = suitable_shares(usps, splits, speeds, with_direction=False)
    assert [share for rank, share in enumerate(shares) if rank != slow] == [1.0] * 3
    assert shares[slow] < 0.2

    def last(shares):
        partition = usps.shape.partition(splits, shares)
        return (work_of_ranks(usps, partition, with_direction=False) / speeds).max()

    assert last(shares) == np.divide(work, speeds).max()
    assert last(shares) < last(tuple(speeds))
    if splits == (4, 1, 4, 1):
        assert last(shares) < 0.75 * last(tuple(speeds))


@pytest.mark.parametrize("slow", [1, 2, 3])
def test_a_rank_five_times_slower_may_own_nothing_and_then_delays_no_other(slow):
    _, usps = problem()
    speeds = [0.2 if rank == slow else 1.0 for rank in range(4)]
    shares, work = suitable_shares(usps, (4, 1, 4, 1), speeds, with_direction=False)
    partition = usps.shape.partition((4, 1, 4, 1), shares)
    assert partition.idle_ranks() == [slow]
    # only the loss is left
    assert work[slow] / speeds[slow] < 0.3 * max(work)
    undisturbed = work_of_ranks(usps, usps.shape.partition((2, 2, 2, 2)), with_direction=False).max()
    assert np.divide(work, speeds).max() < 1.5 * undisturbed


def test_equal_ranks_own_equal_shares_and_work_alike():
    _, usps = problem()
    shares, work = suitable_shares(usps, (2, 2, 2, 2), [1.0] * 4, with_direction=True)
    assert shares == [1.0] * 4
    np.testing.assert_allclose(work, work[0], rtol=0.01)


def test_the_direction_counts_where_ranks_wait_in_it():
    _, usps = problem()
    partition = usps.shape.partition((4, 1, 4, 1), (1.0, 1.0, 1.0, 0.2))
    alone, together = (work_of_ranks(usps, partition, with_direction=counted) for counted in (False, True))
    assert (together > alone).all()
    assert alone[3] < alone[0]
