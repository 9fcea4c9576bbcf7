"""Blocks in proportion to the speeds of ranks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from distnewton.errors import ConfigError
from distnewton.launch.speeds import measured_speeds, speeds_of_grid
from distnewton.network.shapes import dense_shape
from distnewton.parallel.partition import Partition, bounds, regular_splits, weighted_bounds
from distnewton.planning.plan import make_plan, make_plans
from distnewton.planning.problem import Problem
from distnewton.planning.rates import Rates


def test_parts_cover_all_in_order_and_are_off_by_less_than_an_item():
    rng = np.random.default_rng(0)
    for _ in range(300):
        n, weights = int(rng.integers(0, 50)), rng.random(int(rng.integers(1, 9))) + 0.01
        parts = weighted_bounds(n, weights.tolist())
        assert parts[0][0] == 0
        assert parts[-1][1] == n
        assert all(a[1] == b[0] for a, b in itertools.pairwise(parts))
        exact = n * weights / weights.sum()
        assert all(abs(stop - start - size) <= 1.0 for (start, stop), size in zip(parts, exact, strict=True))


def test_a_rank_half_as_fast_owns_half_as_much():
    speeds = (1.0, 1.0, 0.5, 1.0)
    partition = Partition((700, 700, 700, 10), (1, 4, 1, 4), speeds=speeds)
    own = [partition.n_params(rank) for rank in range(4)]
    # the 10 outputs are not divisible by 3.5
    np.testing.assert_allclose(np.array(own) / own[0], speeds, atol=0.01)
    assert sum(own) == 701 * 700 * 2 + 701 * 10


@pytest.mark.parametrize("n_ranks", [1, 2, 3, 4, 6, 7])
def test_blocks_of_any_grid_tile_the_weights(n_ranks):
    rng = np.random.default_rng(n_ranks)
    widths = (9, 11, 5, 3)
    for splits in regular_splits(n_ranks, 3):
        speeds = tuple((0.2 + rng.random(n_ranks)).tolist())
        partition = Partition(widths, splits, speeds=speeds)
        for layer in range(1, 4):
            owned = np.zeros((widths[layer - 1], widths[layer]), int)
            biases = np.zeros(widths[layer], int)
            for rank in range(n_ranks):
                block = partition.block(layer, rank)
                if block is not None:
                    owned[slice(*block.inputs), slice(*block.outputs)] += 1
                    biases[slice(*block.outputs)] += block.owns_bias
            assert (owned == 1).all()
            assert (biases == 1).all()


def test_equal_speeds_are_no_speeds():
    shape = dense_shape([7, 5, 3])
    assert shape.partition([1, 2, 1], [0.5, 0.5]) == shape.partition([1, 2, 1])
    assert [Partition((7, 3), (3, 1)).group(0, i) for i in range(3)] == [bounds(7, 3, i) for i in range(3)]


def test_speeds_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"speeds has 3 numbers, splits 1-2-1 need 2 ranks"):
        Partition((7, 5, 3), (1, 2, 1), speeds=(1.0, 2.0, 3.0))
    with pytest.raises(ConfigError, match="must be positive"):
        Partition((7, 5, 3), (1, 2, 1), speeds=(1.0, 0.0))
    with pytest.raises(ConfigError, match="speeds has 3 numbers, but there are 4 ranks"):
        speeds_of_grid([1, 1, 1], 2, 2)
    assert speeds_of_grid([1.0, 0.5, 0.4, 1.0], 2, 2) == [0.4, 0.5]


@pytest.mark.mpi(min_size=1)
def test_measured_speeds_are_the_same_on_all_ranks(world):
    speeds = measured_speeds(world)
    assert len(speeds) == world.size
    assert max(speeds) == 1.0
    assert all(round(20 * speed) == pytest.approx(20 * speed) and speed > 0 for speed in speeds)
    views = world.allgather_json(speeds)
    assert not world.any(any(view != speeds for view in views))


def test_plans_with_a_slow_rank_cost_less_than_equal_blocks_and_more_than_equal_ranks():
    problem = Problem(dense_shape([2000, 2000, 2000, 10]), 20000, 1000, 10)
    rates, slow = Rates(), (1.0, 1.0, 0.5, 1.0)
    alike = make_plan(problem, (1, 4, 1, 4), rates)
    uneven = make_plan(problem, (1, 4, 1, 4), rates, speeds=slow)
    # 3.5 ranks' work on 4: 8/7 of the time, and what all do alike; equal blocks would take twice as long
    assert uneven.total("compute") == pytest.approx(8 / 7 * alike.total("compute"), rel=0.1)
    best = make_plans(problem, 4, rates, speeds=slow)[0]
    assert best.seconds <= uneven.seconds
    assert best.partition.speeds == slow
