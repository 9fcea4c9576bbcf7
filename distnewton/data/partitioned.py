"""A data set over the ranks of a grid: described by one rank, read by each in its own columns."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from distnewton.backend import Array
from distnewton.data.columns import ColumnNames
from distnewton.data.description import DataSource, Description
from distnewton.data.labels import LabelMapping, regression_targets
from distnewton.data.row_selection import Chosen
from distnewton.data.scaling import (
    SCALINGS,
    ColumnScaling,
    ColumnStatistics,
    fit_scaling,
    row_factors,
    row_square_sums,
    scale_rows,
    value_range,
)
from distnewton.errors import DataError, MissingInputError, NumericalError
from distnewton.parallel.collectives import Communicator
from distnewton.parallel.grid import ProcessGrid

_ROWS_AT_ONCE = 4096
FEWEST_NUMBERS = 10
"""Labels of at most so many different numbers are taken for classes, even where they have fractions."""
DENSE_FROM = 0.25
"""Share of stored values from which sparse text is kept as a dense array: it is then smaller and far faster."""


def open_and_describe(comm: Communicator, open_source: Callable[[], DataSource]) -> tuple[DataSource, Description]:
    """Open a data set on every rank, check it on one, tell all what it is.

    Parameters
    ----------
    comm : Communicator
        All ranks.
    open_source : callable
        Opens the data; may fail on some ranks only.

    Returns
    -------
    tuple of DataSource and Description

    Raises
    ------
    DistNewtonError
        On every rank alike, whoever found the fault.

    Notes
    -----
    Collective.
    """
    with comm.collective_errors():
        source = open_source()
    description: Description | None = None
    with comm.collective_errors():
        description = source.describe() if comm.rank == 0 else None
    labels = comm.broadcast_array(None if description is None else description.labels)
    weighted = comm.broadcast_json(description is not None and description.weights is not None)
    weights = comm.broadcast_array(None if description is None else description.weights) if weighted else None
    head = None
    if description is not None:
        names = None if description.names is None else description.names.to_json()
        head = {**vars(description), "labels": None, "weights": None, "names": names}
    found = Description(**{**comm.broadcast_json(head), "labels": labels, "weights": weights})
    found.names = ColumnNames.from_json(found.names)
    if found.image_shape is not None:  # JSON has lists alone
        channels, height, width = found.image_shape
        found.image_shape = (channels, height, width)
    return source, found


def keep_dense(description: Description) -> bool:
    """Whether features are held as a dense array."""
    n_values = description.n_samples * description.n_features
    return not description.sparse_format or description.n_nonzeros >= DENSE_FROM * n_values


def read_features(
    grid: ProcessGrid, source: DataSource, n_samples: int, dtype: Any, rows: Chosen | None = None, *, dense: bool
) -> Any:
    """This rank's columns of samples; none on ranks without a block in layer 1.

    Parameters
    ----------
    grid : ProcessGrid
        Who owns which features.
    source : DataSource
        The data.
    n_samples : int
        As described.
    dtype : dtype
        float32 or float64.
    rows : Array of int or None
        Ascending numbers of the samples wanted; all by default.
    dense : bool
        Whether sparse formats become dense arrays.

    Returns
    -------
    Array or csr_array of shape (n_samples, n_features_local), or (len(rows), n_features_local)

    Notes
    -----
    Collective in its agreement on errors.
    """
    start, stop = grid.feature_range()
    n = n_samples if rows is None else len(rows)
    X: Any = np.zeros((n, 0), dtype)
    with grid.world.collective_errors():
        try:
            # what overflows here is found by check_range
            with grid.ledger.phase("data"), np.errstate(over="ignore"):
                if stop > start:
                    # a source of someone's own that knows no choice of samples serves where all are wanted
                    X = source.read(start, stop, dtype) if rows is None else source.read(start, stop, dtype, rows)
                X = X if isinstance(X, np.ndarray) or not dense else X.toarray()
        except OSError as error:
            where = f" on {platform.node()}" if grid.world.size > 1 else ""
            raise MissingInputError(f"{source.name}: cannot be read{where} ({error.strerror or error})") from None
        if X.shape[0] != n:
            raise DataError(f"{source.name} changed while it was read: {X.shape[0]} samples, then {n}")
    return X


def apply_scaling(grid: ProcessGrid, scaling: ColumnScaling, X: Any) -> None:
    """Scale this rank's columns in place (collective where rows are scaled: one sum of a number a sample)."""
    with grid.world.collective_errors():
        scaling.apply(X)
    if scaling.rule.scales_rows:
        # each feature group counts once, however many ranks hold it
        sums = row_square_sums(X) if grid.first_of_feature_group() else np.zeros(X.shape[0])
        scale_rows(X, row_factors(grid.sum_all(sums)))


