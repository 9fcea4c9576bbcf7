"""Data sets that a run is measured on, but does not train on: validation and test."""

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
    """A data set beside the training data.

    Parameters
    ----------
    which : str
        ``validation`` or ``test``.
    comm : Communicator
        All ranks.
    open_source : callable
        Opens the data.
    train : Description
        Of the training data, whose features it must have.

    Attributes
    ----------
    source : DataSource
        The data.
    description : Description
        Size and labels.
    X : Array or csr_array of shape (n_own, n_features_local)
        This rank's columns of its replica's samples, scaled and arranged, once :meth:`read` has been called.
    share : SampleShare
        Which samples are this replica's, from then on, too.
    targets : Array
        Of all samples, as the network learns them, likewise.

    Raises
    ------
    DataError
        If it has another number of features.

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
        """Read this rank's columns, scaled as the model's are.

        Parameters
        ----------
        model : Model
            Its variables do not matter.

        Raises
        ------
        DataError
            If it is at fault; of validation data of two classes also where one of them is missing.
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
                raise DataError(f"{self.description.name} holds one class only, of which there is no AUC to choose by")
        self.targets = model.network.backend.library.to_device(targets)

    def outputs(self, network: PartitionedNetwork, params: Array, chunk_rows: int) -> Array:
        """Outputs of the network on this replica's samples, so many at a time.

        Parameters
        ----------
        network : PartitionedNetwork
            The network.
        params : Array of shape (n_params_local,)
            This rank's variables.
        chunk_rows : int
            Samples that pass at a time.

        Returns
        -------
        Array of shape (n_own, n_out)
            The same on all ranks of a replica.
        """
        return network_outputs(network, params, self.X, chunk_rows)
