"""Training data as a rank holds it: its columns of its samples, scaled, with the objective on them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnewton.backend import Array
from distnewton.config import Config
from distnewton.config.method import AUTO
from distnewton.data.columns import matching_inputs
from distnewton.data.fingerprint import combined, fingerprint
from distnewton.data.row_selection import Chosen
from distnewton.data.rows import keep_by_columns, permute_rows
from distnewton.data.scaled import FeatureReader, apply_scaling, check_range, fit_and_apply, suitable_scaling
from distnewton.data.scaling import ColumnScaling
from distnewton.data.store.reader import StoreSource
from distnewton.directions.options import FullBatchOptions
from distnewton.errors import ConfigError, DataError
from distnewton.method.objective import Objective
from distnewton.models.warm_start import Start
from distnewton.network.active import active_network
from distnewton.network.losses import LOSSES
from distnewton.network.network import PartitionedNetwork
from distnewton.network.weighted import normalised, plain_targets, targets_on, weighted, with_weights
from distnewton.parallel.grid import ProcessGrid
from distnewton.physics.residuals import ResidualLoss
from distnewton.runs.data_sets import DataSets
from distnewton.runs.placement import Placement

_CACHED = 1 << 18
"""Numbers of a layer's weights that caches hold: products with sparse features then need no second order of these."""


@dataclass(frozen=True)
class TrainingData:
    """What a run minimises.

    Attributes
    ----------
    objective : Objective
        Loss of this replica's samples and regularisation.
    scaling : ColumnScaling
        Scaling of this rank's features.
    targets : Array
        Targets of the samples of all replicas, as the network learns them, in the order of the run, without weights.
    fingerprint : str
        Hash of what was read, the same on any grid (:mod:`distnewton.data.fingerprint`).
    """

    objective: Objective
    scaling: ColumnScaling
    targets: Array
    fingerprint: str


def read_training_data(config: Config, data: DataSets, placement: Placement, start: Start | None) -> TrainingData:
    """Read this rank's columns, scale them, and put the samples in the order of the run.

    Parameters
    ----------
    config : Config
        The run.
    data : DataSets
        What is read.
    placement : Placement
        Which part of it this rank holds.
    start : Start or None
        Model whose scaling is taken over; by default a scaling is fitted.

    Returns
    -------
    TrainingData

    Raises
    ------
    DataError
        If the data is at fault, or the weights of all samples are 0.
    NumericalError
        If a scaled feature overflows.

    Notes
    -----
    Collective over the grid.
    """
    network, share, train = placement.network, placement.share, data.train
    backend, grid = network.backend, placement.grid
    generator = np.random.Generator(np.random.Philox(key=config.run.seed, counter=[0, 2, 0, 0]))
    order = generator.permutation(train.n_samples)[: data.n_train]
    rows = order[share.own]
    # files are read in ascending order, and in full without a look at each row where all rows are wanted
    wanted = None if len(rows) == train.n_samples else np.sort(rows)
    dense = placement.architecture.dense
    reader = FeatureReader(
        grid, data.source, train.n_samples, backend.dtype, wanted, dense=dense, packed=train.packed
    )
    X = reader.read()
    known = _fingerprint(grid, X, wanted, data)
    scaling = _scale(grid, config.data.scale, start, X, reader)
    # a copy of the data: here memory may end on some ranks only
    with grid.world.collective_errors(), grid.ledger.phase("allocate"):
        X = permute_rows(X, rows if wanted is None else np.searchsorted(wanted, rows))
    targets = data.task.to_network(data.task.targets(train, data.source))
    if targets.dtype.kind != "i":  # class indices stay integers
        targets = np.asarray(targets, backend.dtype)
    targets, n_counted = normalised(with_weights(targets, train.weights)[order])
    if not n_counted > 0:
        raise DataError(f"{train.name}: the weights of all {len(targets)} samples are 0", collective=True)
    loss = weighted(LOSSES[config.network.loss], targets)
    if not (train.packed or isinstance(X, np.ndarray)):
        network = active_network(network, X, None if start is None else start.params(network))
        X = network.choose(X)
        method, n_numbers = config.method, X.shape[1] * network.shape.layers[0].n_out
        if method.has(FullBatchOptions) and method.subsample == 1.0 and X.shape[0] < X.shape[1] and n_numbers > _CACHED:
            keep_by_columns(X)
    X = backend.features(network.arrange(X))
    if data.residuals is not None:
        loss, targets, network = data.residuals, order, network.with_jet(data.residuals.jet)
        X = data.residuals.jet.seed(X, grid.feature_range()[0])
    own = targets_on(backend, targets[share.own])
    objective = Objective(
        network,
        loss,
        X,
        own,
        config.method.regularization(n_counted),
        config.run.memory_mb * 2**20,
        share,
        n_counted,
        penalised_variables(network, matching_inputs(train.names, config.data.unpenalised, train.name)),
    )
    if data.residuals is not None:
        objective.renewal = partial(_renew, data.residuals, objective)
    plain = plain_targets(own if share.whole else targets_on(backend, targets))
    return TrainingData(objective, scaling, plain, known)


def penalised_variables(network: PartitionedNetwork, free: NDArray[np.intp]) -> Array | None:
    """1 for variables of this rank that are regularised, 0 for first-layer weights of some features.

    Parameters
    ----------
    network : PartitionedNetwork
        Of a table's features.
    free : ndarray of int
        Numbers of the features whose weights are not regularised, ascending.

    Returns
    -------
    Array of shape (n_params_local,), or None where all are
    """
    if not free.size:
        return None
    if network.shape.image_shape is not None:
        raise ConfigError("data.unpenalised is of tables: the first layer here shares its weights", collective=True)
    mask = np.ones(network.layout.n_params)
    if 1 in network.grid.blocks:
        network.layout.views(mask)[1].W[np.isin(network.input_rows(1), free)] = 0
    return network.backend.asarray(mask)


def _renew(residuals: ResidualLoss, objective: Objective, iteration: int) -> bool:
    """Draw the points of an iteration anew where it begins a round, in place."""
    if not residuals.renew(iteration):
        return False
    first, last = objective.network.grid.feature_range()
    values = objective.X.reshape(len(objective.X), residuals.jet.size, last - first)[:, 0]
    values[...] = residuals.points[objective.targets, first:last]
    return True


def _fingerprint(grid: ProcessGrid, X: Any, rows: Chosen | None, data: DataSets) -> str:
    """Hash of the values as they were read, of labels and of weights (collective)."""
    source, train = data.source, data.train
    with grid.ledger.phase("data"):
        values = None
        if isinstance(source, StoreSource) and data.n_train == train.n_samples:
            # a store is read faster than its values can be hashed, and reading has compared its checksums
            values = source.fingerprint(X.dtype)
        if values is None:
            own = fingerprint(X, rows, grid.feature_range()[0]) if grid.first_of_feature_group() else 0
            values = sum(grid.world.allgather_json(own))
        return combined(values, train.labels, train.weights)


def _scale(grid: ProcessGrid, kind: str, start: Start | None, X: Any, reader: FeatureReader) -> ColumnScaling:
    """Scale features in place: by a fit to them, or as the model does from which the run starts."""
    if start is None:
        return fit_and_apply(grid, suitable_scaling(grid, X, reader) if kind == AUTO else kind, X, reader)
    scaling = start.scaling.columns(*grid.feature_range())
    apply_scaling(grid, scaling, X, reader)
    check_range(grid, X)
    return scaling
