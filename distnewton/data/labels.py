"""Labels of samples: class numbers for classification, targets for regression."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distnewton.errors import DataError
from distnewton.frozen import frozen

if TYPE_CHECKING:
    from distnewton.data.description import Labels

Class = int | float | str
MAX_WHOLE = 2**53
"""float64 represents every whole number up to this one."""
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_WHOLE = re.compile(r"[+-]?[0-9]+")
_KINDS = {"M": "times", "m": "durations", "c": "complex numbers", "V": "records"}
MOST_CHARACTERS = 256
"""Longest name of a class; numpy would give every label the memory of the longest one."""
TOO_LONG = f"has {{:,}} characters, but a class name has at most {MOST_CHARACTERS}; choose another label column"
MISSING = "label is missing; remove this sample or give it a label"
MISSING_VALUES = ("", "?", "NA", "N/A", "NaN", "null", "None", "-")
"""Texts that mark a missing value (case-insensitive); ``data.missing_values`` replaces them."""


def plain(label: Any) -> Class:
    """Convert a label to int if it is a whole number, else to float or str.

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
    return int(number) if number.is_integer() and abs(number) <= MAX_WHOLE else number


def label_text(label: Any) -> str:
    """Format a label as a user writes it: ``"1"`` for 1.0, ``"0.5"``, ``"cat"``.

    Parameters
    ----------
    label : int, float, str, or numpy scalar of these
        One label.

    Returns
    -------
    str
    """
    return str(plain(label))


def labels_of(values: Any, locate: Callable[[int], str]) -> Labels:
    """Convert the values of an array or a column to labels without loss.

    Parameters
    ----------
    values : ndarray of shape (n_samples,) or (n_samples, n_targets), or masked array, or array-like
        Numbers, booleans, texts, UTF-8 bytes, or objects of these types. None, NaN, NaT, ``pandas.NA``, masked
        values, and empty or blank texts are missing.
    locate : callable
        Describes a sample, given its number from 0, for error messages.

    Returns
    -------
    ndarray of shape (n_samples,) or (n_samples, n_targets)
        float64 if it represents all labels exactly; else texts. ``007``, 2^53 + 1, and ``1e3`` among whole numbers are
        texts, since no float64 is written like that. Booleans become ``True`` and ``False``.

    Raises
    ------
    DataError
        If a label is missing, or is a time, a complex number, or another object.
    """
    array = values if isinstance(values, np.ndarray) else np.asarray(values)
    hidden = np.ma.getmaskarray(array) if isinstance(array, np.ma.MaskedArray) else np.zeros(array.shape, bool)
    array = np.asarray(array)
    if array.dtype.kind in _KINDS:
        raise DataError(f"{locate(0)}: labels are {_KINDS[array.dtype.kind]}, expected numbers or texts")
    array, absent = _numbers_or_texts(array, locate)
    hidden |= absent
    if hidden.any():
        raise DataError(f"{locate(int(np.argwhere(hidden)[0, 0]))}: {MISSING}")
    exact = array.dtype.kind == "f"
    if array.dtype.kind in "iu":
        exact = array.size == 0 or (int(array.min()) >= -MAX_WHOLE and int(array.max()) <= MAX_WHOLE)
    return array.astype(np.float64) if exact else array.astype(np.str_)


