"""Samples put aside: shares of the classes, folds, weights of classes; and parts of a data set as data of their own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import distnewton
from distnewton.data.folds import class_weights, draw_folds, split_off
from distnewton.data.subset import CachedSource, Subset
from distnewton.errors import ConfigError


@st.composite
def label_sets(draw):
    n, k, seed = draw(st.integers(2, 60)), draw(st.integers(1, 5)), draw(st.integers(0, 99))
    labels = np.random.default_rng(seed).integers(k, size=n)
    return np.array(["a", "b", "c", "d", "e"])[labels] if draw(st.booleans()) else labels.astype(float)


@given(label_sets(), st.floats(0.01, 0.99), st.integers(0, 5))
def test_each_class_gives_its_share_and_keeps_a_sample(labels, fraction, seed):
    n, counts = len(labels), np.unique(labels, return_counts=True)[1]
    try:
        rows, aside = split_off(labels, fraction, seed, by_class=True)
    except ConfigError:
        # nothing that rounds to a sample, or nothing but classes of a single one
        assert round(fraction * n) == 0 or counts.max() == 1
        return
    assert sorted([*rows, *aside]) == list(range(n))
    for label, count in zip(np.unique(labels), counts, strict=True):
        taken = int((labels[aside] == label).sum())
        assert taken < count
        assert abs(taken - min(fraction * count, count - 1)) <= 1
    # what a class cannot give is not taken from another beyond its own share
    assert len(aside) == min(round(fraction * n), int(np.minimum(np.floor(fraction * counts) + 1, counts - 1).sum()))
    again = split_off(labels, fraction, seed, by_class=True)[1]
    assert np.array_equal(aside, again)


def test_a_split_hangs_on_the_seed_and_not_on_classes_where_there_are_none():
    labels = np.arange(100.0)
    drawn = [split_off(labels, 0.3, seed, by_class=False)[1] for seed in range(20)]
    assert {len(rows) for rows in drawn} == {30}
    assert len({rows.tobytes() for rows in drawn}) == 20
    # every sample has its turn
    assert 0.2 < np.bincount(np.concatenate(drawn), minlength=100).mean() / 20 < 0.4
    assert np.bincount(np.concatenate(drawn), minlength=100).min() > 0


@given(label_sets(), st.integers(2, 7), st.integers(0, 5))
def test_folds_are_even_in_size_and_in_classes(labels, n_folds, seed):
    if n_folds > len(labels):
        with pytest.raises(ConfigError, match=f"2 to {len(labels)} folds"):
            draw_folds(labels, n_folds, seed, by_class=True)
        return
    folds = draw_folds(labels, n_folds, seed, by_class=True)
    assert sorted(np.concatenate(folds)) == list(range(len(labels)))
    sizes = [len(fold) for fold in folds]
    assert max(sizes) - min(sizes) <= 1
    for label in np.unique(labels):
        of_class = [int((labels[fold] == label).sum()) for fold in folds]
        assert max(of_class) - min(of_class) <= 1


def test_one_fold_is_refused():
    with pytest.raises(ConfigError, match="got 1"):
        draw_folds(np.zeros(5), 1, 0, by_class=True)


def test_balanced_weights_are_scikit_learns():
    compute = pytest.importorskip("sklearn.utils.class_weight").compute_sample_weight
    labels = np.array(["b", "a", "b", "b", "c"])
    np.testing.assert_allclose(class_weights(labels, "balanced", "data"), compute("balanced", labels))


@pytest.mark.parametrize("written", ["-1", "-1.0", " -1"])
def test_weights_are_found_by_the_label_however_it_is_written(written):
    labels = np.array([1.0, -1.0, -1.0, 3.0])
    assert class_weights(labels, {written: 5.0, "+3": 0.5}, "data").tolist() == [1.0, 5.0, 5.0, 0.5]


def test_no_weights_are_none():
    assert class_weights(np.zeros(3), "none", "data") is None
    assert class_weights(np.zeros(3), {}, "data") is None


def test_weights_of_unknown_labels_and_of_nothing_are_refused():
    with pytest.raises(ConfigError, match="has no label 7; its labels are 0, 1"):
        class_weights(np.array([0.0, 1.0]), {"7": 1.0}, "data")
    with pytest.raises(ConfigError, match="every class has weight 0"):
        class_weights(np.array([0.0, 1.0]), {"0": 0.0, "1": 0}, "data")


@pytest.mark.parametrize("sparse", [False, True])
def test_a_subset_is_the_same_rows_and_the_file_is_read_once(sparse):
    from scipy.sparse import csr_array

    X = np.random.default_rng(0).standard_normal((9, 5)) * (np.arange(45).reshape(9, 5) % 3 > 0)
    source = distnewton.ArraySource(csr_array(X) if sparse else X, np.arange(9))
    reads = []
    inner, source.read = source.read, lambda *args: reads.append(args) or inner(*args)
    whole = CachedSource(source, source.describe())
    rows = np.array([7, 0, 3])
    part = Subset(whole, rows, "part")
    described = part.describe()
    assert (described.n_samples, described.name, described.labels.tolist()) == (3, "part", [7.0, 0.0, 3.0])
    assert part.locate(0) == "data: sample 7"
    first, second = part.read(1, 4, np.dtype("float32")), part.read(1, 4, np.dtype("float32"))
    np.testing.assert_array_equal(first.toarray() if sparse else first, X[rows, 1:4].astype("float32"))
    if not sparse:
        first[...] = 9.0
        np.testing.assert_array_equal(second, X[rows, 1:4].astype("float32"))
    some = part.read(1, 4, np.dtype("float32"), np.array([0, 2]))
    np.testing.assert_array_equal(some.toarray() if sparse else some, X[rows[[0, 2]], 1:4].astype("float32"))
    assert len(reads) == 1
    whole.forget()
    part.read(1, 4, np.dtype("float32"))
    assert len(reads) == 2
