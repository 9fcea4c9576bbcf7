"""Features are scaled in float64, whatever the dtype of the run, and rounded afterwards."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy import sparse

from distnewton import ArraySource, make_config, open_data, train
from distnewton.data import scaled
from distnewton.data.scaled import FeatureReader, apply_scaling, fit_and_apply
from distnewton.data.scaling import fit_scaling
from distnewton.parallel.collectives import Communicator
from distnewton.parallel.grid import ProcessGrid
from distnewton.parallel.partition import Partition

mpi = pytest.mark.mpi(min_size=1, sizes=(1, 3))
RNG = np.random.default_rng(5)
TIMES = 1.6e9 + RNG.normal(0, 30, 400)


def table():
    """Columns that float32 holds badly, beside others."""
    columns = [
        RNG.normal(size=400), TIMES, np.full(400, 7.1), 1e200 * RNG.random(400), 1e-60 * RNG.random(400),
        5e5 + RNG.normal(0, 0.01, 400), np.zeros(400),
    ]  # fmt: skip
    return np.array(columns).T


def by_hand(kind, X):
    """The scaled features, in float64."""
    low, high, mean = X.min(axis=0), X.max(axis=0), X.mean(axis=0)
    offset, size = {
        "standard": (mean, (X / np.maximum(high, 1e-300)).std(axis=0) * np.maximum(high, 1e-300)),
        "minmax": (low / 2 + high / 2, (high - low) / 2),
    }[kind]
    constant = [2, 6]
    size[constant] = np.inf
    return (X - offset) / size


def scaled_features(comm, source, n, kind, n_features, dtype="f4", dense=True):
    """This rank's columns and their scaling, fitted; the same by the scaling that is then known."""
    with ProcessGrid(comm, Partition((n_features, 2), (comm.size, 1))) as grid:
        reader = FeatureReader(grid, source, n, dtype, dense=dense)
        X = reader.read()
        scaling = fit_and_apply(grid, kind, X, reader)
        reader = FeatureReader(grid, source, n, dtype, dense=dense)
        again = reader.read()
        apply_scaling(grid, scaling, again, reader)
        return grid.feature_range(), X, again


@mpi
@pytest.mark.parametrize("kind", ["standard", "minmax"])
@pytest.mark.parametrize("at_once", [1 << 23, 800])
def test_columns_keep_their_digits(world, kind, at_once, monkeypatch):
    monkeypatch.setattr(scaled, "_VALUES_AT_ONCE", at_once)
    whole = table()
    (start, stop), X, again = scaled_features(world, ArraySource(whole, np.zeros(400)), 400, kind, 7)
    expected = by_hand(kind, whole)[:, start:stop]
    good = X.dtype == np.float32 and np.allclose(X, expected, rtol=1e-5, atol=1e-5) and np.array_equal(X, again)
    assert not world.any(not good)


@pytest.mark.parametrize("suffix", ["csv", "npy", "npz", "svm"])
def test_times_are_learned_in_every_format(tmp_path, suffix):
    X, y = TIMES[:, None], (TIMES > 1.6e9).astype(int)
    path = tmp_path / f"data.{suffix}"
    if suffix == "csv":
        lines = [f"{t!r},{label}" for t, label in zip(TIMES.tolist(), y, strict=True)]
        path.write_text("\n".join(["time,label", *lines, ""]))
    elif suffix == "svm":
        path.write_text("".join(f"{label} 1:{t!r}\n" for t, label in zip(TIMES.tolist(), y, strict=True)))
    elif suffix == "npz":
        np.savez(path, X=X, y=y)
    else:
        np.save(path, X)
        np.save(tmp_path / "data_y.npy", y)
    settings = {
        "data": {"scale": "standard", "validation_fraction": 0.25}, "network": {"layers": ["auto", 5, "auto"]},
        "run": {"iterations": 20},
    }  # fmt: skip
    result = train(make_config(settings), train_data=open_data(path))
    assert result.model.evaluate(open_data(path))["accuracy"] > 0.97


