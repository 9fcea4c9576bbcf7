"""Labels of samples: class numbers for classification, targets for regression."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distnewton.errors import DataError

if TYPE_CHECKING:
    from distnewton.data.description import Labels

Class = int | float | str
_MAX_WHOLE = 2.0**53


def plain(label: Any) -> Class:
    """Label as int where it is a whole number, else as float or str.

    Parameters
    ----------
    label : int, float, str, or numpy scalar of these
        One label.

    Returns
    -------
    int or float or str
    """
    if isinstance(label, str):
        return str(label)
    number = float(label)
    return int(number) if number.is_integer() and abs(number) <= _MAX_WHOLE else number


def label_text(label: Any) -> str:
    """Label as its user writes it: ``"1"`` for 1.0, ``"0.5"``, ``"cat"``.

    Parameters
    ----------
    label : int, float, str, or numpy scalar of these
        One label.

    Returns
    -------
    str
    """
    return str(plain(label))


def join_labels(parts: Sequence[Labels]) -> Labels:
    """Labels of several blocks of a file; all as text where one block holds text.

    Parameters
    ----------
    parts : sequence of ndarray
        float64 or str arrays of one dimension.

    Returns
    -------
    ndarray of shape (n_samples,)
    """
    if not parts:
        return np.zeros(0)
    if all(part.dtype.kind == "f" for part in parts):
        return np.concatenate(parts).astype(np.float64, copy=False)
    return np.concatenate([
        part if part.dtype.kind == "U" else np.array([label_text(label) for label in part], dtype=np.str_)
        for part in parts
    ])


@dataclass(frozen=True)
class LabelMapping:
    """Classes of a problem in their fixed order; class k of the network is ``classes[k]``.

    Attributes
    ----------
    classes : tuple of (int, float or str)
        Distinct, numbers ascending or texts in order of their code points.
    """

    classes: tuple[Class, ...]

    @classmethod
    def fit(cls, labels: Labels, *, name: str = "data") -> LabelMapping:
        """Collect the classes that occur.

        Parameters
        ----------
        labels : ndarray of shape (n_samples,)
            Numbers or texts.
        name : str
            File, for messages.

        Returns
        -------
        LabelMapping

        Raises
        ------
        DataError
            If there are fewer than two classes, or the labels are no column of class labels.
        """
        if labels.ndim != 1:
            raise DataError(
                f"{name}: classification needs one label for each sample, got an array of shape "
                f"{labels.shape}; "
                "use a regression loss for several targets"
            )
        return cls._checked((plain(label) for label in np.unique(labels)), name)

    @classmethod
    def union(cls, mappings: Iterable[LabelMapping], *, name: str = "data") -> LabelMapping:
        """All classes of several parts of the data, the same whatever the order of the parts.

        Parameters
        ----------
        mappings : iterable of LabelMapping
            One for each part.
        name : str
            File, for messages.

        Returns
        -------
        LabelMapping
        """
        classes = {label for mapping in mappings for label in mapping.classes}
        if any(isinstance(label, str) for label in classes):
            classes = {label_text(label) for label in classes}
        return cls._checked(sorted(classes), name)  # all numbers, or all texts

    @classmethod
    def _checked(cls, classes: Iterable[Class], name: str) -> LabelMapping:
        labels = tuple(classes)
        if len(labels) < 2:
            only = f"found only '{labels[0]}'" if labels else "found none"
            raise DataError(f"{name}: classification needs two classes, {only}")
        return cls(labels)

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    def encode(self, labels: Labels) -> NDArray[np.int64]:
        """Class indices of labels.

        Parameters
        ----------
        labels : ndarray of shape (n_samples,)
            Numbers or texts; ``1``, ``1.0`` and ``"1"`` are the same label.

        Returns
        -------
        ndarray of int64 of shape (n_samples,)
            -1 for labels that are no class.
        """
        index_of = {label_text(label): k for k, label in enumerate(self.classes)}
        distinct, position = np.unique(labels, return_inverse=True)
        indices = np.array([index_of.get(label_text(label), -1) for label in distinct], dtype=np.int64)
        return indices[position] if len(distinct) else np.zeros(0, dtype=np.int64)

    def decode(self, indices: Iterable[int]) -> list[str]:
        """Write class indices as the user's own labels.

        Parameters
        ----------
        indices : iterable of int
            Each in ``0 .. n_classes - 1``.

        Returns
        -------
        list of str
        """
        texts = [label_text(label) for label in self.classes]
        return [texts[k] for k in indices]

    def unseen(self, labels: Labels) -> dict[str, int]:
        """Labels that are no class, with their counts.

        Parameters
        ----------
        labels : ndarray of shape (n_samples,)
            Labels of other data than the classes come from.

        Returns
        -------
        dict of str to int
        """
        distinct, counts = np.unique(labels[self.encode(labels) < 0], return_counts=True)
        return {label_text(label): int(count) for label, count in zip(distinct, counts, strict=True)}

    def to_dict(self) -> dict[str, Any]:
        """Return mapping as plain values for JSON."""
        return {"classes": list(self.classes)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LabelMapping:
        """Undo :meth:`to_dict`."""
        return cls(tuple(values["classes"]))


def regression_targets(
    labels: Labels, locate: Callable[[int], str] | None = None, *, name: str = "data"
) -> NDArray[np.float64]:
    """Labels as numbers to be approximated.

    Parameters
    ----------
    labels : ndarray of shape (n_samples,) or (n_samples, n_targets)
        From :attr:`Description.labels`.
    locate : callable, optional
        :meth:`DataSource.locate`, to name the line of a label that is no number.
    name : str
        File, for messages where there is no `locate`.

    Returns
    -------
    ndarray of float64 of shape (n_samples, n_targets)

    Raises
    ------
    DataError
        If a label is no finite number.
    """
    if labels.dtype.kind in "fiu":
        targets = labels.astype(np.float64, copy=False)
        wrong = np.flatnonzero(~np.isfinite(targets).reshape(len(targets), -1).all(axis=1))
    else:
        wrong = np.array([i for i, label in enumerate(labels.tolist()) if not _is_number(label)], dtype=np.int64)
        if not wrong.size:
            targets = labels.astype(np.float64)
    if wrong.size:
        i = int(wrong[0])
        where = locate(i) if locate else f"{name}: sample {i + 1}"
        raise DataError(
            f"{where}: label {labels[i].tolist()!r} is not a finite number, but regression needs numbers; "
            "use a classification loss for classes, or choose another label column"
        )
    return targets.reshape(len(targets), -1)


def _is_number(label: str) -> bool:
    """Return whether a text is a finite number."""
    try:
        return bool(np.isfinite(float(label)))
    except ValueError:
        return False