def _numbers_or_texts(
    array: NDArray[Any], locate: Callable[[int], str]
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Convert labels of any kind to numbers or texts, and find the missing ones."""
    absent = np.zeros(array.shape, bool)
    if array.dtype.kind == "O":
        array, absent = _from_objects(array, locate)
    elif array.dtype.kind == "S":
        array, _ = _from_objects(array.astype(np.object_), locate)
    elif array.dtype.kind == "b":
        array = array.astype(np.str_)
    if array.dtype.kind == "f":
        absent = absent | np.isnan(array)
    elif array.dtype.kind == "U":
        check_lengths(np.char.str_len(array.ravel()).tolist(), lambda i: locate(i * len(array) // array.size))
        absent = absent | (np.char.strip(array) == "")
    return array, absent


def _from_objects(array: NDArray[Any], locate: Callable[[int], str]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Convert objects to numbers or texts, and find the missing ones."""
    flat = array.ravel().tolist()
    absent = np.array([_is_missing(label) for label in flat], np.bool_)
    n_columns = max(1, array.size // max(1, len(array)))
    there = [(i, label) for i, label in enumerate(flat) if not absent[i]]
    for i, label in there:
        _check_kind(label, locate, i // n_columns)
    if all(_is_exact(label) for _, label in there):
        numbers = np.full(len(flat), np.nan)
        numbers[~absent] = [float(label) for _, label in there]
        return numbers.reshape(array.shape), absent.reshape(array.shape)
    texts = ["" if gone else _as_text(label, locate, i // n_columns) for i, (label, gone) in enumerate(
        zip(flat, absent, strict=True)
    )]  # fmt: skip
    check_lengths(map(len, texts), lambda i: locate(i // n_columns))
    return np.array(texts, np.str_).reshape(array.shape), absent.reshape(array.shape)


def _check_kind(label: Any, locate: Callable[[int], str], i_sample: int) -> None:
    """Refuse an object that is neither a number nor a text."""
    if not isinstance(label, str | bytes | int | float | np.integer | np.floating | np.bool_):
        what = type(label).__name__
        raise DataError(f"{locate(i_sample)}: label is a {what}, expected a number or a text")


def _is_exact(label: Any) -> bool:
    """Whether an object is a number that float64 represents exactly; booleans are texts."""
    if isinstance(label, str | bytes | bool | np.bool_):
        return False
    return isinstance(label, float | np.floating) or abs(int(label)) <= MAX_WHOLE


def check_lengths(lengths: Iterable[int], locate: Callable[[int], str]) -> None:
    """Refuse a text too long for a class name, given the lengths of all texts in characters."""
    for i, length in enumerate(lengths):
        if length > MOST_CHARACTERS:
            raise DataError(f"{locate(i)}: label {TOO_LONG.format(length)}")


def _is_missing(label: Any) -> bool:
    """Whether an object is a missing label; only NaN and NaT differ from themselves."""
    if label is None or label is np.ma.masked or type(label).__name__ == "NAType":
        return True
    return bool(label != label)


def _as_text(label: Any, locate: Callable[[int], str], i_sample: int) -> str:
    """Convert one label to text."""
    if isinstance(label, bytes):
        try:
            return label.decode("utf-8")
        except UnicodeDecodeError:
            raise DataError(f"{locate(i_sample)}: label {label!r} is not UTF-8 text") from None
    return label_text(label) if isinstance(label, float | np.floating) else str(label)


def labels_of_texts(texts: NDArray[np.str_]) -> Labels:
    """Convert a text column to labels: to numbers if every text is written as its number would be.

    Parameters
    ----------
    texts : ndarray of str of shape (n_samples,)
        Texts as in the file, none missing.

    Returns
    -------
    ndarray of shape (n_samples,)
        float64 or str, by the rule of :func:`labels_of`. ``+1`` and ``1.0`` are the number 1.
    """
    return texts.astype(np.float64) if are_numbers(np.unique(texts).tolist()) else texts


def are_numbers(texts: Iterable[str]) -> bool:
    """Whether labels can become numbers that are written the same way.

    Parameters
    ----------
    texts : iterable of str
        Distinct labels.

    Returns
    -------
    bool
        False if a label is not a finite number, has leading zeros (``007``), is a whole number beyond 2^53, or is a
        whole number with an exponent (``1e3``) in a column without fractions.
    """
    exponents = fractions = False
    for text in texts:
        if not _NUMBER.fullmatch(text):
            return False
        digits = text.lstrip("+-")
        value = float(text)
        if abs(value) == float("inf") or (digits[0] == "0" and digits[1:2].isdigit()):
            return False
        if _WHOLE.fullmatch(text) and abs(int(text)) > MAX_WHOLE:
            return False
        fractions |= not value.is_integer()
        exponents |= "e" in text.lower() and value.is_integer()
    return fractions or not exponents


def join_labels(parts: Sequence[Labels]) -> Labels:
    """Join the labels of several blocks of a file; all become text if one block holds text.

    Parameters
    ----------
    parts : sequence of ndarray
        One-dimensional float64 or str arrays.

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


@frozen
class LabelMapping:
    """Classes of a problem in their fixed order; class k of the network is ``classes[k]``.

    Attributes
    ----------
    classes : tuple of (int, float or str)
        Distinct labels: ascending numbers, or texts sorted by code points.
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
            If there are fewer than two classes, or the labels are not one column of class labels.
        """
        if labels.ndim != 1:
            raise DataError(
                f"{name}: classification needs one label for each sample, got an array of shape "
                f"{labels.shape}; "
                "use a regression loss for several targets"
            )
        # np.unique without further outputs first imports numpy's masked arrays, which takes longer
        distinct, _ = np.unique(labels, return_counts=True)
        return cls._checked((plain(label) for label in distinct), name)

    @classmethod
    def union(cls, mappings: Iterable[LabelMapping], *, name: str = "data") -> LabelMapping:
        """Unite the classes of several parts of the data; the order of the parts does not matter.

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
        """Convert labels to class indices.

        Parameters
        ----------
        labels : ndarray of shape (n_samples,)
            Numbers or texts; ``1``, ``1.0`` and ``"1"`` are the same label.

        Returns
        -------
        ndarray of int64 of shape (n_samples,)
            -1 for labels that are not a class.
        """
        index_of = {label_text(label): k for k, label in enumerate(self.classes)}
        distinct, position = np.unique(labels, return_inverse=True)
        indices = np.array([index_of.get(label_text(label), -1) for label in distinct], dtype=np.int64)
        return indices[position] if len(distinct) else np.zeros(0, dtype=np.int64)

    def decode(self, indices: Iterable[int]) -> list[str]:
        """Convert class indices to the user's labels.

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
        """Count the labels that are not a class.

        Parameters
        ----------
        labels : ndarray of shape (n_samples,)
            Labels of data other than those that defined the classes.

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
    labels: Labels, locate: Callable[[int], str] = lambda i: f"sample {i + 1}"
) -> NDArray[np.float64]:
    """Convert labels to regression targets.

    Parameters
    ----------
    labels : ndarray of shape (n_samples,) or (n_samples, n_targets)
        From :attr:`Description.labels`.
    locate : callable
        :meth:`DataSource.locate`, to name the line of a label that is not a number.

    Returns
    -------
    ndarray of float64 of shape (n_samples, n_targets)

    Raises
    ------
    DataError
        If a label is not a finite number.
    """
    numbers = labels if labels.dtype.kind in "fiu" else np.array([_number(label) for label in labels.ravel().tolist()])
    targets = numbers.astype(np.float64, copy=False).reshape(len(labels), -1)
    wrong = np.flatnonzero(~np.isfinite(targets).all(axis=1))
    if wrong.size:
        i = int(wrong[0])
        raise DataError(
            f"{locate(i)}: label {labels[i].tolist()!r} is not a finite number, but regression needs numbers; "
            "use a classification loss for classes, or choose another label column"
        )
    return targets


def _number(label: Any) -> float:
    """Return the number that a text is; NaN for other texts."""
    try:
        return float(label)
    except ValueError:
        return math.nan
