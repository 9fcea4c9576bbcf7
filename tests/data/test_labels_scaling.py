"""Label mappings and scalings against plain formulas."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from distnewton.data.labels import LabelMapping, label_text, regression_targets
from distnewton.data.scaling import (
    SCALINGS,
    ColumnScaling,
    fit_scaling,
    row_factors,
    row_square_sums,
    scale_rows,
)
from distnewton.data.sources import open_data
from distnewton.errors import ConfigError, DataError


def test_numbers_are_sorted_and_written_as_the_user_does():
    mapping = LabelMapping.fit(np.array([10.0, -1.0, 2.0, 10.0, 0.5]))
    assert mapping.classes == (-1, 0.5, 2, 10)
    assert mapping.decode([3, 0, 1]) == ["10", "-1", "0.5"]
    labels = np.array([2.0, 7.0, -1.0, 7.0])
    np.testing.assert_array_equal(mapping.encode(labels), [2, -1, 0, -1])
    assert mapping.unseen(labels) == {"7": 2}
    np.testing.assert_array_equal(mapping.encode(np.array(["2", "10", "x"])), [2, 3, -1])
    assert mapping.encode(np.zeros(0)).shape == (0,)


def test_texts():
    mapping = LabelMapping.fit(np.array(["spam", "ham", "ham"]))
    assert mapping.classes == ("ham", "spam")
    assert LabelMapping.from_dict(json.loads(json.dumps(mapping.to_dict()))) == mapping
    both = LabelMapping.union([mapping, LabelMapping((1, 2))])
    assert both.classes == ("1", "2", "ham", "spam")
    assert LabelMapping.union([LabelMapping((10, 2)), LabelMapping((1, 2))]).classes == (1, 2, 10)


def test_label_errors():
    with pytest.raises(DataError, match=r"train\.txt: classification needs two classes, found only '1'"):
        LabelMapping.fit(np.ones(3), name="train.txt")
    with pytest.raises(DataError, match="one label for each sample"):
        LabelMapping.fit(np.ones((3, 2)))


@given(
    st.lists(st.one_of(st.integers(-(10**6), 10**6).map(float), st.floats(-5, 5)), min_size=2, unique=True)
)
def test_encode_and_decode_are_inverse(labels):
    labels = np.array(labels) + 0.0
    if len(np.unique(labels)) < 2:
        return
    mapping = LabelMapping.from_dict(json.loads(json.dumps(LabelMapping.fit(labels).to_dict())))
    assert mapping.decode(mapping.encode(labels)) == [label_text(label) for label in labels]


def test_regression_targets(tmp_path):
    np.testing.assert_array_equal(regression_targets(np.array([1.0, 2.5])), [[1], [2.5]])
    np.testing.assert_array_equal(regression_targets(np.array(["1", "2.5"])), [[1], [2.5]])
    assert regression_targets(np.ones((3, 2))).shape == (3, 2)
    path = tmp_path / "data"
    path.write_text("1 1:2\n\n2 1:3\ncat 1:3\n")
    source = open_data(path)
    with pytest.raises(DataError, match=r"data:4: label 'cat' is not a finite number"):
        regression_targets(source.describe().labels, source.locate)


def example(dtype=np.float64):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((50, 6)) * [1, 1e3, 1e-3, 1, 1, 1] + [0, 5, 1e4, 0, 0, 0]
    X[:, 3] = 0.1
    X[:, 4] = 0
    return X.astype(dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_columns(dtype):
    X = example(dtype)
    exact = X.astype(np.float64)
    for kind, expected in [
        ("minmax", 2 * (exact - exact.min(0)) / np.maximum(np.ptp(exact, axis=0), 1e-300) - 1),
        ("standard", (exact - exact.mean(0)) / np.maximum(exact.std(0), 1e-300)),
    ]:
        scaling = fit_scaling(kind, X)
        scaled = X.copy()
        scaling.apply(scaled)
        assert scaling.n_constant == 2
        assert not scaled[:, 3:5].any()
        varying = [0, 1, 2, 5]
        np.testing.assert_allclose(scaled[:, varying], expected[:, varying], rtol=1e-5, atol=1e-6)
        back = ColumnScaling.from_dict(json.loads(json.dumps(scaling.to_dict())))
        np.testing.assert_array_equal(back.factor, scaling.factor)
        parts = [fit_scaling(kind, X[:, a:b]) for a, b in ((0, 2), (2, 2), (2, 6))]
        factors = np.concatenate([part.factor for part in parts])
        np.testing.assert_allclose(factors, scaling.factor, rtol=1e-12)
        np.testing.assert_array_equal(scaling.columns(1, 4).offset, scaling.offset[1:4])


@pytest.mark.parametrize("kind", ["unit_rows", "log1p_unit_rows"])
@pytest.mark.parametrize("is_sparse", [False, True])
def test_rows(kind, is_sparse):
    rng = np.random.default_rng(1)
    X = rng.poisson(0.5, (20, 9)).astype(float)
    X[4] = 0
    logs = np.log1p(X) if kind.startswith("log") else X
    norms = np.linalg.norm(logs, axis=1, keepdims=True)
    expected = logs / np.where(norms > 0, norms, 1)
    parts = [
        sparse.csr_array(X[:, a:b]) if is_sparse else X[:, a:b].copy() for a, b in ((0, 4), (4, 4), (4, 9))
    ]
    for part in parts:
        scaling = fit_scaling(kind, part)
        assert scaling.rule.scales_rows
        scaling.apply(part)
    factors = row_factors(sum(row_square_sums(part) for part in parts))
    for part in parts:
        scale_rows(part, factors)
    dense = [part.toarray() if is_sparse else part for part in parts]
    np.testing.assert_allclose(np.hstack(dense), expected, rtol=1e-14)


def test_scaling_errors():
    X = example()
    for kind in ("minmax", "standard"):
        with pytest.raises(ConfigError, match=r"would fill a sparse matrix.*use scale = unit_rows"):
            fit_scaling(kind, sparse.csr_array(X))
        with pytest.raises(DataError, match="too large"):
            fit_scaling(kind, np.array([[1.0], [np.inf]]))
    with pytest.raises(ConfigError, match="unknown scaling"):
        fit_scaling("range", X)
    with pytest.raises(DataError, match="is for counts, but a value is -"):
        fit_scaling("log1p_unit_rows", X).apply(X - 1)
    with pytest.raises(ValueError, match="float dtype"):
        fit_scaling("minmax", X).apply(X.astype(int))
    with pytest.raises(ValueError, match="has 5 columns"):
        fit_scaling("minmax", X).apply(X[:, :5])


def test_no_columns_and_none():
    for kind in SCALINGS:
        scaling = fit_scaling(kind, np.zeros((3, 0)))
        scaling.apply(np.zeros((3, 0)))
        assert scaling.factor.shape == (0,)
    X = example()
    same = X.copy()
    fit_scaling("none", X).apply(same)
    np.testing.assert_array_equal(same, X)
    assert fit_scaling("none", sparse.csr_array(X)).n_constant == 0


def test_large_values_and_memory():
    scaling = fit_scaling("standard", np.array([[1e200], [-1e200]]))
    assert scaling.factor[0] == pytest.approx(1e-200)
    X = np.random.default_rng(0).standard_normal((20000, 100))
    tracemalloc.start()
    fit_scaling("standard", X).apply(X)
    assert tracemalloc.get_traced_memory()[1] < 0.2 * X.nbytes
    tracemalloc.stop()
