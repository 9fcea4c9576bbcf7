"""The training features of a rank: its columns of its samples, scaled and in the order of the run."""

from __future__ import annotations

from typing import Any

import numpy as np

from distnewton.config.method import AUTO
from distnewton.data.fingerprint import combined, fingerprint
from distnewton.data.row_selection import Chosen
from distnewton.data.rows import permute_rows
from distnewton.data.scaled import FeatureReader, apply_scaling, check_range, fit_and_apply, suitable_scaling
from distnewton.data.scaling import ColumnScaling
from distnewton.data.source import Source
from distnewton.models.warm_start import Start
from distnewton.parallel.grid import ProcessGrid
from distnewton.runs.data_sets import DataSets
from distnewton.runs.placement import Placement


def read_features(
    kind: str, data: DataSets, placement: Placement, start: Start | None, rows: Chosen
) -> tuple[Any, ColumnScaling, str]:
    """Read this rank's columns of some samples.

    Parameters
    ----------
    kind : str
        Scaling to fit, or ``auto``.
    data : DataSets
        The data sets of the run.
    placement : Placement
        Decides which columns this rank holds.
    start : Start or None
        Model whose scaling is used instead of a fitted one.
    rows : Array of int
        Numbers of the samples, in the order of the result.

    Returns
    -------
    Array or csr_array of shape (len(rows), n_features_local)
        Scaled features.
    ColumnScaling
        Scaling of this rank's features.
    str
        Hash of the data that was read, the same on any grid.

    Raises
    ------
    DataError
        If the data is at fault.
    NumericalError
        If a scaled feature overflows.

    Notes
    -----
    Collective over the grid.
    """
    grid, train = placement.grid, data.train
    # files are read in ascending order; where all rows are wanted, the reader need not select them
    wanted = None if len(rows) == train.n_samples else np.sort(rows)
    dtype, dense = placement.network.backend.dtype, placement.architecture.dense
    reader = FeatureReader(grid, data.source, train.n_samples, dtype, wanted, dense=dense, packed=train.packed)
    X = reader.read()
    known = _fingerprint(grid, X, wanted, data)
    scaling = _scale(grid, kind, start, X, reader)
    # this copies the data, so some ranks may run out of memory here
    with grid.world.collective_errors(), grid.ledger.phase("allocate"):
        X = permute_rows(X, rows if wanted is None else np.searchsorted(wanted, rows))
    return X, scaling, known


def _fingerprint(grid: ProcessGrid, X: Any, rows: Chosen | None, data: DataSets) -> str:
    """Hash the values as they were read, the labels and the weights (collective)."""
    source, train = data.source, data.train
    with grid.ledger.phase("data"):
        values = None
        if isinstance(source, Source) and data.n_train == train.n_samples:
            # hashing the values would take longer than reading the store, whose checksums have been compared
            values = source.stored_fingerprint(X.dtype)
        if values is None:
            own = fingerprint(X, rows, grid.feature_range()[0]) if grid.first_of_feature_group() else 0
            values = sum(grid.world.allgather_json(own))
        return combined(values, train.labels, train.weights)


def _scale(grid: ProcessGrid, kind: str, start: Start | None, X: Any, reader: FeatureReader) -> ColumnScaling:
    """Scale features in place, by a scaling fitted to them or by that of the model from which the run starts."""
    if start is None:
        return fit_and_apply(grid, suitable_scaling(grid, X, reader) if kind == AUTO else kind, X, reader)
    scaling = start.scaling.columns(*grid.feature_range())
    apply_scaling(grid, scaling, X, reader)
    check_range(grid, X)
    return scaling
