"""A partition that moves during a run: the same numbers as without, and a rank that is slow is given less."""

from __future__ import annotations

import re

import numpy as np
import pytest
from resumed import StopAfter, blobs, free
from scipy.sparse import csr_array, random_array

import distnewton
from distnewton.checkpoint.moving import move_state
from distnewton.checkpoint.state import State
from distnewton.data.moving import move_columns
from distnewton.errors import ConfigError
from distnewton.guards.faults import faults
from distnewton.launch.speeds import SpeedWatch
from distnewton.network.layout import layout_of
from distnewton.parallel.partition import Partition, regular_splits

ranks = pytest.mark.mpi(min_size=1, sizes=(2, 4))
N_ITERATIONS = 7
METHODS = {
    "gauss_newton": {"cg_tolerance": 0.0, "cg_max": 5, "warm_start": 0.5, "preconditioner": "diagonal"},
    "dual": {"subsample": 0.2},
    "block_diagonal": {"cg_tolerance": 0.0, "cg_max": 4, "finish_fraction": 1.0},
    "adam": {"batch": 20, "average": 0.9},
    "grouped_newton": {"batch": 20, "rate_period": 3, "steps": 2},
}  # fmt: skip
BLOCKS = {"block_diagonal": "1-4-1-4"}


def config_of(name, speeds="auto", **tables):
    partition = {"speeds": speeds, "blocks": BLOCKS.get(name, "ranks")} | tables.pop("partition", {})
    run = {"iterations": N_ITERATIONS, "dtype": "float64", "threads": 1}
    tree = {"network": {"layers": ["auto", 12, 8, "auto"]}, "partition": partition, "run": run}
    return distnewton.make_config(tree | {"method": {"direction": name, **METHODS[name]}} | tables)


def speeds_after(n):
    return [1.0] * (n - 1) + [0.3]


@pytest.fixture
def forced(monkeypatch):
    """Moves after iterations that are given, to speeds that are given."""

    def force(moves):
        def look(self, seconds, iteration_seconds, n_left):
            assert len(seconds) == len(self._speeds)
            assert min(seconds) > 0.0
            assert iteration_seconds > 0.0
            return moves.get(N_ITERATIONS - n_left, [])

        monkeypatch.setattr(SpeedWatch, "look", look)

    return force


def train(comm, config, source, **options):
    result = distnewton.train(config, comm, train_data=source, **options)
    weights = result.model.weights()
    notes = [record.note for record in result.history]
    free(result)
    return [record.objective for record in result.history], weights, notes, result


@ranks
@pytest.mark.parametrize("name", METHODS)
def test_a_run_whose_partition_moves_is_the_run_without(world, forced, name):
    source = distnewton.ArraySource(*blobs())
    plain, weights, _, _ = train(world, config_of(name, "equal"), source)
    forced({3: speeds_after(world.size), 5: [1.0] * world.size})
    found, gathered, notes, _ = train(world, config_of(name), source)
    np.testing.assert_allclose(found, plain, rtol=1e-9)
    wrong = world.rank == 0 and any(abs(gathered[k] - weights[k]).max() > 1e-8 for k in weights)
    assert not world.any(wrong)
    moved = [k for k, note in enumerate(notes) if "partition moved" in note]
    assert moved == ([4, 6] if world.size > 1 else [])
    if world.size == 4:
        assert "rank 3 owns" in notes[4]
        assert "blocks that are solved separately" not in notes[4]


@ranks
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("slow", [0, -1])
def test_a_rank_that_owns_nothing_is_left_alone(world, forced, monkeypatch, name, slow):
    monkeypatch.setattr("distnewton.planning.shares._FACTORS", (1e-9,))
    source = distnewton.ArraySource(*blobs())
    plain, *_ = train(world, config_of(name, "equal"), source)
    speeds = [1.0] * world.size, [1.0] * world.size
    speeds[0][slow], speeds[1][slow] = 0.3, 0.1
    forced({2: speeds[0], 4: speeds[1]} if world.size > 1 else {})
    found, _, notes, _ = train(world, config_of(name), source)
    np.testing.assert_allclose(found, plain, rtol=1e-9)
    if world.size > 1:
        assert f"rank {slow % world.size} owns 0 % of the variables" in notes[3]
        # slower still: there is nothing more to take
        assert [k for k, note in enumerate(notes) if "partition moved" in note] == [3]


