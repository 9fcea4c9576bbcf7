"""Arrays that are already in memory, as a data source for the Python interface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from distnewton.data.columns import ColumnNames, LabelsWanted, Wanted, names_from_frame
from distnewton.data.description import Description
from distnewton.data.formats.tables import FrameSource, encode_frame, is_frame
from distnewton.data.labels import labels_of
from distnewton.data.row_selection import RowSelection
from distnewton.data.source import Source
from distnewton.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from distnewton.data.description import Features


class ArraySource(Source):
    """Features and labels that the caller holds.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features), or scipy sparse array
        Finite numbers; images as (n_samples, height, width) or (n_samples, channels, height, width). Under MPI every
        rank passes the same whole array and copies its own columns. Column names of a DataFrame go into the model.
    y : array-like of shape (n_samples,) or (n_samples, n_targets), or None
        Numbers or texts, see :func:`~distnewton.data.labels.labels_of`; None for data without labels.
    sample_weight : array-like of shape (n_samples,) or None
        Weight of each sample in training: the loss is sum w_i loss_i / sum w_i, and a regularisation that is a multiple
        of l counts sum w_i samples, so a sample of weight 2 equals two copies of it. Metrics count each sample once.
    name : str
        Name for messages.
    columns : ColumnNames or None
        Names of the features and the labels; by default those of X and y themselves.
    classes : array-like of shape (n_classes,) or None
        All possible labels, if some may not occur in y; by default those in y.
    notes : sequence of str
        Notices to show the user.

    Raises
    ------
    DataError
        If shapes do not match, a value is not finite, a label is missing or of an unsupported kind, a weight is
        negative, or all weights are 0.
    """

    def __init__(
        self, X: Any, y: Any = None, *, sample_weight: Any = None, name: str = "data",
        columns: ColumnNames | None = None, classes: Any = None, notes: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.name, self._notes = name, notes
        self._names = columns or names_from_frame(getattr(X, "columns", ()), getattr(y, "name", None))
        self._sparse = hasattr(X, "tocsr")
        self._X, self._image_shape = _as_table(_summed(X.tocsr()) if self._sparse else _numbers(X, name))
        self._labelled = y is not None
        self._y = _alone(labels_of(y, self.locate)) if self._labelled else np.full(self._X.shape[0], np.nan)
        if self._X.ndim != 2 or self._y.ndim not in (1, 2) or len(self._y) != self._X.shape[0]:
            raise DataError(
                f"{name}: expected X of shape (n_samples, n_features), or images, and as many labels, "
                f"got shapes {self._X.shape} and {self._y.shape}"
            )
        if self._X.dtype.kind not in "biuf":
            raise DataError(f"{name}: X must hold real numbers, got an array of {self._X.dtype}")
        self._classes = None if classes is None else labels_of(classes, lambda i: f"{name}: class {i}").tolist()
        self._weights = None if sample_weight is None else self._checked_weights(sample_weight)

    def _n_readable(self) -> int:
        return int(self._X.shape[1])

    def _checked_weights(self, sample_weight: Any) -> NDArray[np.float64]:
        """Weights as numbers, one for each sample."""
        weights = np.array(sample_weight, dtype=np.float64)
        if weights.shape != self._y.shape[:1]:
            raise DataError(
                f"{self.name}: expected a sample_weight for each of {len(self._y)} samples, got shape {weights.shape}"
            )
        wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
        if wrong.size:
            raise DataError(
                f"{self.locate(int(wrong[0]))}: sample_weight is {weights[wrong[0]]}; weights are finite and at least 0"
            )
        if not 0 < weights.sum() < np.inf:
            raise DataError(f"{self.name}: the sum of sample_weight is {weights.sum()}; it must be positive and finite")
        return weights

    def describe(self) -> Description:
        """Describe size and labels; refuses numbers that are not finite."""
        values = self._X.data if self._sparse else self._X
        if not np.isfinite(values).all():
            raise DataError(f"{self.name}: X holds NaN or infinite values; remove or impute them")
        n_samples, n_features = self._X.shape
        if n_samples == 0 or n_features == 0:
            raise DataError(f"{self.name}: no samples or no features, got shape {self._X.shape}")
        n_nonzeros = int(self._X.nnz if self._sparse else np.count_nonzero(self._X))
        return Description(
            self.name, "memory", n_samples, n_features, n_nonzeros, self._sparse, self._y, notes=list(self._notes),
            image_shape=self._image_shape, weights=self._weights, names=self._names, labelled=self._labelled,
            classes=self._classes,
        )  # fmt: skip

    def _read(self, start: int, stop: int, dtype: np.dtype[Any], wanted: RowSelection) -> Features:
        """Copy a range of features."""
        columns = wanted.apply(self._X)[:, start:stop]
        if self._sparse:
            from scipy.sparse import csr_array

            return csr_array(columns, dtype=dtype, copy=True)
        return np.array(columns, dtype=dtype, order="C")

    def locate(self, i_sample: int) -> str:
        """Name a sample in a message."""
        return f"{self.name}: sample {i_sample}"


def as_source(
    data: Any, names: ColumnNames | None = None, *, labels: LabelsWanted = "if_there", wanted: Wanted | None = None
) -> Any:
    """Wrap data in any common Python form as a source.

    Parameters
    ----------
    data : DataSource, tuple of X and y, array, frame or sparse array
        Arrays as for :class:`ArraySource`, alone or with labels. Missing values and texts of a frame (pandas, polars,
        pyarrow) are encoded like those of a file; a frame for training without y holds its labels in a column.
    names : ColumnNames or None
        Names of the features in the wanted order, by which a frame's columns are selected, and their encoding.
    labels : {"required", "if_there", "none"}
        Whether a frame without y must, may or should not supply labels.
    wanted : Wanted or None
        Column of a frame that holds the labels, and the encoding of the others.

    Returns
    -------
    DataSource

    Raises
    ------
    DataError
        If a frame lacks a column.
    """
    if hasattr(data, "locate"):
        return data
    X, y = data if isinstance(data, tuple) and len(data) == 2 else (data, None)
    if is_frame(X) and (source := _of_frame(X, y, replace(wanted or Wanted(), names=names, labels=labels))) is not None:
        return source
    return ArraySource(X if names is None else _chosen_columns(X, names.features), y)


def _of_frame(X: Any, y: Any, wanted: Wanted) -> FrameSource | ArraySource | None:
    """Source of a frame whose missing values and texts are encoded; None if there is nothing to encode."""
    names = wanted.names
    encoded = names is not None and names.encoding is not None
    if y is None and (encoded or wanted.labels == "required"):
        return FrameSource(X, wanted)
    if (names is None or encoded) and (found := encode_frame(X, getattr(y, "name", None), wanted)):
        return ArraySource(found[0], y, columns=found[1], notes=found[2])
    return None


def _chosen_columns(X: Any, features: Sequence[str]) -> Any:
    """Select columns of a frame by name; data without column names is returned as it is."""
    if not all(isinstance(column, str) for column in getattr(X, "columns", [0])):
        return X
    if missing := [name for name in features if name not in X.columns]:
        raise DataError(f"the data has no column {missing[0]!r}, which the model was trained on")
    return X[list(features)]


def _alone(labels: NDArray[Any]) -> NDArray[Any]:
    """Labels of shape (n_samples, 1) without the second axis, as files give them."""
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


def _numbers(X: Any, name: str) -> NDArray[Any]:
    """Features as an array of numbers; a frame with nullable or mixed types becomes float64."""
    if np.ma.is_masked(X):
        raise DataError(f"{name}: X hides values behind a mask; fill them in: X.filled(0.0)")
    try:
        array = np.asarray(X)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{name}: X cannot become an array ({error}); give (X, y), or ArraySource(X, y, sample_weight=weights)"
        ) from None
    if not array.ndim:
        raise DataError(f"{name}: expected an array or a table, got a {type(X).__name__}")
    if array.dtype.kind != "O":
        return array
    columns = getattr(X, "columns", None)
    parts = [array] if columns is None or array.ndim != 2 else list(array.T)
    for number, part in enumerate(parts):
        try:
            part.astype(np.float64)
        except (TypeError, ValueError) as error:
            column = "X" if columns is None else f"column {list(columns)[number]!r}"
            raise DataError(
                f"{name}: {column} must hold real numbers, got objects ({error}); fill what is missing, encode what is "
                "text, and convert the rest with dtype=float"
            ) from None
    return array.astype(np.float64)


def _summed(X: Any) -> Any:
    """CSR matrix with one value for each position; entries of the same position are summed, in a copy."""
    if X.has_canonical_format:
        return X
    X = X.copy()
    X.sum_duplicates()
    return X


def _as_table(X: Any) -> tuple[Any, tuple[int, int, int] | None]:
    """Features as a table, and (channels, height, width) if X holds images."""
    if X.ndim not in (3, 4):
        return X, None
    channels, height, width = X.shape[1:] if X.ndim == 4 else (1, *X.shape[1:])
    return X.reshape(len(X), channels * height * width), (channels, height, width)
