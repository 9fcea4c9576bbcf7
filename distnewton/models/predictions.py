"""How a model did at the end of a run, small enough to be kept: a confusion matrix, or predictions against targets."""

from __future__ import annotations

from typing import Any

import numpy as np

from distnewton.backend import Array
from distnewton.data.labels import label_text
from distnewton.data.partitioned import Task

MAX_CLASSES = 60
"""Classes up to which the whole matrix is kept; of more, the pairs that are mistaken most often."""
MAX_PAIRS = 40
MAX_POINTS = 2000


def summarize(task: Task, which: str, outputs: Array, targets: Array) -> dict[str, Any]:
    """Counts or points that a picture is drawn from.

    Parameters
    ----------
    task : Task
        What the outputs mean.
    which : str
        ``train``, ``validation`` or ``test``.
    outputs : Array of shape (n, n_out)
        Outputs of the network.
    targets : Array
        As :func:`~distnewton.models.metrics.task_metrics` takes them.

    Returns
    -------
    dict
        ``set, task, n_samples``; of classes ``classes``, ``n_right`` and ``n_of`` (by true class), ``n_unknown``
        (samples with labels that training did not have), and ``confusion[true][predicted]`` or ``mistaken`` ([true,
        predicted, count], the most frequent first); of numbers ``targets`` and ``predictions`` of at most 2,000
        values, evenly chosen. Empty where a sample has several labels.
    """
    head = {"set": which, "task": task.name, "n_samples": len(outputs)}
    if task.classes is None:
        truth, found = np.asarray(targets, np.float64).ravel(), np.asarray(outputs, np.float64).ravel()
        chosen = np.unique(np.linspace(0, len(truth) - 1, min(len(truth), MAX_POINTS)).round().astype(np.int64))
        return {**head, "targets": truth[chosen].tolist(), "predictions": found[chosen].tolist()}
    if task.name == "multilabel":
        # classes are not confused where a sample has several
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