def fit_and_apply(grid: ProcessGrid, kind: str, X: Any) -> ColumnScaling:
    """Fit a scaling to this rank's columns and apply it in place (collective)."""
    scaling = fit_scaling("none", X)
    # extremes by stacking, not by MPI's MIN and MAX, which would drop a NaN
    ranges = grid.world.allgather(np.array(value_range(X)))
    joint = float(ranges[:, 0].min()), float(ranges[:, 1].max())
    rule = SCALINGS.find(kind)
    statistics = ColumnStatistics(X, rule.n_moments, grid.stack_replicas) if rule.fits(X) else None
    with grid.world.collective_errors():
        scaling = fit_scaling(kind, X, joint, statistics)
    # products that overflow are found by the check
    with np.errstate(over="ignore", invalid="ignore"):
        apply_scaling(grid, scaling, X)
    check_range(grid, X)
    return scaling


def check_range(grid: ProcessGrid, X: Any) -> None:
    """Refuse features whose squares are beyond their dtype, or that are not finite (collective).

    Parameters
    ----------
    grid : ProcessGrid
        Who owns which features.
    X : Array or csr_array of shape (n_samples, n_features_local)
        This rank's columns, scaled.

    Raises
    ------
    NumericalError
        On every rank alike, with the lowest of such features, its value and rank, and the range of the others.
    """
    wrong, low, high = _first_beyond(X, float(np.sqrt(np.finfo(X.dtype).max)))
    place = None if wrong is None else (grid.feature_range()[0] + wrong[0], wrong[1])
    if not grid.world.any(place is not None):
        return
    views = grid.world.allgather_json([place, min(low, 1e308), max(high, -1e308)])
    (feature, value), rank = min((view[0], rank) for rank, view in enumerate(views) if view[0] is not None)
    _, low, high = views[rank]
    others = f"; its other values are from {low:.3g} to {high:.3g}" if low <= high else ""
    raise NumericalError(
        f"feature {feature} (from 0, on rank {rank}) is {value:.3g}, which overflows in layer 1{others}: scale the "
        "data ([data] scale = standard), repair it, or use float64 ([run] dtype)",
        collective=True,
    )


def _first_beyond(X: Any, limit: float) -> tuple[tuple[int, float] | None, float, float]:
    """Own column and value of the first number beyond a limit or not finite, and the range of all others."""
    beyond: tuple[int, float] | None = None
    low, high = np.inf, -np.inf
    numbers, step = (X, _ROWS_AT_ONCE) if isinstance(X, np.ndarray) else (X.data, _ROWS_AT_ONCE * 64)
    for start in range(0, len(numbers) if numbers.size else 0, step):
        part = numbers[start : start + step]
        fine = np.abs(part) <= limit  # false for NaN
        if not fine.all():
            i = int(np.argmin(fine))
            column = i % part.shape[1] if part.ndim == 2 else int(X.indices[start + i])
            beyond = beyond or (column, float(part.flat[i]))
            part = part[fine]
        low, high = min(low, float(part.min(initial=np.inf))), max(high, float(part.max(initial=-np.inf)))
    return beyond, low, high


