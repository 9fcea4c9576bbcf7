"""The training data of a rank: its scaled columns of its samples, and the objective on them."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnewton.backend import Array
from distnewton.config import Config, MethodConfig
from distnewton.data.columns import matching_inputs
from distnewton.data.rows import keep_by_columns
from distnewton.data.scaling import ColumnScaling
from distnewton.directions.options import FullBatchOptions
from distnewton.errors import ConfigError, DataError
from distnewton.frozen import frozen
from distnewton.method.objective import Objective
from distnewton.models.warm_start import Start
from distnewton.network.active import active_network
from distnewton.network.losses import LOSSES
from distnewton.network.network import PartitionedNetwork
from distnewton.network.weighted import normalised, plain_targets, targets_on, weighted, with_weights
from distnewton.physics.residuals import ResidualLoss
from distnewton.runs.data_sets import DataSets
from distnewton.runs.features import read_features
from distnewton.runs.placement import Placement

_CACHED = 1 << 18
"""Number of first-layer weights that fit in the caches; products with sparse features are then fast by rows alone."""


@frozen
class TrainingData:
    """The objective that a run minimises, with its data.

    Attributes
    ----------
    objective : Objective
        Loss on this replica's samples, and regularisation.
    scaling : ColumnScaling
        Scaling of this rank's features.
    targets : Array
        Targets of the samples of all replicas, as the network learns them, in the order of the run, without weights.
    fingerprint : str
        Hash of the data that was read, the same on any grid (:mod:`distnewton.data.fingerprint`).
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
        Configuration of the run.
    data : DataSets
        The data sets of the run.
    placement : Placement
        Decides which part this rank holds.
    start : Start or None
        Model whose scaling is used; by default a scaling is fitted.

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
    backend = network.backend
    generator = np.random.Generator(np.random.Philox(key=config.run.seed, counter=[0, 2, 0, 0]))
    order = generator.permutation(train.n_samples)[: data.n_train]
    X, scaling, known = read_features(config.data.scale, data, placement, start, order[share.own])
    targets = data.task.to_network(data.task.targets(train, data.source))
    if targets.dtype.kind != "i":  # class indices stay integers
        targets = np.asarray(targets, backend.dtype)
    targets, n_counted = normalised(with_weights(targets, train.weights)[order])
    if not n_counted > 0:
        raise DataError(f"{train.name}: the weights of all {len(targets)} samples are 0", collective=True)
    loss = weighted(LOSSES[config.network.loss], targets)
    if not (placement.architecture.dense or train.packed):
        network, X = _of_sparse(config.method, network, X, start)
    X = backend.features(network.arrange(X))
    if data.residuals is not None:
        loss, targets, network = data.residuals, order, network.with_jet(data.residuals.jet)
        X = data.residuals.jet.seed(X, placement.grid.feature_range()[0])
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


def _of_sparse(
    method: MethodConfig, network: PartitionedNetwork, X: Any, start: Start | None
) -> tuple[PartitionedNetwork, Any]:
    """Leave out sparse features that no sample has; return the network on the others, and these."""
    network = active_network(network, X, None if start is None else start.params(network))
    X = network.choose(X)
    n_numbers = X.shape[1] * network.shape.layers[0].n_out
    if method.has(FullBatchOptions) and method.subsample == 1.0 and X.shape[0] < X.shape[1] and n_numbers > _CACHED:
        keep_by_columns(X)
    return network, X


def penalised_variables(network: PartitionedNetwork, free: NDArray[np.intp]) -> Array | None:
    """Mark the variables of this rank that are regularised: 1, but 0 for first-layer weights of some features.

    Parameters
    ----------
    network : PartitionedNetwork
        Network on the features of a table.
    free : ndarray of int
        Numbers of the features whose weights are not regularised, ascending.

    Returns
    -------
    Array of shape (n_params_local,), or None
        None if all variables are regularised.
    """
    if not free.size:
        return None
    if network.shape.image_shape is not None:
        raise ConfigError("data.unpenalised is for tables: a layer on images shares its weights", collective=True)
    mask = np.ones(network.layout.n_params)
    if 1 in network.grid.blocks:
        network.layout.views(mask)[1].W[np.isin(network.input_rows(1), free)] = 0
    return network.backend.asarray(mask)


def _renew(residuals: ResidualLoss, objective: Objective, iteration: int) -> bool:
    """Draw new points, in place, where an iteration begins a round; tell whether it does."""
    if not residuals.renew(iteration):
        return False
    first, last = objective.network.grid.feature_range()
    values = objective.X.reshape(len(objective.X), residuals.jet.size, last - first)[:, 0]
    values[...] = residuals.points[objective.targets, first:last]
    return True
