"""Whole runs from a configuration: tasks, grids, repeatability, refusals."""

from __future__ import annotations

import numpy as np
import pytest

import distnewton
from distnewton.errors import ConfigError, DataError, DistNewtonError
from distnewton.method.objective import subsample_size
from distnewton.models.metrics import auc, task_metrics
from distnewton.planning.chunks import chunk_ranges

pytestmark = pytest.mark.mpi(min_size=1, sizes=(1, 3))


def blobs(n=150, n_features=7, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    centres = 2 * rng.standard_normal((n_classes, n_features))
    y = rng.integers(n_classes, size=n)
    return centres[y] + rng.standard_normal((n, n_features)), y


def settings(**tables):
    base = {
        "network": {"layers": ["auto", 8, 5, "auto"]},
        "run": {"iterations": 6, "dtype": "float64", "deterministic": True, "threads": 1},
        "method": {"subsample_min": 1, "subsample": 0.3},
    }
    for name, table in tables.items():
        base[name] = base.get(name, {}) | table
    return distnewton.make_config(base)


def sparse_half(X):
    from scipy.sparse import csr_array

    return csr_array(np.where(X > 2.5, X, 0))


def objectives(result):
    return [record.objective for record in result.history]


@pytest.mark.parametrize(
    ("loss", "metric", "bar"), [("cross_entropy", "accuracy", 0.85), ("logistic", "auc", 0.9), ("squared", "r2", 0.5)]
)
@pytest.mark.parametrize("direction", ["block_diagonal", "gauss_newton"])
def test_every_task_learns(world, loss, metric, bar, direction):
    X, y = blobs(n_classes=2 if loss == "logistic" else 3)
    labels = np.array(["red", "green", "blue"])[y] if loss == "cross_entropy" else y if loss == "logistic" else X @ X[0]
    config = settings(network={"loss": loss}, run={"iterations": 12}, method={"direction": direction})
    source = distnewton.ArraySource(X, labels)
    result = distnewton.train(config, world, train_data=source, test_data=source)
    assert result.last.test[metric] > bar
    assert result.last.test == pytest.approx(result.last.train, rel=1e-12)
    same = result.last.objective == world.broadcast_json(result.last.objective)
    assert not world.any(not same)
    result.model.grid.free()


BUNDLED = [
    ({"train": "digits:train", "test": "digits:test", "scale": "minmax"}, "cross_entropy", "accuracy", 0.9),
    ({"train": "breast_cancer", "scale": "standard"}, "logistic", "auc", 0.95),
    ({"train": "diabetes", "scale": "standard"}, "squared", "r2", 0.4),
]


@pytest.mark.parametrize(("data", "loss", "metric", "bar"), BUNDLED, ids=lambda value: str(value)[:24])
def test_bundled_data_are_learnt(world, data, loss, metric, bar):
    pytest.importorskip("sklearn")
    layers = [64, 32, 10] if metric == "accuracy" else ["auto", 6, "auto"]
    config = distnewton.make_config({
        "data": data,
        "network": {"layers": layers, "loss": loss},
        "run": {"iterations": 10, "threads": 1},
    })
    result = distnewton.train(config, world)
    first, last = ((record.test or record.train)[metric] for record in (result.history[0], result.last))
    told = [result.summary.machine.hosts, objectives(result), first, last]
    same = told == world.broadcast_json(told)
    assert not world.any(not same)
    assert result.last.objective < result.history[0].objective
    assert last > max(bar, first)
    assert result.summary.partition.widths[0] == result.summary.train.n_features
    assert len(result.summary.machine.hosts) == world.size
    result.model.grid.free()


@pytest.mark.parametrize("scale", ["none", "standard"])
def test_gauss_newton_has_the_same_history_on_every_number_of_ranks(world, scale):
    X, y = blobs()
    tables = {"method": {"direction": "gauss_newton", "cg_tolerance": 0.0, "cg_max": 5}, "data": {"scale": scale}}
    source = distnewton.ArraySource(X, y)
    alone = distnewton.train(settings(**tables), None, train_data=source)
    together = distnewton.train(settings(**tables), world, train_data=source, test_data=source)
    np.testing.assert_allclose(objectives(together), objectives(alone), rtol=1e-8)
    together.model.grid.free()


def test_deterministic_runs_repeat_bit_for_bit(world):
    source = distnewton.ArraySource(*blobs())
    first, second = (distnewton.train(settings(), world, train_data=source) for _ in range(2))
    same = bool(np.array_equal(first.model.params, second.model.params))
    assert not world.any(not same)
    assert objectives(first) == objectives(second)
    assert not any(record.direction.stopped_early for record in first.history[1:])
    other = distnewton.train(settings(run={"seed": 1}), world, train_data=source)
    assert objectives(other)[0] != objectives(first)[0]


def test_sparse_features_give_the_dense_run(world):
    from scipy.sparse import csr_array

    X, y = blobs()
    X[np.abs(X) < 1.9] = 0
    wide = np.hstack([X, np.zeros((len(X), 30))])
    wide[:10, -30:] = 0.1  # sparse features that no sample has get no weights
    # automatic splits know that sparse features cost less
    config = settings(partition={"splits": [world.size, 1, world.size, 1]})
    runs = [
        distnewton.train(config, world, train_data=distnewton.ArraySource(kind(wide), y), test_data=sample)
        for kind, sample in ((np.array, None), (csr_array, distnewton.ArraySource(csr_array(wide[:9]), y[:9])))
    ]
    assert [run.model.architecture.dense for run in runs] == [True, False]
    np.testing.assert_allclose(objectives(runs[1]), objectives(runs[0]), rtol=1e-10)


def test_small_memory_gives_the_same_run(world):
    source = distnewton.ArraySource(*blobs())
    large = distnewton.train(settings(), world, train_data=source)
    small = distnewton.train(settings(run={"memory_mb": 0.005}), world, train_data=source)
    np.testing.assert_allclose(objectives(small), objectives(large), rtol=1e-10)


def test_more_ranks_than_neurons_run_and_say_so(world):
    X, y = blobs(n_features=2, n_classes=2)
    splits = [1, world.size, 1]
    config = settings(network={"layers": [2, 3, 2]}, partition={"splits": splits}, run={"deterministic": False})
    result = distnewton.train(config, world, train_data=distnewton.ArraySource(X, y))
    assert result.last.objective < result.history[0].objective
    told = any("own no variable" in note for note in result.summary.notes)
    assert told == (world.size > 3)


@pytest.mark.parametrize("direction", ["block_diagonal", "gauss_newton"])
def test_more_ranks_than_features_change_nothing(world, direction):
    X, y = blobs(n_features=1, n_classes=2)
    method = {"direction": direction, "cg_tolerance": 0.0, "cg_max": 4}
    config = settings(partition={"splits": [world.size, 1, world.size, 1]}, method=method)
    result = distnewton.train(config, world, train_data=distnewton.ArraySource(X, y))
    assert result.last.objective < result.history[0].objective
    if direction == "gauss_newton":
        serial = settings(partition={"splits": [1, 1, 1, 1]}, method=method)
        alone = distnewton.train(serial, None, train_data=distnewton.ArraySource(X, y))
        np.testing.assert_allclose(objectives(result), objectives(alone), rtol=1e-8)


def test_zero_iterations_give_the_initial_model(world):
    X, y = blobs()
    seen = []
    result = distnewton.train(
        settings(run={"iterations": 0}), world, train_data=distnewton.ArraySource(X, y), observers=[Recorder(seen)]
    )
    assert [record.iteration for record in result.history] == [0]
    assert seen == ["start", 0]
    initial = result.model.network.initial_params(0, "he")
    same = bool(np.array_equal(result.model.params, initial))
    assert not world.any(not same)


class Recorder:
    """Observer that notes what it is told."""

    def __init__(self, seen):
        self._seen = seen

    def start(self, summary):
        assert summary.partition.widths == (7, 8, 5, 3)
        self._seen.append("start")

    def iteration(self, record):
        self._seen.append(record.iteration)


def with_nan(X):
    return np.where(np.arange(X.size).reshape(X.shape) == 9, np.nan, X)


REFUSED = [
    ({"network": {"layers": [9, 3, 3]}}, None, None, ConfigError, "the data has 7 features, not 9"),
    ({"network": {"layers": [7, 3, 4]}}, None, None, ConfigError, "data has 3 outputs (classes, or targets), not 4"),
    ({"network": {"loss": "logistic"}}, None, None, DataError, "needs two classes, found 3"),
    ({}, with_nan, None, DataError, "NaN or infinite"),
    ({}, lambda X: X * 1j, None, DataError, "X must hold real numbers, got an array of complex128"),
    ({}, lambda X: X[1:], None, DataError, "got shapes (149, 7) and (150,)"),
    ({}, None, lambda y: np.where(y == 1, np.nan, y), DataError, "label is missing"),
    ({}, None, lambda y: 0 * y, DataError, "needs two classes, found only '0'"),
    ({"network": {"loss": "squared"}}, None, lambda y: np.array(["a"] * len(y)), DataError, "is not a finite number"),
    ({"partition": {"splits": [7, 5, 1, 1]}}, None, None, ConfigError, "needs 35 ranks"),
    ({"data": {"scale": "standard"}}, sparse_half, None, ConfigError, "sparse"),
]


@pytest.mark.parametrize(("tables", "change_X", "change_y", "kind", "message"), REFUSED, ids=[r[-1] for r in REFUSED])
def test_what_does_not_fit_is_refused_on_all_ranks(world, tables, change_X, change_y, kind, message):
    X, y = blobs()
    X, y = X if change_X is None else change_X(X), y if change_y is None else change_y(y)
    try:
        distnewton.train(settings(**tables), world, train_data=distnewton.ArraySource(X, y))
        found = None
    except DistNewtonError as error:
        found = error
    good = type(found) is kind and message in str(found)
    assert not world.any(not good), found


def test_test_data_of_another_width_are_refused(world):
    X, y = blobs()
    wide = distnewton.ArraySource(np.hstack([X, X]), y, name="wide")
    with pytest.raises(DataError, match="wide has 14 features, data 7"):
        distnewton.train(settings(), world, train_data=distnewton.ArraySource(X, y), test_data=wide)


def test_no_data_is_told(world):
    with pytest.raises(ConfigError, match=r"data\.train is not set"):
        distnewton.train(settings(), world)


def test_unknown_test_labels_are_noted(world):
    X, y = blobs()
    test = distnewton.ArraySource(X[:3], [0, 8, 8])
    result = distnewton.train(settings(run={"iterations": 0}), world, train_data=distnewton.ArraySource(X, y),
                              test_data=test)  # fmt: skip
    assert "test labels that never occur in training count as wrong: '8' (2)" in result.summary.notes


def test_the_size_of_subsamples():
    assert (subsample_size(100, 0.051), subsample_size(100, 0.05, 512), subsample_size(100, 1.0)) == (6, 100, 100)


def test_chunks_cover_all_samples_with_the_subsample_last():
    for last in [(0, 4), (3, 9), (16, 20), (0, 20)]:
        ranges = chunk_ranges(20, last, 6)
        assert ranges[-1] == last
        assert sorted(i for a, b in ranges for i in range(a, b)) == list(range(20))
        assert max(b - a for a, b in ranges[:-1] or [last]) <= 6 or ranges == [last]


def test_metrics_equal_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    truth, scores = rng.integers(2, size=200), rng.integers(-5, 6, size=200) / 2
    assert auc(scores, truth > 0) == pytest.approx(metrics.roc_auc_score(truth, scores))
    assert np.isnan(auc(scores, truth < 0))
    y, z = rng.standard_normal((50, 1)), rng.standard_normal((50, 1))
    found = task_metrics("regression", z, y)
    assert found["r2"] == pytest.approx(metrics.r2_score(y, z))
    assert found["rmse"] == pytest.approx(metrics.root_mean_squared_error(y, z))
    outputs = rng.standard_normal((30, 4))
    labels = outputs.argmax(axis=1)
    labels[:3] = -1
    assert task_metrics("classification", outputs, labels)["accuracy"] == pytest.approx(0.9)
