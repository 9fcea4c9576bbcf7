"""Matrices that `scipy.sparse.save_npz` wrote, and archives with objects, which are never loaded."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from launched import call_together
from scipy import sparse

from distnewton.data.sources import open_data
from distnewton.errors import ConfigError, DataError

mpi = pytest.mark.mpi(min_size=1, sizes=(1, 3))


def matrix(n=40, n_features=17, seed=0):
    """Rows, some of them empty, with an explicit zero."""
    rng = np.random.default_rng(seed)
    X = sparse.random_array((n, n_features), density=0.3, rng=rng, format="csr")
    X.data[3] = 0.0
    X.data[X.indptr[5] : X.indptr[6]] = 0.0
    return X


def save(folder, X, labels=None, name="X.npz", **options):
    sparse.save_npz(folder / name, X, **options)
    if labels is not None:
        np.save(folder / "X_y.npy", labels)
    return folder / name


@pytest.mark.parametrize("kind", ["csr", "csc"])
@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("block_values", [1, 20, 1 << 18])
def test_every_range_and_choice_of_rows(tmp_path, monkeypatch, kind, compressed, block_values):
    monkeypatch.setattr("distnewton.data.formats.sparse_npz.BLOCK_VALUES", block_values)
    X, labels = matrix(), np.array(["a", "bc"] * 20)
    source = open_data(save(tmp_path, X.asformat(kind), labels, compressed=compressed))
    found = source.describe()
    assert (found.n_samples, found.n_features, found.n_nonzeros, found.sparse_format) == (40, 17, X.nnz, True)
    assert found.labelled
    assert found.labels.tolist() == labels.tolist()
    for start, stop in [(0, 17), (0, 1), (4, 11), (6, 6), (16, 17)]:
        for rows in (None, np.array([], int), np.array([0, 5, 39])):
            expected = X[:, start:stop] if rows is None else X[rows][:, start:stop]
            read = source.read(start, stop, "float32", rows)
            assert read.dtype == np.float32
            assert read.has_canonical_format
            np.testing.assert_array_equal(read.toarray(), expected.toarray().astype("f4"))
            assert read.nnz == expected.nnz, "explicit zeros stay"


@pytest.mark.parametrize("kind", [sparse.csr_array, sparse.csc_array])
def test_values_of_one_place_are_summed_and_indices_sorted(tmp_path, kind):
    data, indices, pointers = np.array([1, 2, 4, 8], "i1"), np.array([2, 0, 2, 1]), np.array([0, 3, 4, 4])
    X = kind((data, indices, pointers), shape=(3, 3))
    source = open_data(save(tmp_path, X, np.arange(3)))
    assert source.describe().n_nonzeros == 3
    np.testing.assert_array_equal(source.read(0, 3).toarray(), X.toarray())


def test_what_does_not_fit_is_refused_with_what_to_do(tmp_path):
    X = matrix()
    path = save(tmp_path, X.tocoo())
    with pytest.raises(DataError, match=r"no file with its labels: looked for X_labels\.npy, X_y\.npy, y\.npy"):
        open_data(path)
    assert not open_data(save(tmp_path, X), labels="if_there").describe().labelled
    np.save(tmp_path / "y.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"has 40 samples, but .*y\.npy holds labels of shape \(3,\)"):
        open_data(path := save(tmp_path, X))
    np.save(tmp_path / "y.npy", np.zeros(40))
    with pytest.raises(ConfigError, match=r"label_column = 0: the labels of the sparse matrix .*X\.npz are in"):
        open_data(path, label_column=0)
    with pytest.raises(DataError, match="has 17 features, expected 16"):
        open_data(path, n_features=16)
    fewer = open_data(path, n_features=16, ignore_extra_features=True)
    assert fewer.describe().n_nonzeros + fewer.describe().n_ignored_values == X.nnz
    with pytest.raises(DataError, match=r"in COO format; save it by rows: .*X\.tocsr\(\)"):
        open_data(save(tmp_path, X.tocoo()))
    with pytest.raises(DataError, match=r"matrix of numbers, got .*complex128"):
        open_data(save(tmp_path, X.astype(complex)))


@pytest.mark.parametrize("kind", ["csr", "csc"])
def test_damage_is_named(tmp_path, kind):
    X = matrix().asformat(kind)
    np.save(tmp_path / "y.npy", np.zeros(40))
    bad = X.copy()
    bad.data[7] = np.nan
    i, j = np.argwhere(np.isnan(bad.toarray()))[0]
    with pytest.raises(DataError, match=f"sample {i + 1}, column {j}: nan is not a finite number"):
        open_data(save(tmp_path, bad)).describe()
    parts = {"format": kind.encode(), "shape": X.shape, "data": X.data, "indices": X.indices, "indptr": X.indptr}
    for change in ({"indptr": X.indptr[:-1]}, {"indptr": X.indptr[::-1]}, {"data": X.data[1:]}, {"indices": X.data}):
        np.savez(tmp_path / "X.npz", **parts | change)
        with pytest.raises(DataError, match=r"do not match|must be a matrix of numbers"):
            open_data(tmp_path / "X.npz")
    for index in (-1, 40):
        np.savez(tmp_path / "X.npz", **parts | {"indices": np.full_like(X.indices, index)})
        with pytest.raises(DataError, match="lies outside the matrix"):
            open_data(tmp_path / "X.npz").describe()


class Trap:
    """Makes a file when its pickle is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_objects_are_never_loaded_and_the_way_out_is_told(tmp_path):
    X, trap = np.ones((3, 2)), np.array([Trap(tmp_path / "sprung")], dtype=object)
    np.savez(tmp_path / "a.npz", X=X, y=np.array(["a", "b", "a"], dtype=object))
    with pytest.raises(DataError, match=r"a\.npz\[y\]: holds Python objects, which are never loaded.*y\.astype\(str\)"):
        open_data(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", X=sparse.csr_array(X), y=np.arange(3))
    with pytest.raises(DataError, match=r"a\.npz\[X\]: .*scipy\.sparse\.save_npz"):
        open_data(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", X=X, y=np.arange(3), names=trap)
    assert open_data(tmp_path / "a.npz").describe().n_samples == 3, "what nobody opens may be anything"
    np.savez(tmp_path / "a.npz", X=trap, y=np.arange(1))
    with pytest.raises(DataError, match="never loaded"):
        open_data(tmp_path / "a.npz")
    assert not Path(tmp_path / "sprung").exists()


@mpi
@pytest.mark.parametrize("kind", ["csr", "csc"])
def test_training_and_prediction_are_those_of_the_dense_array(world, folder, kind):
    if world.rank == 0:
        X = matrix(60, 9, seed=1)
        labels = np.where(X.toarray()[:, 0] > 0, "yes", "no")
        (folder / "dense").mkdir()
        np.save(folder / "dense" / "X.npy", X.toarray())
        for name in ("X_y.npy", "dense/X_y.npy"):
            np.save(folder / name, labels)
        sparse.save_npz(folder / "X.npz", X.asformat(kind))
    world.barrier()
    told = []
    for name in ("X.npz", "dense/X.npy"):
        run = folder / name.replace("/", "-").replace(".", "-")
        common = [f"--data.train={folder / name}", "--network.layers=auto-4-auto", "--run.iterations=4"]
        done = call_together(world, "train", *common, f"--run-dir={run}", "--run.dtype=float64")
        assert done.returncode == 0, done.stderr
        done = call_together(world, "predict", str(run), str(folder / name), "--probabilities")
        assert done.returncode == 0, done.stderr
        told.append(done.stdout)
    assert told[0]
    assert told[0] == told[1]
