"""Metrics of tasks: accuracy, AUC, RMSE and R2, and other common ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distnewton.backend import Array, namespace, scalar

MAIN_METRIC = {"classification": "accuracy", "binary": "auc", "multilabel": "micro_f1", "regression": "rmse"}
"""The metric of a task where only one is used."""
PRECISION_AT = (1, 3, 5)
"""Numbers of most likely labels to evaluate."""
_ROWS_AT_ONCE = 1024
SOLUTION_METRIC = "relative_l2"
"""The metric of a residual problem with a known solution."""
LOWER_IS_BETTER = frozenset({"rmse", SOLUTION_METRIC})
_SHARES = frozenset({"accuracy", "auc", "r2", "micro_f1", *(f"precision_at_{k}" for k in PRECISION_AT)})


def main_metric(task: str, metrics: Mapping[str, float]) -> str:
    """Return the main metric of a set: the task's, or the error against a known solution if there is one."""
    return SOLUTION_METRIC if SOLUTION_METRIC in metrics else MAIN_METRIC[task]


def metric_text(name: str, value: float) -> str:
    """Format a metric for tables: shares with four decimals, others, in the targets' units, with five digits."""
    return f"{value:.4f}" if name in _SHARES else f"{value:.5g}"


def is_reached(metric: str, value: float, level: float) -> bool:
    """Whether a value of a metric is at least as good as a level."""
    return value <= level if metric in LOWER_IS_BETTER else value >= level


def task_metrics(task: str, outputs: Array, targets: Array) -> dict[str, float]:
    """Compute the metrics of a task.

    Parameters
    ----------
    task : str
        ``classification``, ``binary``, ``multilabel`` or ``regression``.
    outputs : Array of shape (n, n_out)
        Outputs of the network: logits, or predictions.
    targets : Array
        Class indices (classification; negative for labels unknown to the model), 0 and 1 (binary; multilabel has one
        column per label), or numbers.

    Returns
    -------
    dict of str to float
        ``accuracy``; ``accuracy`` and ``auc``; ``micro_f1`` and ``precision_at_1`` to ``precision_at_5``; or ``rmse``
        and ``r2``. AUC and R2 are NaN if undefined.
    """
    if task == "multilabel":
        return label_metrics(outputs, targets)
    if task == "classification":
        return {"accuracy": scalar((outputs.argmax(axis=1) == targets).mean())}
    if task == "binary":
        scores = outputs[:, 0]
        # an unknown label is neither 0 nor 1
        return {"accuracy": scalar(((scores > 0) == targets).mean()), "auc": auc(scores, targets > 0)}
    truth = targets.reshape(outputs.shape).astype(np.float64)
    error = outputs - truth
    deviation = truth - truth.mean(axis=0)
    vdot = namespace(error).vdot
    total = scalar(vdot(deviation, deviation))
    return {
        "rmse": math.sqrt(scalar((error**2).mean())),
        "r2": 1.0 - scalar(vdot(error, error)) / total if total else math.nan,
    }


def label_metrics(outputs: Array, targets: Array) -> dict[str, float]:
    """Compute metrics of samples with any number of labels.

    Parameters
    ----------
    outputs : Array of shape (n, n_labels)
        Logits.
    targets : Array of shape (n, n_labels)
        0 and 1.

    Returns
    -------
    dict of str to float
        ``micro_f1`` over all samples and labels, where positive logits predict labels; 0 if no label is predicted or
        true. ``precision_at_k`` for k = 1, 3 and 5, up to the number of labels: the mean share of true labels among
        a sample's k largest logits; among equal logits the first label wins.
    """
    n, n_labels = outputs.shape
    xp, truth = namespace(outputs), targets > 0
    predicted = outputs > 0
    n_right = scalar((predicted & truth).sum())
    n_all = scalar(predicted.sum()) + scalar(truth.sum())
    found = {"micro_f1": 2.0 * n_right / n_all if n_all else 0.0}
    ranks = [k for k in PRECISION_AT if k <= n_labels]
    hits = np.zeros(max(ranks, default=0))
    for start in range(0, n, _ROWS_AT_ONCE):
        # repeated search for the largest: sorting thousands of labels would take ten times as long
        left, own = outputs[start : start + _ROWS_AT_ONCE].copy(), truth[start : start + _ROWS_AT_ONCE]
        rows = xp.arange(len(left))
        for i in range(len(hits)):
            largest = left.argmax(axis=1)
            hits[i] += scalar(own[rows, largest].sum())
            left[rows, largest] = -math.inf
    return found | {f"precision_at_{k}": float(hits[:k].sum()) / (k * n) for k in ranks}


