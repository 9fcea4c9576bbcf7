"""Data, network and ranks of one configuration, which several runs share."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from distnewton.backend import Array
from distnewton.config import Config
from distnewton.config.method import AUTO
from distnewton.guards.watchdog import watchdog
from distnewton.launch.startup import guard
from distnewton.launch.threads import limit_blas_threads, threads_of_rank
from distnewton.models.model import Model
from distnewton.models.warm_start import Start, StartFrom
from distnewton.parallel.collectives import Communicator
from distnewton.runs.automatic import choice_note
from distnewton.runs.consistency import check_same_config
from distnewton.runs.data_sets import DataSets
from distnewton.runs.placement import place_network
from distnewton.runs.training_data import read_training_data


class Setup:
    """The data, network and ranks of a configuration.

    Parameters
    ----------
    config : Config
        Names data, network and method.
    comm : mpi4py.MPI.Intracomm, Communicator or None
        The ranks; None is this process alone, without MPI.
    given : mapping of str to DataSource, tuple of X and y, or None
        Data in memory by the name of its set, as :func:`~distnewton.data.in_memory.as_source` takes it; for the other
        sets the configuration's files are read.
    start : Model, path or None
        Model whose scaling is used and with whose weights runs begin; by default ``config.network.start``.

    Attributes
    ----------
    config : Config
        The configuration with ``auto`` replaced by what was chosen.
    note : str
        Line on what was chosen for ``auto``, or empty.
    n_threads : int
        BLAS threads of this rank.
    start : Start or None
        The model that runs start from.
    data : DataSets
        Training and held-out data.
    placement : Placement
        Network, grid and device.
    training : TrainingData
        Objective and scaling.

    Notes
    -----
    Collective over ``comm``; a DistNewtonError where the configuration or the data is at fault.
    """

    def __init__(
        self,
        config: Config,
        comm: Any = None,
        given: Mapping[str, Any] | None = None,
        start: StartFrom | None = None,
    ) -> None:
        self.config = self._given = config
        self.comm = comm if isinstance(comm, Communicator) else Communicator(comm)
        if not isinstance(comm, Communicator):
            # called from a user's program; commands have done so already. The guard comes before the first collective,
            # to name a rank that never arrives
            guard(self.comm, config.run.hang_seconds, config.run.warn_seconds, checked="messages" in config.run.checks)
        self.n_threads = threads_of_rank(self.comm, config.run.threads)
        check_same_config(self.comm, config)
        with self.limit_threads(), watchdog.patient():
            start = start if start is not None else config.network.start or None
            self.start = None if start is None else Start(self.comm, start)
            data = {"train": None, "validation": None, "test": None, **(given or {})}
            self.data = DataSets(self.comm, config, data, self.start)
            config = self.data.config
            if self.start is not None:
                self.data.task = self.start.adopt(self.data.task)
            self.placement = place_network(self.comm, config, self.data)
            if self.start is not None:
                self.start.check(self.placement.architecture, config.data.scale)
            self.training = read_training_data(config, self.data, self.placement, self.start)
            self._scale = self.training.scaling.kind
            residual = self.data.residuals is not None
            self.note = choice_note(self.config, self._scaled(config), residual=residual)
            self.config = self._scaled(config)
            for held in self.data.held_out.values():
                held.read(self.model(self.placement.network.backend.zeros(0)))
            self.data.forget()

    @property
    def chooses(self) -> bool:
        """Whether ``method.direction = auto`` chose the settings of data and network."""
        return self._given.method.direction == AUTO

    def settle(self, config: Config) -> Config:
        """Replace ``auto`` in the configuration of a run with these data and this network."""
        if (config.data, config.network) == (self._given.data, self._given.network):
            config = config.model_copy(update={"data": self.config.data, "network": self.config.network})
        return self._scaled(self.data.settle(config))

    def _scaled(self, config: Config) -> Config:
        scale = self._scale if config.data.scale == AUTO else config.data.scale
        return config.model_copy(update={"data": config.data.model_copy(update={"scale": scale})})

    def limit_threads(self) -> AbstractContextManager[Any]:
        """Return a context in which the BLAS threads of this rank are limited."""
        return limit_blas_threads(self.n_threads)

    def model(self, params: Array) -> Model:
        """Make a model of the network, given variables, and the scaling of the training data.

        Parameters
        ----------
        params : Array of shape (n_params_local,)
            This rank's variables.

        Returns
        -------
        Model
        """
        return Model(self.placement.architecture, self.placement.network, params, self.training.scaling)
