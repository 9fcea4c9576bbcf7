"""Plans: what they add up to, how they change with ranks and rates, and the widest network that fits."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from distnewton.cluster.cluster_file import Cluster
from distnewton.cluster.measured_rates import cluster_rates
from distnewton.network.layer_tables import convolutional_shape
from distnewton.network.shapes import dense_shape
from distnewton.parallel.partition import Partition, regular_splits
from distnewton.planning.advice import more_ranks, wasted_ranks
from distnewton.planning.memory import iteration_memory
from distnewton.planning.messages import Message, widest_kept
from distnewton.planning.plan import candidates, largest, make_plan, make_plans, widened
from distnewton.planning.problem import PlannedMethod, Problem, Share
from distnewton.planning.rates import Rates

RATES = Rates(1e11, memory=1e10, latency=1e-6, bandwidth=4e9, far_latency=1e-5, far_bandwidth=1e9, call=0.0)
PROBLEM = Problem(dense_shape((784, 512, 256, 10)), 60_000, 3_000, 10)
CONV = {"type": "conv", "channels": 8, "kernel": 3, "stride": 1, "padding": 1}
IMAGES = convolutional_shape((3, 8, 8), [CONV, {"type": "max_pool", "size": 2, "stride": None},
                                         {"type": "dense", "width": 10}])  # fmt: skip


def test_one_rank_sends_nothing_and_computes_all():
    plan = make_plan(PROBLEM, (1, 1, 1, 1), RATES)
    assert plan.sent_bytes == plan.n_messages == plan.total("latency") == plan.total("transfer") == 0
    assert plan.seconds == plan.total("compute") > 0
    # at least its operations: forward and backward over all samples, and the products of CG
    n_weights = 784 * 512 + 512 * 256 + 256 * 10
    operations = 2 * n_weights * (60_000 * 2 + 31 * 3_000 * 2)
    assert operations / 1e11 < plan.seconds < 4 * operations / 1e11


@pytest.mark.parametrize("shape", [PROBLEM.shape, IMAGES], ids=["dense", "images"])
@pytest.mark.parametrize("direction", ["gauss_newton", "block_diagonal"])
@pytest.mark.parametrize("n_ranks", [2, 6, 16])
def test_ranks_share_the_work(shape, direction, n_ranks):
    problem = replace(PROBLEM, shape=shape, method=PlannedMethod(direction))
    whole = make_plan(problem, (1,) * len(shape.widths), RATES)
    for splits in candidates(shape, n_ranks):
        plan = make_plan(problem, splits, RATES)
        assert plan.partition.n_ranks == n_ranks
        assert whole.total("compute") / n_ranks * 0.5 < plan.total("compute") < whole.total("compute")
        assert plan.sent_bytes > 0
        # no message while block-diagonal systems are solved
        assert (plan.phases["direction"].n_messages == 0) == (direction == "block_diagonal")


def test_the_fastest_splits_come_first_and_all_are_there():
    plans = make_plans(PROBLEM, 12, RATES)
    assert [plan.seconds for plan in plans] == sorted(plan.seconds for plan in plans)
    assert {(12, 1, 12, 1), (1, 12, 1, 12), (3, 4, 3, 4), (4, 3, 4, 3)} <= {plan.splits for plan in plans}


def test_the_rank_with_most_to_keep_is_the_one_planned_for():
    # the rank at (2; 1, .) stands on two groups of layer 1
    splits, shape = (1, 3, 2, 1), dense_shape((20, 31, 17, 4))
    problem = Problem(shape, 200, 40, 4)
    plan = make_plan(problem, splits, RATES)
    partition = Partition(shape.widths, splits)
    shares = [Share(shape, partition, rank) for rank in range(partition.n_ranks)]
    width = widest_kept(problem, shares)
    kept = [iteration_memory(problem, share, width)["activations"] for share in shares]
    assert plan.memory["activations"] == max(kept) > min(kept)


def test_messages_between_nodes_are_slower_and_share_the_card():
    rates = replace(RATES, ranks_per_node=4)
    near, far = Message(4e6, 2, 4, 0, 3), Message(4e6, 2, 4, 0, 12)
    assert rates.transfer(near) == pytest.approx((2 * 2 * 1e-6, 1.5 * 4e6 / 4e9))
    assert rates.transfer(far) == pytest.approx((2 * 2 * 1e-5, 1.5 * 4e6 * 4 / 1e9))


def test_what_limits_is_named():
    slow_network = replace(RATES, bandwidth=1e6)
    late = replace(RATES, latency=1.0)
    assert "bytes between ranks" in make_plan(PROBLEM, (2, 2, 2, 2), slow_network).limits()
    assert "latency" in make_plan(PROBLEM, (2, 2, 2, 2), late).limits()
    assert "computing" in make_plan(PROBLEM, (1, 1, 1, 1), RATES).limits()
    narrow = make_plan(replace(PROBLEM, shape=dense_shape((4, 2, 2))), (1, 8, 1), RATES)
    assert "6 of 8 ranks own nothing" in narrow.limits()


@pytest.mark.parametrize("shape", [PROBLEM.shape, IMAGES], ids=["dense", "images"])
@pytest.mark.parametrize("limit", [3e8, 2e9])
def test_the_widest_network_fits_and_a_wider_one_does_not(shape, limit):
    problem = replace(PROBLEM, shape=shape)

    def plans(given):
        return make_plans(given, 4, RATES)

    found = largest(problem, limit, plans)
    assert 0.7 * limit < found.memory_bytes <= limit
    wider = replace(problem, shape=widened(found.problem.shape, 1.03))
    assert all(plan.memory_bytes > limit for plan in plans(wider))
    assert found.problem.shape.widths[0] == shape.widths[0]
    assert largest(problem, 1e5, plans) is None


def test_thousands_of_ranks_and_a_billion_variables():
    problem = replace(PROBLEM, shape=dense_shape((20_000, 20_000, 20_000, 10_000, 10)), n_samples=1_000_000)
    assert problem.shape.n_params > 1e9
    plan = make_plan(problem, (64,) * 5, RATES)
    assert plan.partition.n_ranks == 4096
    one = make_plan(problem, (1,) * 5, RATES)
    # element-wise work on a group is done by all ranks of its boundary, here by 64
    assert 0.5 < one.total("compute") / 4096 / plan.total("compute") <= 1.0


def test_sparse_features_cost_by_their_values():
    dense = make_plan(PROBLEM, (2, 1, 2, 1), RATES)
    few, many = (make_plan(replace(PROBLEM, nonzeros=z), (2, 1, 2, 1), RATES) for z in (10, 100))
    assert few.memory["features"] < many.memory["features"] < dense.memory["features"]
    assert few.phases["gradient"].compute < many.phases["gradient"].compute


def test_sparse_products_are_paid_by_value_and_by_column():
    assert RATES.sparse_product(1e6, 64) == pytest.approx(2e6 * 64 / RATES.sparse_products)
    # with one column nearly all is fetching: two ranks that cut the columns hardly gain
    assert RATES.sparse_product(1e6, 1) > 0.8 * RATES.sparse_product(1e6, 2)


def test_a_cluster_file_gives_the_rates_and_says_what_is_missing():
    text = {"name": "x", "compute": {"float32_gflop_s": 80.0, "memory_gb_s": 12.0}, "network": {"node_latency_us": 3.0}}
    rates, missing = cluster_rates(Cluster.model_validate(text), "float32")
    assert (rates.products, rates.memory, rates.latency) == (8e10, 12e9, pytest.approx(3e-6))
    assert missing == ["compute.sparse_gflop_s", "compute.exponentials_g_s", "network.node_bandwidth_gb_s"]
    assert rates.ranks_per_node > 1e6
    text |= {"launch": {"nodes": 2, "ranks_per_node": 8}}
    rates, missing = cluster_rates(Cluster.model_validate(text), "float64")
    assert rates.ranks_per_node == 8
    assert missing[0] == "compute.float64_gflop_s"
    assert missing[-2:] == ["network.latency_us", "network.bandwidth_gb_s"]


def test_candidates_are_valid():
    for n_ranks, widths in itertools.product((1, 7, 12), ((5, 4), (784, 300, 10))):
        for splits in candidates(dense_shape(widths), n_ranks):
            assert Partition(widths, splits).n_ranks == n_ranks


class TestWorthOfRanks:
    """Whether ranks are wasted, or more would help, is what plans of fewer and of more say."""

    PROBLEM = replace(PROBLEM, method=PlannedMethod("gauss_newton", 10))

    def plan_on(self, problem, rates):
        return lambda n_ranks: make_plans(problem, n_ranks, rates)[0]

    def test_more_ranks_help_where_work_is_shared(self):
        plan_on = self.plan_on(self.PROBLEM, RATES)
        assert not wasted_ranks(plan_on(2), plan_on)
        text = more_ranks(plan_on(2), plan_on)
        gain = 1 - plan_on(4).seconds / plan_on(2).seconds
        assert text.startswith(f"4 ranks would take {gain:.0%} off an iteration")
        assert gain > 0.3

    def test_ranks_that_wait_for_messages_are_wasted(self):
        small = replace(self.PROBLEM, shape=dense_shape((64, 16, 10)), n_samples=1000, n_curvature=100)
        plan_on = self.plan_on(small, replace(RATES, latency=1e-3))
        text = wasted_ranks(plan_on(32), plan_on)
        assert text.startswith("31 of 32 ranks are wasted: 1 take")
        assert "help little" in more_ranks(plan_on(32), plan_on)

    def test_what_cannot_be_planned_is_left_out(self):
        blocks = replace(self.PROBLEM, blocks=(2, 2, 2, 2))
        plan_on = self.plan_on(blocks, RATES)
        assert not more_ranks(plan_on(4), plan_on)


def test_kronecker_factors_cost_time_and_memory():
    plain = replace(PROBLEM, method=PlannedMethod("block_diagonal", 6))
    factored = replace(plain, method=PlannedMethod("block_diagonal", 6, preconditioner="kfac"))
    for splits in [(1, 1, 1, 1), (2, 2, 2, 2)]:
        a, b = make_plan(plain, splits, RATES), make_plan(factored, splits, RATES)
        phases = [name for name in a.phases if a.phases[name] != b.phases[name]]
        assert phases == ["direction"]
        assert b.phases["direction"].compute > 1.1 * a.phases["direction"].compute
        assert b.sent_bytes == a.sent_bytes
        # input and output factors of the block of the largest layer, and their inverses, at least
        assert b.memory["factors"] > 8 * ((784 // splits[0]) ** 2 + (512 // splits[1]) ** 2)
        assert a.memory["factors"] == 0.0
    # a block's factors are smaller where there are more blocks
    whole, parts = (make_plan(replace(factored, blocks=blocks), (1,) * 4, RATES) for blocks in [(), (2, 2, 2, 2)])
    assert parts.phases["direction"].compute < whole.phases["direction"].compute
    # beyond 4,096 inputs the input factor is a diagonal
    wide = make_plan(replace(factored, shape=dense_shape((50_000, 20, 5)), nonzeros=100), (1, 1, 1), RATES)
    assert wide.memory["factors"] < 4 * 2 * (50_001 + 20**2 + 21**2 + 5**2 + 1)


@pytest.mark.parametrize("direction", ["gauss_newton", "dual"])
def test_an_acceleration_is_part_of_the_direction(direction):
    small = replace(PROBLEM, n_samples=2000, n_curvature=100, method=PlannedMethod(direction, 10))
    bent = replace(small, method=PlannedMethod(direction, 10, accelerated=True))
    for splits in [(1, 1, 1, 1), (2, 2, 2, 2)]:
        a, b = make_plan(small, splits, RATES), make_plan(bent, splits, RATES)
        assert [name for name in a.phases if a.phases[name] != b.phases[name]] == ["direction"]
        assert b.seconds > a.seconds


class TestThousandsOfRanks:
    """A network of 20,000 x 20,000 on up to 4,096 ranks: the arithmetic alone."""

    SHAPE = dense_shape((20_000, 20_000, 10))
    PROBLEM = Problem(SHAPE, 100_000, 5_000, 10, method=PlannedMethod("gauss_newton", 11), n_test=1000)
    RANKS = (1, 4, 16, 64, 256, 1024, 4096)
    # a network as fast as the memory that ranks of a node share
    RATES = replace(RATES, ranks_per_node=64, far_latency=2e-6, far_bandwidth=64 * 4e9, call=2e-5)

    def test_predictions_are_finite_and_fall(self):
        plans = [make_plan(self.PROBLEM, (round(n**0.5),) * 3, self.RATES) for n in self.RANKS]
        seconds = [plan.seconds for plan in plans]
        assert all(math.isfinite(second) and second > 0.0 for second in seconds)
        assert seconds == sorted(seconds, reverse=True)
        memory = [plan.memory_bytes for plan in plans]
        assert memory == sorted(memory, reverse=True)
        # work is shared: never more than twice what an even share would be
        assert plans[-1].total("compute") < 2 * plans[0].total("compute") / 4096
        slow = replace(self.RATES, far_bandwidth=1e9, far_latency=1e-4)
        assert seconds[-1] < make_plan(self.PROBLEM, (64,) * 3, slow).seconds < math.inf
        # bytes of a rank fall with the side of the grid, not with the ranks
        assert plans[-1].sent_bytes < plans[1].sent_bytes

    @pytest.mark.parametrize("n_ranks", [4096, 4095, 1000])
    def test_every_rank_owns_as_much_as_any_other(self, n_ranks):
        square = min(regular_splits(n_ranks, 2), key=lambda splits: abs(splits[0] - splits[1]))
        for splits in [(1, n_ranks, 1), square]:
            partition = Partition(self.SHAPE.widths, splits)
            owned = np.array([partition.n_params(rank) for rank in range(n_ranks)])
            assert owned.sum() == self.SHAPE.n_params
            # groups differ by a unit, of five where there are 4,096, and the first owns the biases
            assert owned.max() / owned.min() < 1.4
            assert not partition.idle_ranks()

    def test_slow_ranks_among_thousands_own_in_proportion(self):
        speeds = [1.0] * 4096
        speeds[7] = speeds[4000] = 0.2
        partition = Partition(self.SHAPE.widths, (1, 4096, 1), speeds=tuple(speeds))
        owned = np.array([partition.n_params(rank) for rank in range(4096)])
        assert owned.sum() == self.SHAPE.n_params
        assert owned[7] == owned[4000] <= 0.3 * np.median(owned)