def gather_scaling(grid: ProcessGrid, scaling: ColumnScaling) -> ColumnScaling:
    """The scaling of all features, on every rank (collective: one sum of 2 n_features numbers)."""
    whole = np.zeros((2, grid.partition.n_features))
    if grid.first_of_feature_group():
        whole[:, slice(*grid.feature_range())] = scaling.offset, scaling.factor
    grid.sum_all(whole)
    return ColumnScaling(scaling.kind, *whole)


@dataclass(frozen=True)
class Task:
    """What the labels mean to the network.

    Attributes
    ----------
    name : str
        ``classification``, ``binary`` or ``regression``.
    classes : LabelMapping or None
        The user's labels; None for regression.
    n_out : int
        Outputs the network needs.
    """

    name: str
    classes: LabelMapping | None
    n_out: int

    @classmethod
    def fit(cls, name: str, description: Description, source: DataSource) -> Task:
        """Read the task off the training labels.

        Parameters
        ----------
        name : str
            ``classification``, ``binary`` or ``regression``.
        description : Description
            Of the training data.
        source : DataSource
            Locates samples for messages.

        Returns
        -------
        Task

        Raises
        ------
        DataError
            If the labels do not suit the task.
        """
        if name == "regression":
            return cls(name, None, regression_targets(description.labels, source.locate, name=source.name).shape[1])
        labels = description.labels
        if labels.dtype.kind == "f" and not np.isfinite(labels).all():
            i_sample = int(np.argwhere(~np.isfinite(labels))[0][0])
            raise DataError(f"{source.locate(i_sample)}: a label is NaN or infinite, which is no class")
        classes = LabelMapping.fit(labels, name=source.name)
        _refuse_numbers(classes, len(labels), source.name)
        if name == "binary" and classes.n_classes != 2:
            raise DataError(
                f"{source.name}: the logistic loss separates two classes, found {classes.n_classes}; "
                "use network.loss = cross_entropy"
            )
        return cls(name, classes, 1 if name == "binary" else classes.n_classes)

    def targets(self, description: Description, source: DataSource) -> Array:
        """Targets of a data set's samples in the form the loss takes.

        Parameters
        ----------
        description : Description
            Of the data set.
        source : DataSource
            Locates samples for messages.

        Returns
        -------
        Array
            Class indices (-1 where unknown), 0.0 and 1.0 (-1.0 where unknown), or numbers (n_samples, n_out).
        """
        if self.classes is None:
            targets = regression_targets(description.labels, source.locate, name=source.name)
            if targets.shape[1] != self.n_out:
                raise DataError(
                    f"{source.name}: {targets.shape[1]} targets a sample, the model has {self.n_out} outputs"
                )
            return targets
        indices = self.classes.encode(description.labels)
        return indices if self.name == "classification" else indices.astype(np.float64)

    def labels(self, outputs: Array) -> list[str]:
        """The user's own labels, or numbers, that outputs of the network predict.

        Parameters
        ----------
        outputs : Array of shape (n, n_out)
            Outputs of the network.

        Returns
        -------
        list of str
            A line a sample; several regression targets are separated by a blank.
        """
        if self.classes is None:
            return [" ".join(f"{value:.9g}" for value in row) for row in outputs]
        indices = outputs.argmax(axis=1) if self.name == "classification" else (outputs[:, 0] > 0).astype(np.int64)
        return self.classes.decode(indices)


def _refuse_numbers(classes: LabelMapping, n_samples: int, name: str) -> None:
    """Refuse labels that are measurements rather than classes."""
    n, has_fractions = classes.n_classes, any(isinstance(label, float) for label in classes.classes)
    if has_fractions and n > FEWEST_NUMBERS and n > n_samples / 4:
        raise DataError(
            f"{name}: {n} different numbers with fractions are the labels of {n_samples} samples: to approximate "
            "numbers set network.loss = squared, or choose another label column"
        )
