"""Whole runs from a configuration: tasks, grids, repeatability, models on other grids."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

import distnewton
from distnewton.data.rows import permute_rows, row_range
from distnewton.errors import ConfigError, DataError, MissingInputError
from distnewton.training.metrics import auc, task_metrics
from distnewton.training.objective import chunk_ranges, subsample_range, subsample_size

pytestmark = pytest.mark.mpi(min_size=1)


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


def objectives(result):
    return [record.objective for record in result.history]


@pytest.fixture
def folder(world):
    """A folder that all ranks share, removed by rank 0."""
    path = tempfile.mkdtemp() if world.rank == 0 else None
    path = Path(world.broadcast_json(path))
    yield path
    world.barrier()
    if world.rank == 0:
        for file in path.iterdir():
            file.unlink()
        os.rmdir(path)


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


def test_gauss_newton_has_the_same_history_on_every_number_of_ranks(world):
    X, y = blobs()
    config = settings(method={"direction": "gauss_newton", "cg_tolerance": 0.0, "cg_max": 5})
    alone = distnewton.train(config, None, train_data=distnewton.ArraySource(X, y))
    together = distnewton.train(config, world, train_data=distnewton.ArraySource(X, y))
    np.testing.assert_allclose(objectives(together), objectives(alone), rtol=1e-10)
    together.model.grid.free()


def test_deterministic_runs_repeat_bit_for_bit_and_sparse_equals_dense(world):
    from scipy.sparse import csr_array

    X, y = blobs()
    X[np.abs(X) < 1.9] = 0
    first, second = (distnewton.train(settings(), world, train_data=distnewton.ArraySource(X, y)) for _ in range(2))
    assert objectives(first) == objectives(second)
    sparse = csr_array(X)
    assert sparse.nnz < 0.8 * X.size
    wide = np.hstack([X, np.zeros((len(X), 30))])
    dense_run = distnewton.train(settings(), world, train_data=distnewton.ArraySource(wide, y))
    sparse_run = distnewton.train(settings(), world, train_data=distnewton.ArraySource(csr_array(wide), y))
    assert not sparse_run.model.architecture.dense
    np.testing.assert_allclose(objectives(sparse_run), objectives(dense_run), rtol=1e-10)


def test_small_memory_gives_the_same_run(world):
    X, y = blobs()
    large = distnewton.train(settings(), world, train_data=distnewton.ArraySource(X, y))
    small = distnewton.train(settings(run={"memory_mb": 0.005}), world, train_data=distnewton.ArraySource(X, y))
    np.testing.assert_allclose(objectives(small), objectives(large), rtol=1e-10)


def test_more_ranks_than_neurons_run_and_say_so(world):
    X, y = blobs(n_features=2, n_classes=2)
    splits = [1, world.size, 1]
    config = settings(network={"layers": [2, 3, 2]}, partition={"splits": splits}, run={"deterministic": False})
    result = distnewton.train(config, world, train_data=distnewton.ArraySource(X, y))
    assert result.last.objective < result.history[0].objective
    told = any("own no variable" in note for note in result.summary.notes)
    assert told == (world.size > 3)


@pytest.mark.parametrize("kind", ["none", "minmax", "minmax_joint", "standard", "unit_rows"])
def test_models_load_on_any_number_of_ranks(world, folder, kind):
    X, y = blobs()
    labels = np.array([10, -3, 7])[y]
    config = settings(data={"scale": kind}, run={"iterations": 4})
    result = distnewton.train(config, world, train_data=distnewton.ArraySource(X, labels))
    path = folder / f"{kind}.safetensors"
    result.model.save(path)
    world.barrier()
    new = distnewton.ArraySource(X[:40], labels[:40])
    mine = result.model.predict(new)
    alone = distnewton.load_model(path).predict(new)
    together = distnewton.load_model(path, world)
    assert alone == mine == together.predict(lambda: new)
    assert set(alone) <= {"10", "-3", "7"}
    outputs, _, _ = together.outputs(lambda: new)
    np.testing.assert_allclose(outputs, plain_outputs(path, X[:40]), rtol=1e-10, atol=1e-12)
    metrics = together.evaluate(lambda: distnewton.ArraySource(X[:5], [10, -3, 7, 99, 99]))
    assert metrics["unseen_labels"] == {"99": 2}
    world.barrier()


def plain_outputs(path, X):
    """Outputs computed from the file alone, as torch.nn.Sequential would."""
    from safetensors import safe_open
    from safetensors.numpy import load_file

    tensors = load_file(path)
    assert list(tensors) == ["0.bias", "0.weight", "2.bias", "2.weight", "4.bias", "4.weight"]
    with safe_open(path, framework="numpy") as file:
        scaling = json.loads(file.metadata()["distnewton"])["scaling"]
    if scaling["kind"] == "minmax_joint":
        assert len(set(scaling["offset"])) == len(set(scaling["factor"])) == 1
        assert np.abs((blobs()[0] - scaling["offset"]) * scaling["factor"]).max() == pytest.approx(1)
    if scaling["kind"] in ("minmax", "minmax_joint", "standard"):
        X = (X - scaling["offset"]) * scaling["factor"]
    elif scaling["kind"] == "unit_rows":
        X = X / np.linalg.norm(X, axis=1, keepdims=True)
    for k in (0, 2, 4):
        X = X @ tensors[f"{k}.weight"].T + tensors[f"{k}.bias"]
        X = np.tanh(X) if k < 4 else X
    return X


def test_zero_iterations_give_the_initial_model(world):
    X, y = blobs()
    result = distnewton.train(settings(run={"iterations": 0}), world, train_data=distnewton.ArraySource(X, y))
    assert [record.iteration for record in result.history] == [0]


def test_bad_models_and_data_are_refused_on_all_ranks(world, folder):
    X, y = blobs()
    with pytest.raises(ConfigError, match="the data has 7 features, not 9") as caught:
        distnewton.train(settings(network={"layers": [9, 3, 3]}), world, train_data=distnewton.ArraySource(X, y))
    assert caught.value.agreed
    with pytest.raises(DataError, match="separates two classes, found 3"):
        distnewton.train(settings(network={"loss": "logistic"}), world, train_data=distnewton.ArraySource(X, y))
    with pytest.raises(MissingInputError, match="there is no model file"):
        distnewton.load_model(folder / "none", world)
    broken = {"pickle": b"\x80\x04N.", "empty": b"", "foreign": None}
    if world.rank == 0:
        from safetensors.numpy import save_file

        for name, content in broken.items():
            if content is None:
                save_file({"a": np.zeros(2)}, folder / name)
            else:
                (folder / name).write_bytes(content)
    world.barrier()
    for name in broken:
        with pytest.raises(DataError, match=r"not a readable safetensors file|not a model that distnewton wrote"):
            distnewton.load_model(folder / name, world)
    X[3, 2] = np.nan
    with pytest.raises(DataError, match="NaN or infinite"):
        distnewton.train(settings(), world, train_data=distnewton.ArraySource(X, y))


class OneRankFails(distnewton.ArraySource):
    """Data whose reading fails on the last rank that holds features."""

    def __init__(self, X, y, rank):
        super().__init__(X, y)
        self._fails = rank

    def read(self, start, stop, dtype="float64"):
        if self._fails:
            raise MissingInputError("features.txt: permission denied")
        return super().read(start, stop, dtype)


def test_a_file_unreadable_on_one_rank_is_an_error_on_all(world):
    X, y = blobs()
    last = world.size - 1
    config = settings(partition={"splits": [world.size, 1, world.size, 1]})
    with pytest.raises(MissingInputError, match="permission denied") as caught:
        distnewton.train(config, world, train_data=OneRankFails(X, y, world.rank == last))
    assert caught.value.agreed
    assert world.size == 1 or f"(rank {last})" in str(caught.value)


def test_subsamples_are_disjoint_within_a_pass_and_cover_evenly():
    n, size = 103, 10
    ranges = [subsample_range(n, size, 5, k) for k in range(400)]
    assert all(a >= 0 and b <= n and b - a == size for a, b in ranges)
    per_pass = (n - size + 1) // size
    for start in range(0, 400 - per_pass, per_pass):
        rows = [i for a, b in ranges[start : start + per_pass] for i in range(a, b)]
        assert len(set(rows)) == len(rows)
    assert len(set(ranges)) > 60
    assert subsample_range(n, n, 5, 3) == (0, n)
    assert (subsample_size(100, 0.051), subsample_size(100, 0.05, 512), subsample_size(100, 1.0)) == (6, 100, 100)


def test_chunks_cover_all_samples_with_the_subsample_last():
    for last in [(0, 4), (3, 9), (16, 20), (0, 20)]:
        ranges = chunk_ranges(20, last, 6)
        assert ranges[-1] == last
        assert sorted(i for a, b in ranges for i in range(a, b)) == list(range(20))
        assert max(b - a for a, b in ranges[:-1] or [last]) <= 6 or ranges == [last]


def test_rows_of_sparse_features_are_views():
    from scipy.sparse import random_array

    X = random_array((20, 9), density=0.3, format="csr", rng=np.random.default_rng(0))
    part = row_range(X, 4, 11)
    assert np.array_equal(part.toarray(), X.toarray()[4:11])
    assert np.shares_memory(part.data, X.data)
    order = np.random.default_rng(1).permutation(20)
    dense = X.toarray()
    assert np.array_equal(permute_rows(X, order).toarray(), dense[order])
    assert np.array_equal(permute_rows(dense.copy(), order), dense[order])


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