def auc(scores: Array, positive: Array) -> float:
    """Compute the area under the ROC curve: the share of correctly ranked (positive, negative) pairs; ties count half.

    Parameters
    ----------
    scores : Array of shape (n,)
        Larger means more likely positive.
    positive : Array of bool of shape (n,)
        True classes.

    Returns
    -------
    float
        NaN with only one class.
    """
    xp = namespace(scores)
    n_positive = int(scalar(positive.sum()))
    n_pairs = n_positive * (len(scores) - n_positive)
    if n_pairs == 0:
        return math.nan
    _, group, counts = xp.unique(scores, return_inverse=True, return_counts=True)
    last = xp.cumsum(counts)
    mean_rank = last - (counts - 1) / 2.0
    rank_sum = scalar(mean_rank[group][positive].sum())
    return (rank_sum - n_positive * (n_positive + 1) / 2.0) / n_pairs


def more_metrics(task: str, link: str, classes: Sequence[str], outputs: Array, targets: Array) -> dict[str, Any]:
    """Compute metrics on the host that :func:`task_metrics` omits: they are slower, or not single numbers.

    Parameters
    ----------
    task, outputs, targets
        See :func:`task_metrics`.
    link : str
        Function from outputs to probabilities; empty if there is none.
    classes : sequence of str
        Labels, indexed by the numbers in the targets; empty for regression.

    Returns
    -------
    dict
        ``mae`` for regression. For classes: ``auc``, with more than two the mean over the classes that occur, each
        against the rest, by probability or output; ``log_loss``, if there are probabilities; ``macro_f1``; and
        ``classes``, with ``precision``, ``recall``, ``f1`` and ``n_samples`` by label. Samples of unknown labels count
        as wrong, except that ``auc`` and ``log_loss`` ignore them. NaN if undefined; a ratio 0 / 0 is 0.
    """
    if task == "regression":
        return {"mae": float(np.abs(outputs - targets.reshape(outputs.shape)).mean())}
    if task == "multilabel":
        return _by_label(classes, outputs > 0, targets > 0)
    Z, truth = outputs.astype(np.float64), targets.astype(np.int64)
    if task == "binary":
        # the logits of both classes
        Z = np.hstack([np.zeros_like(Z), Z])
    known = truth >= 0
    found: dict[str, Any] = {}
    scores = Z - np.logaddexp.reduce(Z, axis=1, keepdims=True) if link else Z
    if len(classes) == 2:
        found["auc"] = auc(Z[known, 1] - Z[known, 0], truth[known] == 1)
    else:
        aucs = np.array([auc(scores[known, k], truth[known] == k) for k in np.unique(truth[known])])
        found["auc"] = float(aucs.mean()) if aucs.size else math.nan
    if link:
        own = scores[known, truth[known]]
        found["log_loss"] = float(-own.mean()) if own.size else math.nan
    # ties go to the first class, as in predictions
    return found | _by_class(classes, Z.argmax(axis=1), truth)


def _by_class(classes: Sequence[str], predicted: Array, truth: Array) -> dict[str, Any]:
    """Compute ``macro_f1`` and ``classes`` of :func:`more_metrics`."""
    known = truth >= 0
    n_right, n_of, n_predicted = (
        np.bincount(numbers, minlength=len(classes))
        for numbers in (truth[known & (truth == predicted)], truth[known], predicted)
    )
    return _ratios(classes, n_right, n_of, n_predicted)


def _by_label(classes: Sequence[str], predicted: Array, truth: Array) -> dict[str, Any]:
    """Compute the same if each sample has any number of labels."""
    return _ratios(classes, (predicted & truth).sum(axis=0), truth.sum(axis=0), predicted.sum(axis=0))


def _ratios(classes: Sequence[str], n_right: Array, n_of: Array, n_predicted: Array) -> dict[str, Any]:
    """Compute precision, recall and F1 of each class from its counts: correct, true and predicted."""
    precision, recall = n_right / np.maximum(n_predicted, 1), n_right / np.maximum(n_of, 1)
    f1 = 2 * n_right / np.maximum(n_of + n_predicted, 1)
    columns = precision.tolist(), recall.tolist(), f1.tolist(), n_of.tolist()
    names = "precision", "recall", "f1", "n_samples"
    rows = zip(*columns, strict=True)
    by_label = {label: dict(zip(names, row, strict=True)) for label, row in zip(classes, rows, strict=True)}
    return {"macro_f1": float(f1.mean()), "classes": by_label}