def test_the_estimator_in_float32():
    from distnewton.sklearn import NewtonClassifier

    model = NewtonClassifier((5,), dtype="float32", scale="standard", max_iter=20, tol=0)
    assert model.fit(TIMES[:, None], TIMES > 1.6e9).score(TIMES[:, None], TIMES > 1.6e9) > 0.97


@mpi
@pytest.mark.parametrize("kind", ["unit_rows", "log1p_unit_rows"])
@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_rows_of_any_size_get_norm_1(world, kind, is_sparse, dtype):
    size = np.array([1e200, 1e-200, 1e30, 1, 0, 1e-160, 1e300, 5e-324])
    X = np.array([[3, 0, 4], [1, 2, 2], [0, 3, 4], [2, 1, 2], [1, 1, 1], [3, 4, 0], [2, 2, 1], [1, 0, 0.0]])
    values = np.log1p(X * size[:, None]) if kind.startswith("log") else X
    with np.errstate(invalid="ignore"):
        tidy = values / np.where(size == 0, np.inf, np.abs(values).max(axis=1))[:, None]
        expected = np.nan_to_num(tidy / np.linalg.norm(tidy, axis=1, keepdims=True))
    whole = X * size[:, None]
    source = ArraySource(sparse.csr_array(whole) if is_sparse else whole, np.zeros(8))
    (start, stop), X, again = scaled_features(world, source, 8, kind, 3, dtype, dense=False)
    tidy, again = (A if isinstance(A, np.ndarray) else A.toarray() for A in (X, again))
    good = np.allclose(tidy, expected[:, start:stop], rtol=1e-6, atol=1e-7) and np.array_equal(tidy, again)
    assert not world.any(not good)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("kind", ["standard", "minmax"])
def test_columns_that_vary_by_rounding_are_constant(kind, dtype):
    X = np.array([[0.3, 1, 16777216], [0.1 * 3, 2, 16777217], [0.3, 3, 16777216]])
    for given in (X, X.astype(np.float32), X.astype(np.float32).astype(np.float64)):
        scaling = fit_scaling(kind, given)
        assert (scaling.factor == 0).tolist() == [True, False, given is not X]
    _, scaled_X, _ = scaled_features(Communicator(), ArraySource(X, np.zeros(3)), 3, kind, 3, dtype)
    assert scaled_X.any(axis=0).tolist() == [False, True, True]


def test_duplicate_entries_are_summed():
    # the term-document idiom of SciPy's documentation
    data, indices, indptr = [1.0, 1, 1, 2, 1], [0, 1, 0, 2, 2], [0, 3, 5]
    given = sparse.csr_array((data, indices, indptr), shape=(2, 3))
    _, X, _ = scaled_features(Communicator(), ArraySource(given, [0, 1]), 2, "unit_rows", 3, "f8", dense=False)
    norm = 5**0.5
    np.testing.assert_allclose(X.toarray(), [[2 / norm, 1 / norm, 0], [0, 0, 1]])
    assert ArraySource(given, [0, 1]).describe().n_nonzeros == 3
    assert given.nnz == 5  # the caller's own stays as it is


def test_float64_is_read_again_by_blocks(tmp_path):
    X = np.tile(TIMES[:, None], (100, 50))
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", np.zeros(len(X)))
    source = open_data(tmp_path / "X.npy")
    tracemalloc.start()
    limit, scaled._VALUES_AT_ONCE = scaled._VALUES_AT_ONCE, 4 * len(X)
    try:
        scaled_features(Communicator(), source, len(X), "standard", 50)
        # both results in float32, and blocks
        assert tracemalloc.get_traced_memory()[1] < 1.4 * X.nbytes
    finally:
        scaled._VALUES_AT_ONCE = limit
        tracemalloc.stop()


def test_wide_features_are_checked_by_blocks():
    import tracemalloc

    from distnewton.data.scaled import _first_beyond

    X = np.ones((40, 100_000), np.float32)
    X[30, 70_000] = np.inf
    tracemalloc.start()
    try:
        assert _first_beyond(X, 10.0) == ((70_000, np.inf), 1.0, 1.0)
        assert tracemalloc.get_traced_memory()[1] < X.nbytes / 4
    finally:
        tracemalloc.stop()
