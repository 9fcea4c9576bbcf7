"""Metrics against their definitions, at their edges, and in float32."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distnewton.models.metrics import auc, more_metrics, task_metrics


@given(st.lists(st.tuples(st.integers(-2, 2), st.booleans()), min_size=1, max_size=30))
def test_auc_is_the_share_of_pairs_ranked_rightly_with_ties_as_half(drawn):
    scores, positive = (np.array(column) for column in zip(*drawn, strict=True))
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[positive] for n in scores[~positive]]
    found = auc(scores.astype(float), positive)
    assert math.isnan(found) if not pairs else found == pytest.approx(np.mean(pairs), rel=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_metrics_equal_scikit_learns(dtype):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    truth = rng.integers(2, size=300)
    scores = np.round(rng.standard_normal((300, 1)) + truth[:, None], 1).astype(dtype)
    found = task_metrics("binary", scores, truth.astype(dtype))
    assert found["auc"] == pytest.approx(metrics.roc_auc_score(truth, scores[:, 0]), rel=1e-12)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(truth, scores[:, 0] > 0))
    y = (1000 + rng.standard_normal((300, 2))).astype(dtype)
    z = (y + 0.3 * rng.standard_normal((300, 2))).astype(dtype)
    found = task_metrics("regression", z, y)
    # several targets weighted by their variance, as the sums over all of them are
    r2 = metrics.r2_score(y.astype(float), z.astype(float), multioutput="variance_weighted")
    assert found["r2"] == pytest.approx(r2, rel=1e-10)
    assert found["rmse"] == pytest.approx(math.sqrt(np.mean((z.astype(float) - y) ** 2)), rel=1e-12)


def test_one_target_may_come_as_a_vector():
    y = np.array([1.0, 2.0, 4.0])
    found = task_metrics("regression", np.array([[1.0], [2.0], [3.0]]), y)
    assert found == pytest.approx({"rmse": math.sqrt(1 / 3), "r2": 1 - 1 / np.sum((y - y.mean()) ** 2)})


def test_edges():
    constant = task_metrics("regression", np.ones((3, 1)), np.full(3, 2.0))
    assert constant["rmse"] == 1.0
    assert math.isnan(constant["r2"])
    one_class = task_metrics("binary", np.array([[0.5], [-0.5]]), np.ones(2))
    assert one_class["accuracy"] == 0.5
    assert math.isnan(one_class["auc"])
    outputs = np.array([[0.0, 2.0, 1.0], [3.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    # a label that the model does not know counts as wrong
    assert task_metrics("classification", outputs, np.array([1, 2, -1])) == {"accuracy": pytest.approx(1 / 3)}


def softmax(Z):
    shares = np.exp(Z - Z.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("k", [2, 3, 7])
def test_more_metrics_are_those_of_scikit_learn(k):
    oracle = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(k)
    truth = rng.integers(k, size=200)
    Z = rng.normal(size=(200, k)) + 2 * np.eye(k)[truth]
    Z[:, -1] -= 5  # a class that is hardly ever predicted
    labels = [f"c{i}" for i in range(k)]
    shares = softmax(Z)
    ways = {"classification": (Z, truth, "softmax")}
    if k == 2:
        ways["binary"] = Z[:, 1:] - Z[:, :1], truth.astype(float), "logistic"
    for task, (outputs, targets, link) in ways.items():
        found = more_metrics(task, link, labels, outputs, targets)
        expected = oracle.precision_recall_fscore_support(truth, Z.argmax(axis=1), labels=range(k), zero_division=0)
        rows = found["classes"].values()
        columns = [[row[name] for row in rows] for name in ("precision", "recall", "f1", "n_samples")]
        np.testing.assert_allclose(columns, expected, rtol=1e-12)
        assert list(found["classes"]) == labels
        assert found["macro_f1"] == pytest.approx(oracle.f1_score(truth, Z.argmax(axis=1), average="macro"))
        assert found["log_loss"] == pytest.approx(oracle.log_loss(truth, shares))
        of_two = {"y_score": shares[:, 1]} if k == 2 else {"y_score": shares, "multi_class": "ovr", "average": "macro"}
        assert found["auc"] == pytest.approx(oracle.roc_auc_score(truth, **of_two))
    assert "log_loss" not in more_metrics("classification", "", labels, Z, truth)
    # a sample of an unknown label is wrongly predicted
    unknown = np.where(np.arange(200) < 5, -1, truth)
    found = more_metrics("classification", "softmax", labels, Z, unknown)
    expected = oracle.precision_score(unknown, Z.argmax(axis=1), labels=range(k), average=None, zero_division=0)
    np.testing.assert_allclose([row["precision"] for row in found["classes"].values()], expected)
    assert found["log_loss"] == pytest.approx(oracle.log_loss(truth[5:], shares[5:]))


def test_mean_absolute_error_and_what_is_undefined():
    y, z = np.array([[1.0], [2.0], [4.0]]), np.array([[1.5], [2.0], [2.0]])
    assert more_metrics("regression", "", [], z, y) == {"mae": pytest.approx(2.5 / 3)}
    assert np.isnan(more_metrics("binary", "logistic", ["a", "b"], z, np.ones(3))["auc"])
    # labels that are no class are wrong, whatever is predicted
    assert task_metrics("binary", np.array([[-1.0], [1.0]]), np.array([-1.0, 1.0]))["accuracy"] == 0.5
