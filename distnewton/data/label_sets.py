"""Samples with several labels: texts such as ``1,5,7``, or a column of 0 and 1 for each label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distnewton.data.labels import LabelMapping, label_text, labels_of_texts
from distnewton.errors import DataError

if TYPE_CHECKING:
    from distnewton.data.description import Labels


def split_labels(text: str) -> list[str]:
    """Split the labels of a sample.

    Parameters
    ----------
    text : str
        Labels with commas between them; empty for none.

    Returns
    -------
    list of str

    Raises
    ------
    ValueError
        If a label is empty or repeated; the text is the second half of a message.
    """
    parts = [part.strip() for part in text.split(",")] if text else []
    if "" in parts:
        raise ValueError(f"labels {text[:40]!r}: one is empty; write labels as 1,5,7")
    if twice := [part for part, n in Counter(parts).items() if n > 1]:
        raise ValueError(f"labels {text[:40]!r}: {twice[0]} appears twice")
    return parts


def sets_of(labels: Labels, locate: Callable[[int], str]) -> tuple[list[list[str]], NDArray[np.intp]]:
    """Find the distinct sets of labels, and the set of each sample.

    Parameters
    ----------
    labels : ndarray of shape (n_samples,)
        Texts for :func:`split_labels`, or numbers, each of which is one label.
    locate : callable
        Names a sample in an error.

    Returns
    -------
    list of (list of str)
    ndarray of intp of shape (n_samples,)

    Raises
    ------
    DataError
        If a text is malformed; says where.
    """
    distinct, first, rows = np.unique(labels, return_index=True, return_inverse=True)
    sets = []
    for i, label in zip(first.tolist(), distinct.tolist(), strict=True):
        try:
            sets.append(split_labels(label_text(label)))
        except ValueError as error:
            raise DataError(f"{locate(i)}: {error}") from None
    return sets, rows


def label_classes(labels: Labels, locate: Callable[[int], str], name: str) -> LabelMapping:
    """Collect all labels that occur, in their fixed order.

    Parameters
    ----------
    labels : ndarray of shape (n_samples,) or (n_samples, n_labels)
        Texts for :func:`split_labels`; or 0 and 1, in which case the labels are the column numbers.
    locate : callable
        Names a sample in an error.
    name : str
        Data set, for messages.

    Returns
    -------
    LabelMapping
    """
    if labels.ndim == 2:
        return LabelMapping.fit(np.arange(labels.shape[1], dtype=np.float64), name=name)
    sets, _ = sets_of(labels, locate)
    found = {label for labels_of_sample in sets for label in labels_of_sample}
    return LabelMapping.fit(labels_of_texts(np.array(sorted(found), np.str_)), name=name)


def label_indicator(
    labels: Labels, classes: LabelMapping, locate: Callable[[int], str], name: str
) -> NDArray[np.uint8]:
    """Mark the labels of each sample with 1; labels that are not classes are left out.

    Parameters
    ----------
    labels, locate, name
        As of :func:`label_classes`.
    classes : LabelMapping
        The labels of the model.

    Returns
    -------
    ndarray of uint8 of shape (n_samples, n_classes)

    Raises
    ------
    DataError
        If the number of columns differs, or a value is neither 0 nor 1.
    """
    if labels.ndim == 2:
        if labels.shape[1] != classes.n_classes:
            raise DataError(f"{name} has {labels.shape[1]} label columns, but the model {classes.n_classes} labels")
        wrong = np.argwhere((labels != 0) & (labels != 1)) if labels.dtype.kind == "f" else np.zeros((1, 2), np.intp)
        if len(wrong):
            i, k = wrong[0].tolist()
            value, label = labels[i, k].item(), classes.decode([k])[0]
            raise DataError(f"{locate(i)}: the column of label {label} must hold 0 or 1, got {value!r}")
        return labels.astype(np.uint8)
    sets, rows = sets_of(labels, locate)
    column_of = {text: k for k, text in enumerate(classes.decode(range(classes.n_classes)))}
    of_set = np.zeros((len(sets), classes.n_classes), np.uint8)
    for i, own in enumerate(sets):
        of_set[i, [column_of[label] for label in own if label in column_of]] = 1
    return of_set[rows]


def unknown_labels(labels: Labels, classes: LabelMapping) -> dict[str, int]:
    """Count the samples that have labels which are not classes."""
    if labels.ndim == 2:
        return {}
    sets, rows = sets_of(labels, lambda i: f"sample {i + 1}")
    known, counts = set(classes.decode(range(classes.n_classes))), Counter[str]()
    for own, n in zip(sets, np.bincount(rows, minlength=len(sets)).tolist(), strict=True):
        counts.update({label: n for label in own if label not in known})
    return dict(counts)
