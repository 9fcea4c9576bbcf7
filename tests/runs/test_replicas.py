"""Replicas of the grid, each with its share of the samples: the same run as with one, where the method is exact."""

from __future__ import annotations

import numpy as np
import pytest
from problems import named_direction

import distnewton
from distnewton.curvature.linearization import Linearization
from distnewton.curvature.point import Point
from distnewton.curvature.sample import CurvatureSample
from distnewton.data.description import Description
from distnewton.errors import ConfigError
from distnewton.method.batches import Subsamples
from distnewton.method.objective import subsample_size
from distnewton.parallel.partition import divisors, regular_splits
from distnewton.parallel.termination import NEVER
from distnewton.runs.session import Session

pytestmark = pytest.mark.mpi(min_size=1, sizes=(2, 4))
N_ITERATIONS = 5


def blobs(n=91, n_features=6, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    centres = 2 * rng.standard_normal((n_classes, n_features))
    y = rng.integers(n_classes, size=n)
    return centres[y] + rng.standard_normal((n, n_features)), y


def run(comm, method, train=None, test=None, partition=None, **tables):
    tree = {
        "network": {"layers": ["auto", 6, 4, "auto"]},
        "run": {"iterations": N_ITERATIONS, "dtype": "float64", "deterministic": True, "threads": 1},
        "method": method,
        "partition": partition or {},
    }
    source = distnewton.ArraySource(*(train or blobs()))
    test = None if test is None else distnewton.ArraySource(*test)
    result = distnewton.train(distnewton.make_config(tree | tables), comm, train_data=source, test_data=test)
    result.model.grid.free()
    return result


def numbers(result):
    return [
        [record.objective, record.gradient_norm or 0.0, *record.train.values(), *record.test.values()]
        for record in result.history
    ]


def partitions(n_ranks, n_layers=3):
    """All replicas above 1 that divide the ranks, with every regular grid of the rest."""
    return [
        {"replicas": r, "splits": list(splits)}
        for r in divisors(n_ranks) if r > 1 for splits in regular_splits(n_ranks // r, n_layers)
    ]  # fmt: skip


EXACT = [
    {"direction": "gauss_newton", "subsample_min": 20},
    {"direction": "gauss_newton", "subsample_min": 20, "jacobian": "recomputed"},
    # with little damping and few rows 30 CG steps would magnify rounding beyond this test's tolerance
    {"direction": "gauss_newton", "subsample_min": 21, "preconditioner": "diagonal", "warm_start": 0.5, "sketch": 2,
     "drop": 2 / 3},
    {"direction": "dual", "subsample_min": 20},
    {"direction": "dual", "subsample_min": 19, "sketch": 1},
    {"direction": "sgn", "solver": "gauss_newton", "batch": 30, "preconditioner": "diagonal", "sketch": 2},
    {"direction": "sgn", "solver": "dual", "batch": 30},
    {"direction": "sgn", "solver": "dual", "batch": 5, "steps": 2, "damping": 30.0},  # some replicas have no sample
    {"direction": "sgd", "batch": 20, "momentum": 0.5},
    {"direction": "adam", "batch": 5, "learning_rate": 0.01, "rate_decay": "cosine", "average": 0.5},
    {"direction": "grouped_newton", "batch": 40, "rate_period": 1},
]  # fmt: skip


@pytest.mark.parametrize("method", EXACT, ids=str)
def test_replicas_take_the_steps_of_one(world, method):
    alone = numbers(run(None, method))
    assert alone[-1][0] < alone[0][0]
    for partition in partitions(world.size):
        found = numbers(run(world, method, partition=partition))
        np.testing.assert_allclose(found, alone, rtol=1e-10, atol=1e-12, err_msg=str(partition))


BLOCKS = [
    {"direction": "kfac", "batch": 30},
    {"direction": "kfac", "batch": 3},
    {"direction": "mini_block_fisher", "batch": 30},
    {"direction": "mini_block_fisher", "batch": 30, "mini_blocks": "neuron", "learning_rate": 0.02},
    {"direction": "gauss_newton", "subsample_min": 40, "preconditioner": "kfac"},
    {"direction": "sgn", "solver": "kfac", "batch": 30},
]


@pytest.mark.parametrize("method", BLOCKS, ids=str)
def test_factors_of_blocks_are_those_of_all_samples(world, method):
    # factors belong to the ranks' blocks, so the grid must be the one of the run they are compared with
    alone = numbers(run(None, method))
    partition = {"replicas": world.size, "splits": [1, 1, 1, 1]}
    np.testing.assert_allclose(numbers(run(world, method, partition=partition)), alone, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("solver", ["block_diagonal", "block_dual"])
@pytest.mark.parametrize("outer", ["", "sgn", "grouped_newton"])
def test_replicas_that_solve_apart_learn(world, solver, outer):
    method = {"direction": solver, "subsample_min": 40}
    if outer == "sgn":
        method = {"direction": "sgn", "solver": solver, "batch": 45}
    if outer == "grouped_newton":
        method = {"direction": "grouped_newton", "proposal": solver, "batch": 45, "rate_period": 1}
    for partition in partitions(world.size)[:2]:
        result = run(world, method, partition=partition)
        assert result.last.loss < 0.8 * result.history[0].loss, partition
        assert len(result.last.direction.seconds) == world.size


def test_the_step_takes_the_mean_of_what_replicas_find_apart(world):
    method = {"direction": "block_diagonal", "subsample": 0.5, "combine": "none", "damping": 1.0}
    method |= {"cg_max": 200, "cg_tolerance": 1e-13, "preconditioner": "none", "sketch": 0}
    tree = {
        "network": {"layers": ["auto", 4, "auto"]}, "method": method, "partition": {"replicas": world.size},
        "run": {"iterations": 1, "dtype": "float64", "deterministic": True, "threads": 1},
    }  # fmt: skip
    source = distnewton.ArraySource(*blobs())
    result = distnewton.train(distnewton.make_config(tree), world, train_data=source)
    result.model.grid.free()

    # the directions of all replicas on one process
    config = distnewton.make_config(tree | {"partition": {}})
    session = Session(config, None, given={"train": source})
    objective, network = session.setup.training.objective, session.setup.placement.network
    params = network.initial_params(config.run.seed, "he")
    gradient = objective.gradient(objective.evaluate(params, None))
    chosen = Subsamples(91, subsample_size(91, 0.5, config.method.subsample_min), config.run.seed).rows(0)
    found = []
    for replica in range(world.size):
        rows = [p for p in chosen if p % world.size == replica]
        activations = network.forward(params, objective.X[rows])
        sample = CurvatureSample(Point(network, params, activations, objective.loss, objective.targets[rows]))
        sample.linearize()
        problem = Linearization(gradient, sample, objective.regularization, config.method.damping, network.grid)
        plain = named_direction("block_diagonal", cg_max=200, cg_tolerance=1e-13, preconditioner="none")
        found.append(plain.solve(problem, NEVER).direction)
    step = result.last.step_size * np.mean(found, axis=0)
    assert result.last.step_size > 0
    np.testing.assert_allclose(result.model.params, params + step, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("loss", "scale"), [
    ("cross_entropy", "minmax"), ("cross_entropy", "minmax_joint"), ("cross_entropy", "center"),
    ("cross_entropy", "standard"), ("logistic", "unit_rows"), ("squared", "standard"),
])  # fmt: skip
def test_scaling_metrics_and_targets_are_those_of_all_samples(world, loss, scale):
    X, y = blobs(n=37, n_classes=2)
    X[:, 2] = 7.0
    y = y if loss != "squared" else X @ np.arange(6.0)
    method = {"direction": "gauss_newton", "subsample": 0.5}
    tables = {"network": {"layers": ["auto", 3, "auto"], "loss": loss}, "data": {"scale": scale, "n_train": 31}}
    alone = run(None, method, (X, y), (X[::3], y[::3]), **tables)
    for partition in partitions(world.size, 2)[-2:]:
        found = run(world, method, (X, y), (X[::3], y[::3]), partition, **tables)
        np.testing.assert_allclose(numbers(found), numbers(alone), rtol=1e-8, atol=1e-10, err_msg=str(partition))
        assert found.summary.notes == alone.summary.notes
        same = ("n_right", "n_of", "confusion") if loss != "squared" else ("targets",)
        assert [found.predictions[k] for k in same] == [alone.predictions[k] for k in same]


def test_sparse_features_and_their_gram_matrix(world):
    from scipy.sparse import random_array

    rng = np.random.default_rng(3)
    X = random_array((60, 200), density=0.05, rng=rng, format="csr")
    y = (np.asarray(X @ rng.standard_normal(200)) > 0).astype(int)
    for method in ({"direction": "dual", "subsample": 0.5}, {"direction": "gauss_newton", "subsample": 0.5}):
        alone = numbers(run(None, method, (X, y)))
        for partition in partitions(world.size):
            np.testing.assert_allclose(numbers(run(world, method, (X, y), None, partition)), alone, rtol=1e-10)


@pytest.mark.parametrize("method", [
    {"direction": "gauss_newton", "subsample": 0.5}, {"direction": "sgn", "solver": "dual", "batch": 12},
    {"direction": "kfac", "batch": 12}, {"direction": "mini_block_fisher", "batch": 12},
], ids=str)  # fmt: skip
def test_weights_and_validation_data_are_shared_out_with_the_samples(world, method):
    X, y = blobs(n=61)
    weights = np.random.default_rng(5).random(61) * (np.arange(61) % 5 > 0)
    found = []
    for comm in (None, world):
        tree = {
            "network": {"layers": ["auto", 5, "auto"]}, "method": method, "data": {"validation_fraction": 0.25},
            "run": {"iterations": N_ITERATIONS, "dtype": "float64", "deterministic": True, "threads": 1},
            "partition": {} if comm is None else {"replicas": world.size, "splits": [1, 1, 1]},
        }  # fmt: skip
        source = distnewton.ArraySource(X, y, sample_weight=weights)
        result = distnewton.train(distnewton.make_config(tree), comm, train_data=source)
        result.model.grid.free()
        found.append([[r.objective, *r.train.values(), *r.validation.values()] for r in result.history])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-9, atol=1e-11)


IMAGES = {
    "layers": [
        {"type": "conv", "channels": 3, "kernel": 3, "padding": 1}, {"type": "max_pool", "size": 2},
        {"type": "flatten"}, {"type": "dense", "width": "auto"},
    ],
    "input": [1, 6, 6],
}  # fmt: skip


@pytest.mark.parametrize("method", [
    {"direction": "gauss_newton", "subsample": 0.4},
    {"direction": "gauss_newton", "subsample": 0.4, "jacobian": "recomputed"},
    {"direction": "dual", "subsample": 0.4},
    {"direction": "sgn", "solver": "dual", "batch": 3, "steps": 2},
    {"direction": "kfac", "batch": 4},
    {"direction": "mini_block_fisher", "batch": 4},
    {"direction": "grouped_newton", "batch": 10, "rate_period": 1},
], ids=str)  # fmt: skip
def test_images(world, method):
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=40)
    X = rng.standard_normal((40, 36)) + 2 * rng.standard_normal((3, 36))[y]
    alone = numbers(run(None, method, (X, y), network=IMAGES))
    chosen = [p for p in partitions(world.size, 2) if p["splits"][0] == 1]
    if method["direction"] in ("kfac", "mini_block_fisher"):
        chosen = [{"replicas": world.size, "splits": [1, 1, 1]}]
    for partition in chosen:
        found = numbers(run(world, method, (X, y), None, partition, network=IMAGES))
        np.testing.assert_allclose(found, alone, rtol=1e-8, atol=1e-11, err_msg=str(partition))


def test_checkpoints_go_on_with_other_replicas(world, folder):
    method = {"direction": "gauss_newton", "subsample_min": 20, "warm_start": 0.5, "sketch": 2}
    alone = run(None, method)
    tree = {
        "network": {"layers": ["auto", 6, 4, "auto"]}, "method": method,
        "run": {"iterations": 2, "dtype": "float64", "deterministic": True, "threads": 1},
    }  # fmt: skip
    source = distnewton.ArraySource(*blobs())
    n = 2
    for partition in partitions(world.size) or [{}]:
        tree["partition"] = partition
        tree["run"]["iterations"] = n = min(n, N_ITERATIONS)
        result = distnewton.train(
            distnewton.make_config(tree), world, train_data=source, checkpoints=folder / "c", resume="auto"
        )
        result.model.grid.free()
        np.testing.assert_allclose(result.last.objective, alone.history[n].objective, rtol=1e-9)
        n += 1
    parts = [path.name for path in result.checkpoint.glob("part-*")]
    n_grid = world.size // tree["partition"].get("replicas", 1)
    assert not world.any(len(parts) != n_grid), parts


def test_block_diagonal_goes_on_bit_for_bit(world, folder):
    replicas = {"replicas": world.size, "splits": [1, 1, 1, 1]}
    method = {"direction": "block_diagonal", "subsample_min": 30, "warm_start": 0.7, "preconditioner": "kfac"}
    whole = run(world, method, partition=replicas)
    source = distnewton.ArraySource(*blobs())
    for n in (2, N_ITERATIONS):
        tree = {
            "network": {"layers": ["auto", 6, 4, "auto"]}, "method": method, "partition": replicas,
            "run": {"iterations": n, "dtype": "float64", "deterministic": True, "threads": 1},
        }  # fmt: skip
        result = distnewton.train(
            distnewton.make_config(tree), world, train_data=source, checkpoints=folder / "c", resume="auto"
        )
        result.model.grid.free()
    assert [r.objective for r in result.history] == [r.objective for r in whole.history[2:]]


class Counting(distnewton.ArraySource):
    """Remembers what was read."""

    def read(self, start, stop, dtype="float64", rows=None):
        self.n_read = getattr(self, "n_read", 0) + (self.describe().n_samples if rows is None else len(rows))
        return super().read(start, stop, dtype, rows)

    def describe(self) -> Description:
        return super().describe()


def test_a_rank_reads_its_samples_only(world):
    source = Counting(*blobs(n=90))
    tree = {
        "network": {"layers": ["auto", 6, "auto"]}, "partition": {"replicas": world.size},
        "run": {"iterations": 1, "threads": 1}, "method": {"direction": "gauss_newton"},
    }  # fmt: skip
    distnewton.train(distnewton.make_config(tree), world, train_data=source).model.grid.free()
    n = len(range(world.rank, 90, world.size))
    assert not world.any(source.n_read != n), source.n_read


def test_replicas_that_do_not_fit_are_refused(world):
    with pytest.raises(ConfigError, match=rf"replicas = {world.size + 1} does not divide the {world.size} ranks"):
        run(world, {"direction": "gauss_newton"}, partition={"replicas": world.size + 1})
    with pytest.raises(ConfigError, match="needs 5 ranks"):
        run(world, {"direction": "gauss_newton"}, partition={"replicas": world.size, "splits": [5, 1, 1, 1]})
    # a replica without samples has nothing to find a direction from
    replicas, few = {"replicas": world.size}, {"subsample_min": 1, "subsample": 1e-9}
    if world.size > 1:
        with pytest.raises(ConfigError, match=rf"1 sample.* {world.size} replicas"):
            run(world, {"direction": "block_diagonal", **few}, partition=replicas)
        with pytest.raises(ConfigError, match=rf"{world.size - 1} samples.* {world.size} replicas"):
            run(world, {"direction": "sgd"}, partition=replicas, data={"n_train": world.size - 1})