@ranks
def test_blocks_that_follow_the_ranks_are_said_to_change(world, forced):
    forced({3: speeds_after(world.size)})
    config = config_of("block_diagonal", partition={"blocks": "ranks"})
    found, _, notes, _ = train(world, config, distnewton.ArraySource(*blobs()))
    assert (np.diff(found) < 0).all()
    assert ("blocks that are solved separately" in notes[4]) == (world.size > 1)


@ranks
def test_sparse_features_and_held_out_data_move_too(world, forced):
    rng = np.random.default_rng(1)
    # some features have no value, and no weights therefore
    X = csr_array(random_array((90, 43), density=0.03, rng=rng))
    y = rng.integers(3, size=90)
    source, test = distnewton.ArraySource(X[:60], y[:60]), distnewton.ArraySource(X[60:], y[60:])
    found = []
    assert 5 < (abs(X[:60]).sum(axis=0) > 0).sum() < 43
    for speeds in ("equal", "auto"):
        forced({3: speeds_after(world.size)})
        config = config_of("gauss_newton", speeds, run={"iterations": N_ITERATIONS, "dtype": "float64", "patience": 50})
        _, _, _, result = train(world, config, source, validation_data=test, test_data=test)
        found.append([[r.objective, r.validation["accuracy"], r.test["accuracy"]] for r in result.history])
        found[-1].append([result.best.value, result.best.iteration, 0])
    np.testing.assert_allclose(*found, rtol=1e-9)


@ranks
def test_images_move(world, forced):
    rng = np.random.default_rng(2)
    images = rng.standard_normal((40, 4, 6, 6))
    y = rng.integers(3, size=40)
    network = {"layers": [{"type": "conv", "channels": 8, "kernel": 3}, {"type": "dense", "width": "auto"}]}
    found = []
    for speeds in ("equal", "auto"):
        forced({3: speeds_after(world.size)})
        config = config_of("gauss_newton", speeds, network=network | {"input": [4, 6, 6]})
        found.append(train(world, config, distnewton.ArraySource(images.reshape(40, -1), y))[0])
    np.testing.assert_allclose(*found, rtol=1e-9)


@ranks
def test_a_checkpoint_after_a_move_goes_on(world, forced, folder):
    source = distnewton.ArraySource(*blobs())
    plain, *_ = train(world, config_of("gauss_newton", "equal"), source)
    forced({3: speeds_after(world.size)})
    train(world, config_of("gauss_newton"), source, checkpoints=folder / "c", clock=StopAfter(5, world))
    rest, _, _, result = train(world, config_of("gauss_newton"), source, checkpoints=folder / "c", resume=True)
    np.testing.assert_allclose(rest, plain[5:], rtol=1e-9)
    assert any("other speeds" in note for note in result.summary.notes) == (world.size > 1)


