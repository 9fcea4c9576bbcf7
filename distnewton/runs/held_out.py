"""Validation and test data: sets that a run is measured on but not trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from distnewton.backend import Array
from distnewton.data.columns import check_names
from distnewton.data.description import DataSource, Description
from distnewton.data.partitioned import open_and_describe
from distnewton.errors import DataError
from distnewton.models.model import Model, network_outputs
from distnewton.network.network import PartitionedNetwork
from distnewton.parallel.collectives import Communicator
from distnewton.parallel.replicas import SampleShare


class HeldOut:
    """A validation or test set.

    Parameters
    ----------
    which : str
        ``validation`` or ``test``.
    comm : Communicator
        All ranks.
    open_source : callable
        Opens the data.
    train : Description
        Describes the training data, whose features the set must have.

    Attributes
    ----------
    source : DataSource
        The data.
    description : Description
        Size and labels.
    X : Array or csr_array of shape (n_own, n_features_local)
        This rank's columns of its replica's samples, scaled and arranged; set by :meth:`read`.
    share : SampleShare
        Samples of this replica; set by :meth:`read`.
    targets : Array
        Targets of all samples as the network learns them; set by :meth:`read`.

    Raises
    ------
    DataError
        If the set has another number of features.

    Notes
    -----
    All methods are collective.
    """

    X: Any
    share: SampleShare
    targets: Array

    def __init__(
        self, which: str, comm: Communicator, open_source: Callable[[], DataSource], train: Description
    ) -> None:
        self.which = which
        self.source, self.description = open_and_describe(comm, open_source)
        if self.description.n_features != train.n_features:
            raise DataError(
                f"{self.description.name} has {self.description.n_features} features, {train.name} {train.n_features}",
                collective=True,
            )
        check_names(self.description.name, self.description.names, train.names)

    def read(self, model: Model) -> None:
        """Read this rank's columns, and scale them as the model does.

        Parameters
        ----------
        model : Model
            Gives the network and the scaling; its variables are not used.

        Raises
        ------
        DataError
            If the data is at fault, or validation data of a binary task has only one class.
        """
        grid, n_samples = model.grid, self.description.n_samples
        self.share = SampleShare(n_samples, grid.n_replicas, grid.replica)
        rows = None if self.share.whole else np.arange(n_samples)[self.share.own]
        self.X = model.features(self.source, self.description, rows)
        task = model.architecture.task
        targets = np.zeros(0)
        with grid.world.collective_errors():
            targets = task.to_network(task.targets(self.description, self.source))
            if self.which == "validation" and task.name == "binary" and len(np.unique(targets > 0)) < 2:
                raise DataError(f"{self.description.name} has only one class, so it has no AUC to choose the model by")
        self.targets = model.network.backend.library.to_device(targets)

    def outputs(self, network: PartitionedNetwork, params: Array, chunk_rows: int) -> Array:
        """Compute the outputs of the network on this replica's samples, in chunks.

        Parameters
        ----------
        network : PartitionedNetwork
            The network.
        params : Array of shape (n_params_local,)
            This rank's variables.
        chunk_rows : int
            Number of samples in a chunk.

        Returns
        -------
        Array of shape (n_own, n_out)
            The same on all ranks of a replica.
        """
        return network_outputs(network, params, self.X, chunk_rows)
