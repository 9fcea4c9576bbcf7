"""What a task is judged by: accuracy, AUC, RMSE and R2."""

from __future__ import annotations

import math

import numpy as np

from distnewton.backend import Array, namespace, scalar

MAIN_METRIC = {"classification": "accuracy", "binary": "auc", "regression": "rmse"}
"""The metric that a task is judged by where there is room for one."""
LOWER_IS_BETTER = frozenset({"rmse"})


def task_metrics(task: str, outputs: Array, targets: Array) -> dict[str, float]:
    """Metrics of a task.

    Parameters
    ----------
    task : str
        ``classification``, ``binary`` or ``regression``.
    outputs : Array of shape (n, n_out)
        Outputs of the network: logits, or predictions.
    targets : Array
        Class indices (classification; negative for labels unknown to the model), 0 and 1 (binary), or numbers.

    Returns
    -------
    dict of str to float
        ``accuracy``; ``accuracy`` and ``auc``; or ``rmse`` and ``r2``. AUC and R2 are NaN where undefined.
    """
    if task == "classification":
        return {"accuracy": scalar((outputs.argmax(axis=1) == targets).mean())}
    if task == "binary":
        scores = outputs[:, 0]
        return {"accuracy": scalar(((scores > 0) == (targets > 0)).mean()), "auc": auc(scores, targets > 0)}
    truth = targets.reshape(outputs.shape).astype(np.float64)
    error = outputs - truth
    deviation = truth - truth.mean(axis=0)
    vdot = namespace(error).vdot
    total = scalar(vdot(deviation, deviation))
    return {
        "rmse": math.sqrt(scalar((error**2).mean())),
        "r2": 1.0 - scalar(vdot(error, error)) / total if total else math.nan,
    }


def auc(scores: Array, positive: Array) -> float:
    """Area under the ROC curve: the share of (positive, negative) pairs ranked rightly, ties counting half.

    Parameters
    ----------
    scores : Array of shape (n,)
        Larger means more likely positive.
    positive : Array of bool of shape (n,)
        The truth.

    Returns
    -------
    float
        NaN with one class only.
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