@ranks
@pytest.mark.parametrize("method", [{"replicas": 2}, {"splits": "grid"}])
def test_copies_and_given_splits_move(world, forced, method):
    if world.size < 4:
        pytest.skip("needs a grid of two directions, or two copies of two ranks")
    partition = {"splits": [2, 2, 2, 2]} if "splits" in method else method
    source = distnewton.ArraySource(*blobs())
    plain, *_ = train(world, config_of("gauss_newton", "equal", partition={**partition}), source)
    forced({3: speeds_after(world.size // partition.get("replicas", 1))})
    found, _, notes, _ = train(world, config_of("gauss_newton", partition={**partition}), source)
    np.testing.assert_allclose(found, plain, rtol=1e-9)
    assert "partition moved" in notes[4]


@ranks
def test_every_pair_of_partitions_by_global_index(world):
    widths, n = (9, 7, 5, 3), world.size
    speeds = [(), tuple(speeds_after(n)), tuple(0.1 + k for k in range(n)), (1e-9,) + (1.0,) * (n - 1)]
    partitions = [
        Partition(widths, splits, (2, 1, 1), 2, speeds=s if len(set(s)) > 1 else ())
        for splits in regular_splits(n, 3) for s in speeds
    ]  # fmt: skip
    whole = np.random.default_rng(3).standard_normal((11, 2, 9))
    good = True
    for before in partitions:
        X = columns(whole, before, world.rank)
        own = indices(before, world.rank)
        state = State({"k": 1}, {"v": own}, parts={"inside": State({}, {"v": own + 0.5})})
        for after in partitions:
            moved = move_state(state, before, after, world)
            good &= np.array_equal(moved.vectors["v"], indices(after, world.rank))
            good &= np.array_equal(moved.parts["inside"].vectors["v"], indices(after, world.rank) + 0.5)
            good &= np.array_equal(move_columns(X, before, after, world), columns(whole, after, world.rank))
            sparse = move_columns(csr_array(X), before, after, world) if before.features_per_unit == 1 else None
            good &= sparse is None or np.array_equal(sparse.toarray(), columns(whole, after, world.rank))
    assert not world.any(not good)


def columns(whole, partition, rank):
    block = partition.block(1, rank)
    first, end = (0, 0) if block is None else block.inputs
    return whole[:, :, first:end].reshape(len(whole), -1).copy()


def indices(partition, rank):
    """A vector that holds the global number of each variable."""
    layout = layout_of(partition, rank)
    vector = np.full(layout.n_params, -1.0)
    for m, view in layout.views(vector).items():
        block = layout.blocks[m]
        view.W[...] = 1e6 * m + 1e3 * block.rows[:, None] + np.arange(*block.outputs)
        if view.b is not None:
            view.b[...] = 1e6 * m - 1e3 + np.arange(*block.outputs)
    return vector


def test_factors_move_with_their_blocks(world):
    cut = (1, 8, 1, 8)
    before = Partition((9, 8, 8, 8), (1, world.size, 1, world.size), block_splits=cut)
    slow = tuple(speeds_after(world.size)) if world.size > 1 else ()
    after = Partition((9, 8, 8, 8), before.splits, speeds=slow, block_splits=cut)
    made = {(number, 2): np.full((3, 2), number, order="F") for number in before.numbers(world.rank)}
    vector = indices(before, world.rank)
    moved = move_state(State(vectors={"v": vector}, factors={"A": made}), before, after, world)
    assert moved.same_blocks
    assert list(moved.factors["A"]) == [(number, 2) for number in after.numbers(world.rank)]
    assert all((array == key[0]).all() and array.flags.f_contiguous for key, array in moved.factors["A"].items())
    other = Partition(before.widths, before.splits)
    other = move_state(State(vectors={"v": vector}, factors={"A": made}), before, other, world)
    assert world.size == 8 or (not other.same_blocks and other.factors == {"A": {}})


test_factors_move_with_their_blocks = pytest.mark.mpi(min_size=1, sizes=(2, 3))(test_factors_move_with_their_blocks)


@ranks
def test_what_cannot_move_is_refused(world):
    with pytest.raises(ConfigError, match=r"depends on measured times, which run.deterministic rules out"):
        config_of("adam", run={"deterministic": True})
    if world.size > 1:
        data = {"train": "distnewton.physics.examples:poisson2d"}
        config = distnewton.make_config({"data": data, "partition": {"speeds": "auto"}})
        with pytest.raises(ConfigError, match=r"partition.speeds = auto is not for residual problems"):
            distnewton.train(config, world)


class Slows:
    """An observer that slows the last rank from the start on."""

    def __init__(self, world):
        self._world = world

    def start(self, summary):
        faults.arm(self._world.rank, self._world.ledger, f"rank={self._world.size - 1} at=all kind=slow factor=8")

    def iteration(self, record):
        """Nothing."""


@pytest.mark.mpi(sizes=(2,))
def test_a_slow_rank_is_given_less(world):
    rng = np.random.default_rng(4)
    source = distnewton.ArraySource(rng.standard_normal((3000, 60)), rng.integers(3, size=3000))
    tables = {"network": {"layers": ["auto", 160, 160, "auto"]}, "run": {"iterations": 14, "threads": 1}}
    try:
        _, _, notes, _ = train(world, config_of("gauss_newton", **tables), source, observers=[Slows(world)])
    finally:
        faults.arm(world.rank, world.ledger, "")
    moved = [k for k, note in enumerate(notes) if "partition moved" in note]
    assert moved, notes
    # on a busy machine a move may be for the sake of another rank
    shares = re.findall(rf"rank {world.size - 1} owns (\S+) %", "\n".join(notes))
    assert min(map(float, shares)) < 70.0 / world.size, notes


def watched(pattern, speeds=None, work=lambda k: 0.1, n_left=100):
    """Speeds that a watch asks for, by iteration; rank r takes ``pattern(k)[r]`` times as long as its share says."""
    watch = SpeedWatch(speeds or [1.0] * len(pattern(0)))
    own, asked = np.array(speeds or [1.0] * len(pattern(0))), {}
    for k in range(1, n_left):
        seconds = work(k) * len(own) * own / own.sum() * np.array(pattern(k))
        if found := watch.look(seconds.tolist(), seconds.max() + 0.05, n_left - k):
            asked[k], own = found, np.array(found)
    return asked


def test_a_rank_that_stays_slow_is_given_less_within_five_iterations():
    asked = watched(lambda k: [1, 1, 1, 5])
    assert asked == {4: [1.0, 1.0, 1.0, 0.2]}


def test_it_is_given_as_much_as_the_others_when_it_recovers():
    asked = watched(lambda k: [1, 1, 1, 5 if k < 20 else 1])
    assert [*asked.values()] == [[1.0, 1.0, 1.0, 0.2], [1.0, 1.0, 1.0, 1.0]]
    assert 20 < max(asked) <= 25


def test_what_is_not_shared_makes_it_give_less_still():
    # a part that does not shrink with the share: the second move corrects the first
    watch, own, seconds = SpeedWatch([1.0] * 4), np.ones(4), np.ones(4)
    for k in range(1, 40):
        seconds = (0.02 + 0.4 * own / own.sum()) * np.array([1, 1, 1, 5])
        own = np.array(watch.look(seconds.tolist(), seconds.max() + 0.01, 100 - k) or own)
    assert seconds.max() < 1.5 * 0.12


def test_noise_moves_nothing():
    rng = np.random.default_rng(5)
    assert watched(lambda k: rng.lognormal(0.0, 0.3, 4).tolist(), n_left=2000) == {}
    # a rank that is slow in one iteration of three
    assert watched(lambda k: [1, 1, 1, 6 if k % 3 == 0 else 1], n_left=200) == {}
    # short iterations, whose times say little
    assert watched(lambda k: [1, 1, 1, 5], work=lambda k: 1e-3) == {}
    # too late to pay
    assert watched(lambda k: [1, 1, 1, 5], n_left=5) == {}


def test_a_machine_that_changes_all_the_time_costs_few_moves():
    asked = watched(lambda k: [1, 1, 1, 5 if k // 12 % 2 else 1], n_left=1000)
    assert len(asked) <= np.log2(1000 / 5) + 2


@ranks
def test_a_move_that_does_not_fit_leaves_the_run_as_it_is(world, forced, monkeypatch):
    source = distnewton.ArraySource(*blobs())
    plain, *_ = train(world, config_of("gauss_newton", "equal"), source)
    forced({3: speeds_after(world.size)})
    monkeypatch.setattr("distnewton.runs.moving.memory_problem", lambda *_: "it needs 9 GB on here")
    found, _, notes, _ = train(world, config_of("gauss_newton"), source)
    np.testing.assert_allclose(found, plain, rtol=1e-12)
    assert ("the partition stays: a second copy of the run does not fit (it needs 9 GB on here)" in notes[4]) == (
        world.size > 1
    )


@ranks
def test_features_that_are_not_regularised_move(world, forced):
    pd = pytest.importorskip("pandas")
    X, y = blobs()
    frame = pd.DataFrame(X, columns=[f"x{k}" for k in range(X.shape[1])]).assign(label=y)
    found = []
    for speeds in ("equal", "auto"):
        forced({3: speeds_after(world.size)})
        config = config_of("gauss_newton", speeds, data={"unpenalised": ["x1", "x5"]})
        found.append(train(world, config, frame)[0])
    np.testing.assert_allclose(*found, rtol=1e-9)
