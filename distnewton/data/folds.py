"""Held-out samples: a fraction of them for validation, or folds for cross validation.

Both depend on the seed and the labels only, never on the ranks.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distnewton.errors import ConfigError

if TYPE_CHECKING:
    from distnewton.data.description import Labels

Rows = NDArray[np.int64]
BY_CLASS = ("classification", "binary")
"""Tasks in which each sample has one class."""


def split_off(labels: Labels, fraction: float, seed: int, *, by_class: bool) -> tuple[Rows, Rows]:
    """Draw a fraction of the samples.

    Parameters
    ----------
    labels : ndarray of shape (n_samples,) or (n_samples, n_targets)
        Labels of all samples.
    fraction : float
        Fraction to hold out, between 0 and 1.
    seed : int
        Seed of the run.
    by_class : bool
        Whether each class gives the same fraction, rounded; at least one sample of each class always stays.

    Returns
    -------
    tuple of ndarray of int64
        Samples that stay and samples that are held out, both ascending.

    Raises
    ------
    ConfigError
        If no sample would be held out, or none would stay.
    """
    n = len(labels)
    group = _groups(labels, by_class=by_class)
    sizes = np.bincount(group)
    most = sizes - 1 if by_class else sizes
    quotas = fraction * sizes
    counts = np.minimum(np.floor(quotas).astype(np.int64), most)
    # samples lost to rounding down go to the largest remainders, ties to the first class
    order = np.argsort(counts - quotas, kind="stable")
    order = order[(counts < most)[order]]
    counts[order[: max(0, round(fraction * n) - int(counts.sum()))]] += 1
    ranks = _random_ranks(group, _generator(seed, 0))
    aside = ranks < counts[group]
    n_aside = int(aside.sum())
    if not 0 < n_aside < n:
        raise ConfigError(
            f"data.validation_fraction = {fraction:g} of {n} samples puts {n_aside} aside, but training and "
            "validation both need samples",
            collective=True,
        )
    return np.flatnonzero(~aside), np.flatnonzero(aside)


def draw_folds(labels: Labels, n_folds: int, seed: int, *, by_class: bool) -> list[Rows]:
    """Split the samples into folds whose sizes differ by at most one.

    Parameters
    ----------
    labels : ndarray of shape (n_samples,) or (n_samples, n_targets)
        Labels of all samples.
    n_folds : int
        Number of folds, at least 2.
    seed : int
        Seed of the run.
    by_class : bool
        Whether the samples of each class are spread evenly over the folds.

    Returns
    -------
    list of ndarray of int64
        Samples of each fold, ascending.

    Raises
    ------
    ConfigError
        If there are fewer than 2 folds, or fewer samples than folds.
    """
    n = len(labels)
    if not 2 <= n_folds <= n:
        raise ConfigError(f"cross validation needs 2 to {n} folds for {n} samples, got {n_folds}", collective=True)
    group = _groups(labels, by_class=by_class)
    # samples are dealt out like cards, class after class, each class starting where the last one ended
    order = np.lexsort((_random_ranks(group, _generator(seed, 1)), group))
    fold = np.empty(n, np.int64)
    fold[order] = np.arange(n) % n_folds
    return [np.flatnonzero(fold == k) for k in range(n_folds)]


def class_weights(labels: Labels, weights: dict[str, float] | str, name: str) -> NDArray[np.float64] | None:
    """Compute the weight of each sample from its class.

    Parameters
    ----------
    labels : ndarray of shape (n_samples,)
        Labels of the training samples.
    weights : dict of str to float, or str
        Weights by label as the user writes it, 1 for labels not listed; ``balanced`` for
        n_samples / (n_classes * n_samples of the class); or ``none``.
    name : str
        Name of the data, for messages.

    Returns
    -------
    ndarray of float64 of shape (n_samples,) or None

    Raises
    ------
    ConfigError
        If the data lack such a label, or all samples would have weight 0.
    """
    from distnewton.data.labels import label_text

    if weights in ("none", {}):
        return None
    distinct, group, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if isinstance(weights, str):
        of_class = len(labels) / (len(distinct) * counts)
    else:
        texts = [label_text(label) for label in distinct]
        given = {_label(label): weight for label, weight in weights.items()}
        unknown = sorted(set(given) - set(texts))
        if unknown:
            known = ", ".join(texts[:20]) + (", ..." if len(texts) > 20 else "")
            raise ConfigError(
                f"data.class_weights: {name} has no label {', '.join(unknown)}; its labels are {known}", collective=True
            )
        of_class = np.array([given.get(text, 1.0) for text in texts])
        if not of_class.any():
            raise ConfigError("data.class_weights: every class has weight 0", collective=True)
    found: NDArray[np.float64] = of_class[group]
    return found


def _label(text: str) -> str:
    """A label in its canonical form: ``+1`` and ``1.0`` become ``1``."""
    from distnewton.data.labels import label_text

    try:
        number = float(text)
    except ValueError:
        return text
    return label_text(number) if math.isfinite(number) else text


def _groups(labels: Labels, *, by_class: bool) -> Rows:
    """Number of each sample's class, or 0."""
    if not by_class or labels.ndim != 1:
        return np.zeros(len(labels), np.int64)
    group: Rows = np.unique(labels, return_inverse=True)[1]
    return group


def _random_ranks(group: Rows, generator: np.random.Generator) -> Rows:
    """Place of each sample in a random order of its group."""
    order = np.lexsort((generator.permutation(len(group)), group))
    starts = np.concatenate([[0], np.cumsum(np.bincount(group))])
    ranks = np.empty(len(group), np.int64)
    ranks[order] = np.arange(len(group)) - starts[group[order]]
    return ranks


def _generator(seed: int, use: int) -> np.random.Generator:
    # counters of other uses of the seed: 0 weights, 1 subsamples, 2 order, 3 batches, 4 cotangents
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 5, use, 0]))
