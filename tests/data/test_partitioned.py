"""Data over a grid: each rank its columns, one verdict on faults that one rank alone can see, rows as views."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from distnewton.data.in_memory import ArraySource
from distnewton.data.labels import LabelMapping
from distnewton.data.partitioned import Task, keep_dense, open_and_describe
from distnewton.data.rows import permute_rows, row_range
from distnewton.data.scaled import FeatureReader, apply_scaling, fit_and_apply, gather_scaling
from distnewton.data.scaling import SCALINGS, fit_scaling
from distnewton.errors import ConfigError, DataError, DistNewtonError, MissingInputError
from distnewton.parallel.grid import ProcessGrid
from distnewton.parallel.partition import Partition

mpi = pytest.mark.mpi(min_size=1, sizes=(1, 3, 7))


def splits_of(n_ranks):
    """Features cut over all ranks, over none, over some: with copies of a column on several ranks, and idle ranks."""
    half = next((a for a in (2, 3, 5, 7) if n_ranks % a == 0), 1)
    return list(dict.fromkeys([(n_ranks, 1, 1), (1, n_ranks, 1), (half, n_ranks // half, half), (1, 1, n_ranks)]))


def features(n=11, n_features=9, sparse=False):
    rng = np.random.default_rng(0)
    X = rng.random((n, n_features)) + 0.1
    if sparse:
        from scipy.sparse import csr_array

        return csr_array(np.where(rng.random(X.shape) < 0.3, X, 0))
    return X


def dense(X):
    return X if isinstance(X, np.ndarray) else X.toarray()


class Watched(ArraySource):
    """Data that note which columns are read."""

    def __init__(self, X, y):
        super().__init__(X, y)
        self.reads = []

    def read(self, start, stop, dtype="float64"):
        self.reads.append((start, stop))
        return super().read(start, stop, dtype)


@mpi
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("n_features", [1, 9])
def test_each_rank_reads_only_its_columns(world, n_features, sparse):
    X = features(n_features=n_features, sparse=sparse)
    for splits in splits_of(world.size):
        source = Watched(X, np.zeros(11))
        with ProcessGrid(world, Partition((n_features, 4, 3), splits)) as grid:
            own = FeatureReader(grid, source, 11, np.float32, dense=not sparse).read()
            start, stop = grid.feature_range()
            good = own.shape == (11, stop - start) and own.dtype == np.float32
            good = good and np.array_equal(dense(own), dense(X)[:, start:stop].astype(np.float32))
            good = good and source.reads == ([(start, stop)] if stop > start else [])
            good = good and isinstance(own, np.ndarray) == (not sparse)
            held = np.zeros(n_features)
            held[start:stop] = grid.first_of_feature_group()
            assert not grid.comm.any(not good)
            assert np.array_equal(grid.sum_all(held), np.ones(n_features))


@mpi
def test_sparse_formats_become_dense_where_asked(world):
    X = features(sparse=True)
    with ProcessGrid(world, Partition((9, 4), (1, world.size))) as grid:
        own = FeatureReader(grid, ArraySource(X, np.zeros(11)), 11, np.float64, dense=True).read()
        good = isinstance(own, np.ndarray) and np.array_equal(own, X.toarray()[:, slice(*grid.feature_range())])
        assert not grid.comm.any(not good)


@mpi
@pytest.mark.parametrize("kind", SCALINGS)
def test_scaling_equals_that_of_the_whole(world, kind):
    X = features()
    X[:, 4] = 2.0
    whole = X.copy()
    one = ProcessGrid(type(world)(), Partition((9, 2), (1, 1)))
    source = ArraySource(X, np.zeros(len(X)))
    expected = fit_and_apply(one, kind, whole, FeatureReader(one, source, len(X), "f8", dense=True))
    if kind.endswith("unit_rows"):
        np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1.0)
    for splits in splits_of(world.size):
        with ProcessGrid(world, Partition((9, 4, 3), splits)) as grid:
            columns = slice(*grid.feature_range())
            own, again = X[:, columns].copy(), X[:, columns].copy()
            reader = FeatureReader(grid, source, len(X), "f8", dense=True)
            fitted = fit_and_apply(grid, kind, own, reader)
            apply_scaling(grid, fitted, again, reader)
            good = np.allclose(own, whole[:, columns], rtol=1e-13, atol=1e-14) and np.array_equal(own, again)
            gathered = gather_scaling(grid, fitted)
            # to rounding: numpy adds a single column in another order than several
            good = good and np.allclose(gathered.offset, expected.offset, rtol=1e-13, atol=1e-14)
            good = good and np.allclose(gathered.factor, expected.factor, rtol=1e-13, atol=0)
            good = good and gathered.kind == expected.kind == kind
            assert not grid.comm.any(not good)


def error_of(work):
    try:
        work()
    except DistNewtonError as error:
        return error
    return None


def check_agreed(comm, error, kind, message, rank):
    """All ranks must have raised the same, which names the rank where several ran."""
    good = type(error) is kind and message in str(error) and error.collective
    good = good and (comm.size == 1 or f"(rank {rank})" in str(error))
    assert not comm.any(not good), repr(error)
    same = str(error) == comm.broadcast_json(str(error))
    assert not comm.any(not same)


@mpi
def test_data_unreadable_on_one_rank_are_an_error_on_all(world, monkeypatch):
    source, last = ArraySource(features(), np.zeros(11)), world.size - 1

    def fail(*arguments):
        raise MissingInputError("features.txt: permission denied")

    with ProcessGrid(world, Partition((9, 4), (world.size, 1))) as grid:
        if world.rank == last:
            monkeypatch.setattr(source, "read", fail)
        error = error_of(lambda: FeatureReader(grid, source, 11, np.float64, dense=True).read())
        check_agreed(world, error, MissingInputError, "features.txt: permission denied", last)
    opened = error_of(lambda: open_and_describe(world, fail if world.rank == last else lambda: source))
    check_agreed(world, opened, MissingInputError, "features.txt: permission denied", last)


@mpi
def test_data_that_change_while_read_are_an_error_on_all(world):
    with ProcessGrid(world, Partition((9, 4), (world.size, 1))) as grid:
        n = 10 if world.rank == 0 else 11
        source = ArraySource(features(n), np.zeros(n))
        error = error_of(lambda: FeatureReader(grid, source, 11, "f8", dense=True).read())
        check_agreed(world, error, DataError, "data changed while it was read: 10 samples, then 11", 0)


@mpi
@pytest.mark.parametrize("labels", [np.arange(11.0), np.array(["ä", "bcd"] * 5 + ["x"]), np.ones((11, 2))])
def test_the_description_of_rank_0_is_everyones(world, labels):
    # other ranks see other labels, as where a file system lags behind
    mine = labels if world.rank == 0 else np.zeros(11)
    source, found = open_and_describe(world, lambda: ArraySource(features(), mine, name=f"of rank {world.rank}"))
    good = np.array_equal(found.labels, labels) and found.labels.dtype == labels.dtype
    good = good and (found.name, found.n_samples, found.n_features, found.n_nonzeros) == ("of rank 0", 11, 9, 99)
    assert not world.any(not good)
    assert source.name == f"of rank {world.rank}"


class Pictures(ArraySource):
    """Data of rank 0 that are images."""

    def describe(self):
        return replace(super().describe(), image_shape=(1, 3, 3))


@mpi
@pytest.mark.parametrize(("kind", "image_shape"), [(Pictures, (1, 3, 3)), (ArraySource, None)])
def test_the_image_shape_is_told_as_a_tuple(world, kind, image_shape):
    _, found = open_and_describe(world, lambda: kind(features(), np.zeros(11)))
    assert not world.any(found.image_shape != image_shape or not isinstance(found.image_shape, type(image_shape)))


def test_dense_from_a_quarter_of_stored_values():
    from scipy.sparse import csr_array

    kinds = {}
    for n in (2, 3):  # of 12 values, so 3 are a quarter
        X = np.zeros((3, 4))
        X.flat[:n] = 1
        kinds[n] = keep_dense(ArraySource(csr_array(X), np.zeros(3)).describe())
        assert keep_dense(ArraySource(X, np.zeros(3)).describe())
    assert kinds == {2: False, 3: True}


def task_of(name, labels):
    source = ArraySource(np.ones((len(labels), 1)), labels)
    return Task.fit(name, source.describe(), source)


def test_tasks_read_off_labels():
    assert task_of("classification", [3, 1, 2]) == Task("classification", LabelMapping((1, 2, 3)), 3)
    assert task_of("binary", ["b", "a"]) == Task("binary", LabelMapping(("a", "b")), 1)
    assert task_of("regression", [[3.0, 1.0]]) == Task("regression", None, 2)
    task, test = task_of("binary", ["b", "a"]), ArraySource(np.ones((3, 1)), ["b", "c", "a"])
    assert task.targets(test.describe(), test).tolist() == [1.0, -1.0, 0.0]
    assert task.labels(np.array([[-1.0], [2.0]])) == ["a", "b"]
    assert task_of("classification", [3, 1, 2]).labels(np.eye(3)[[2, 0]]) == ["3", "1"]
    assert task_of("regression", [1.0]).labels(np.array([[0.1], [1e10]])) == ["0.1", "1e+10"]


@pytest.mark.parametrize(("name", "labels", "message"), [
    ("binary", [1, 2, 3], "needs two classes, found 3"),
    ("classification", [1.0, np.inf], "data: sample 1: the label is NaN or infinite"),
    ("classification", [1.0, np.nan], "data: sample 1: label is missing"),
    ("classification", [1, 1], "needs two classes, found only '1'"),
    ("regression", ["a", "b"], "label 'a' is not a finite number"),
])  # fmt: skip
def test_labels_that_do_not_suit_the_task(name, labels, message):
    with pytest.raises(DataError) as caught:
        task_of(name, labels)
    assert message in str(caught.value)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(("start", "stop"), [(0, 11), (3, 8), (10, 11), (4, 4), (0, 0)])
def test_row_ranges_are_views(start, stop, sparse):
    X = features(sparse=sparse)
    part = row_range(X, start, stop)
    assert part.shape == (stop - start, 9)
    assert part.dtype == X.dtype
    assert np.array_equal(dense(part), dense(X)[start:stop])
    if sparse:
        assert stop == start or np.shares_memory(part.data, X.data)
        assert stop == start or np.shares_memory(part.indices, X.indices)
        part.check_format()
        w = np.arange(9.0)
        np.testing.assert_allclose(part @ w, X.toarray()[start:stop] @ w)
        np.testing.assert_allclose(part.T @ np.ones(stop - start), X.toarray()[start:stop].sum(axis=0))
    else:
        assert stop == start or np.shares_memory(part, X)


@pytest.mark.parametrize("n_features", [0, 1, 64, 150])
@pytest.mark.parametrize("sparse", [False, True])
def test_permuted_rows(n_features, sparse):
    X = features(n_features=n_features, sparse=sparse)
    order = np.random.default_rng(1).permutation(11)
    expected = dense(X)[order].copy()
    result = permute_rows(X, order)
    assert np.array_equal(dense(result), expected)
    assert (result is X) == (not sparse)


def test_scaling_of_an_unknown_kind_is_refused():
    with pytest.raises(ConfigError, match=r"unknown scaling .*known are none, minmax"):
        fit_scaling("max", features())
