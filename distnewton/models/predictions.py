"""Summary of a model at the end of a run, small enough to keep: a confusion matrix, or predictions and targets."""

from __future__ import annotations

from typing import Any

import numpy as np

from distnewton.backend import Array
from distnewton.data.labels import label_text
from distnewton.data.partitioned import Task

MAX_CLASSES = 60
"""Limit of classes for the whole matrix; with more, only the most frequently confused pairs are kept."""
MAX_PAIRS = 40
MAX_POINTS = 2000


def summarize(task: Task, which: str, outputs: Array, targets: Array) -> dict[str, Any]:
    """Compute counts or points for a figure.

    Parameters
    ----------
    task : Task
        Meaning of the outputs.
    which : str
        ``train``, ``validation`` or ``test``.
    outputs : Array of shape (n, n_out)
        Outputs of the network.
    targets : Array
        Targets in the form of :func:`~distnewton.models.metrics.task_metrics`.

    Returns
    -------
    dict
        ``set, task, n_samples``; for classes ``classes``, ``n_right`` and ``n_of`` (by true class), ``n_unknown``
        (samples with labels unknown in training), and ``confusion[true][predicted]`` or ``mistaken`` ([true,
        predicted, count], most frequent first); for numbers ``targets`` and ``predictions`` of at most 2,000
        evenly spaced values. Empty if samples have several labels.
    """
    head = {"set": which, "task": task.name, "n_samples": len(outputs)}
    if task.classes is None:
        truth, found = np.asarray(targets, np.float64).ravel(), np.asarray(outputs, np.float64).ravel()
        chosen = np.unique(np.linspace(0, len(truth) - 1, min(len(truth), MAX_POINTS)).round().astype(np.int64))
        return {**head, "targets": truth[chosen].tolist(), "predictions": found[chosen].tolist()}
    if task.name == "multilabel":
        # a sample with several labels has no confusion matrix
        return {}
    k = task.classes.n_classes
    predicted = outputs.argmax(axis=1) if task.name == "classification" else (outputs[:, 0] > 0).astype(np.int64)
    true = np.asarray(targets).ravel().astype(np.int64)
    known = true >= 0
    pairs, counts = np.unique(true[known] * k + predicted[known], return_counts=True)
    right = pairs // k == pairs % k
    n_right = np.zeros(k, np.int64)
    n_right[pairs[right] % k] = counts[right]
    summary = {
        **head,
        "classes": [label_text(label) for label in task.classes.classes],
        "n_right": n_right.tolist(),
        "n_of": np.bincount(true[known], minlength=k).tolist(),
        "n_unknown": int((~known).sum()),
    }
    if k <= MAX_CLASSES:
        matrix = np.zeros(k * k, np.int64)
        matrix[pairs] = counts
        return {**summary, "confusion": matrix.reshape(k, k).tolist()}
    order = np.argsort(-counts[~right], kind="stable")[:MAX_PAIRS]
    wrong = zip(pairs[~right][order].tolist(), counts[~right][order].tolist(), strict=True)
    return {**summary, "mistaken": [[pair // k, pair % k, count] for pair, count in wrong]}
