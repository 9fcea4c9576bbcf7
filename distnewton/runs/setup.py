"""What runs are trained on: data, grid and network from one configuration."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np

from distnewton.backend import Array
from distnewton.config import Config
from distnewton.data.description import DataSource, Description
from distnewton.data.folds import class_weights, split_off
from distnewton.data.partitioned import (
    Task,
    apply_scaling,
    check_range,
    fit_and_apply,
    keep_dense,
    open_and_describe,
    read_features,
)
from distnewton.data.rows import permute_rows
from distnewton.data.same_files import check_same_file
from distnewton.data.scaling import ColumnScaling
from distnewton.data.subset import CachedSource, Subset
from distnewton.errors import ConfigError, DataError
from distnewton.guards.faults import faults
from distnewton.guards.watchdog import watchdog
from distnewton.launch.devices import choose_device
from distnewton.launch.speeds import measured_speeds, speeds_of_grid
from distnewton.launch.startup import guard
from distnewton.launch.threads import threads_per_rank
from distnewton.method.objective import Objective
from distnewton.method.schedule import check_memory, check_samples
from distnewton.models.model import Architecture, Model, image_problem
from distnewton.models.warm_start import Start, StartFrom
from distnewton.network.losses import LOSSES
from distnewton.network.network import PartitionedNetwork
from distnewton.network.shapes import resolve_shape
from distnewton.network.weighted import normalised, plain_targets, targets_on, weighted, with_weights
from distnewton.parallel.collectives import Communicator
from distnewton.parallel.grid import ProcessGrid
from distnewton.parallel.partition import as_splits
from distnewton.parallel.replicas import SampleShare, ranks_of_a_grid
from distnewton.runs.held_out import HeldOut, opener
from distnewton.runs.memory_check import PlannedRun, check_device_memory, check_memory_fits
from distnewton.runs.planned import planned_splits
from distnewton.runs.same_config import check_same_config
from distnewton.runs.summary import RunSummary, describe_run


class Setup:
    """The data, grid and network of a configuration.

    Parameters
    ----------
    config : Config
        What is trained on what.
    comm : mpi4py.MPI.Intracomm, Communicator or None
        The ranks; None is this process alone, without MPI.
    train_data, test_data, validation_data : DataSource or None
        Data in memory; by default what ``config.data`` names.
    start : Model, path or None
        Model whose scaling is taken over, and whose weights its runs begin with; by default
        ``config.network.start``.

    Attributes
    ----------
    held_out : dict of str to HeldOut
        ``validation`` and ``test`` data, as far as there are any.

    Raises
    ------
    DistNewtonError
        If the configuration or the data is at fault.

    Notes
    -----
    Collective over ``comm``, as all methods.
    """

    def __init__(
        self,
        config: Config,
        comm: Any = None,
        *,
        train_data: DataSource | None = None,
        test_data: DataSource | None = None,
        validation_data: DataSource | None = None,
        start: StartFrom | None = None,
    ) -> None:
        self.config = config
        self.comm = comm if isinstance(comm, Communicator) else Communicator(comm)
        self.n_threads = config.run.threads or threads_per_rank(self.comm)
        self._train_data = train_data
        self._given = {"validation": validation_data, "test": test_data}
        self.held_out: dict[str, HeldOut] = {}
        faults.arm(self.comm.rank)
        if not isinstance(comm, Communicator):
            # a program of its own: the command line has done so
            guard(self.comm, config.run.hang_seconds, config.run.warn_seconds, checked=config.run.checked)
        check_same_config(self.comm, config)
        with self._thread_limit(), watchdog.patient():
            start = start if start is not None else config.network.start or None
            self.start = None if start is None else Start(self.comm, start)
            self._describe()
            self._lay_out()
            self.objective = self._read_training_data()
            for held in self.held_out.values():
                held.read(Model(self.architecture, self.network, self.network.backend.zeros(0), self.scaling))
            if isinstance(self._whole, CachedSource):
                self._whole.forget()

    def _thread_limit(self) -> AbstractContextManager[Any]:
        """BLAS threads of this rank, inside the context."""
        from threadpoolctl import threadpool_limits

        limit: AbstractContextManager[Any] = threadpool_limits(self.n_threads, user_api="blas")
        return limit

    def _check_memory(self, config: Config) -> None:
        """Refuse a method whose systems do not fit."""
        check_memory(
            config.method,
            self.n_train,
            self.task.n_out,
            np.dtype(config.run.dtype).itemsize,
            config.run.memory_mb,
        )

    def _describe(self) -> None:
        """Open and check the data; every rank learns its size and labels."""
        data = self.config.data
        if self._train_data is None and not data.train:
            message = "data.train is not set: name a file, or a bundled set such as digits:train"
            raise ConfigError(message, collective=True)
        for given, name in (
            (self._train_data, data.train),
            (self._given["validation"], data.validation),
            (self._given["test"], data.test),
        ):
            if given is None and name:
                check_same_file(self.comm, name, data.directory or None)
        self.source, self.train_set = open_and_describe(self.comm, opener(data, self._train_data, data.train))
        self._whole = self.source
        if data.validation_fraction:
            self._split_off()
        of_class = class_weights(self.train_set.labels, data.class_weights, self.train_set.name)
        if of_class is not None:
            own = self.train_set.weights
            self.train_set = replace(self.train_set, weights=of_class if own is None else own * of_class)
        with self.comm.collective_errors():
            self.task = Task.fit(self.config.task, self.train_set, self.source)
        if self.n_train > self.train_set.n_samples:
            raise ConfigError(
                f"data.n_train = {self.n_train}, but {self.train_set.name} has {self.train_set.n_samples} samples",
                collective=True,
            )
        for which, name in (("validation", data.validation), ("test", data.test)):
            if self._given[which] is not None or name:
                opened = opener(data, self._given[which], name, self.train_set.n_features, self.train_set.names)
                self.held_out[which] = HeldOut(which, self.comm, opened, self.train_set)

    def _split_off(self) -> None:
        """Put some of the training samples aside for validation."""
        if self._given["validation"] is not None:
            raise ConfigError("data.validation_fraction and validation_data say the same: give one", collective=True)
        data, whole = self.config.data, self.train_set
        by_class = self.config.task != "regression"
        rows, aside = split_off(whole.labels, data.validation_fraction, self.config.run.seed, by_class=by_class)
        self._whole = CachedSource(self.source, whole)
        self.source = Subset(self._whole, rows, whole.name)
        self.train_set = replace(self.source.describe(), notes=whole.notes)
        self._given["validation"] = Subset(self._whole, aside, f"{whole.name} (validation)")

    @property
    def test_set(self) -> Description | None:
        """Description of the test data; None without any."""
        return self.held_out["test"].description if "test" in self.held_out else None

    def _lay_out(self) -> None:
        """Partition the network over the ranks."""
        config = self.config
        given = config.network.input
        image_shape = self.train_set.image_shape if given == "auto" else tuple(given)
        listed = config.network.listed
        shape = resolve_shape(listed, self.train_set.n_features, image_shape, self.task.n_out)
        for described in (self.train_set, *(held.description for held in self.held_out.values())):
            if (problem := image_problem(shape, described)) is not None:
                raise DataError(problem, collective=True)
        # patches are gathered from dense images
        self.dense = keep_dense(self.train_set) or shape.image_shape is not None
        n_replicas = config.partition.replicas
        n_ranks = ranks_of_a_grid(self.comm.size, n_replicas)
        speeds = self._speeds(n_ranks, n_replicas)
        if config.partition.splits != "auto":
            splits = as_splits(config.partition.splits)
        else:
            told = speeds if len(set(speeds)) > 1 else []
            found: Sequence[int] = ()
            # one rank's choice is everyone's: processors of different kinds round differently
            with self.comm.collective_errors():
                if self.comm.rank == 0:
                    found = planned_splits(config, shape, self.n_train, n_ranks, told, nonzeros=self.nonzeros)
            splits = tuple(self.comm.broadcast_json(list(found)))
        run = config.run
        self.device = choose_device(self.comm, run.device, run.dtype, run.comm, tf32=run.tf32)
        backend = self.device.backend
        self._check_memory(config)
        check_samples(config.method, self.n_train, n_replicas)
        self.grid = ProcessGrid(self.comm, shape.partition(splits, speeds), n_replicas)
        self.share = SampleShare(self.n_train, n_replicas, self.grid.replica)
        if config.run.memory_check:
            n_test = sum(held.description.n_samples for held in self.held_out.values())
            sizes = PlannedRun(config, shape, self.train_set, n_test, self.dense, "validation" in self.held_out)
            check_memory_fits(self.comm, sizes, self.grid.partition)
            check_device_memory(self.comm, sizes, self.grid.partition, backend.memory_limit)
        self.network = PartitionedNetwork(self.grid, config.network.activation, backend, shape, config.run.overlap)
        self.architecture = Architecture(
            shape,
            config.network.activation,
            self.task,
            self.dense,
            config.run.dtype,
            config.network.loss,
            self.train_set.names,
        )
        if self.start is not None:
            self.start.check(self.architecture, config.data.scale)

    def _speeds(self, n_ranks: int, n_replicas: int) -> list[float]:
        """Relative speeds of the ranks of a grid, measured where that is asked for; empty where all are alike."""
        given = self.config.partition.speeds
        if given == "equal":
            return []
        return speeds_of_grid(measured_speeds(self.comm) if given == "measured" else given, n_ranks, n_replicas)

    @property
    def nonzeros(self) -> float | None:
        """Of a sample of training with sparse features; None where they are held dense."""
        return None if self.dense else self.train_set.n_nonzeros / self.train_set.n_samples

    @property
    def n_train(self) -> int:
        """Samples that are trained on."""
        return self.config.data.n_train or self.train_set.n_samples

    def _read_training_data(self) -> Objective:
        """Read this rank's columns, scale them, and put the samples in the order of the run."""
        config, dtype = self.config, self.network.backend.dtype
        generator = np.random.Generator(np.random.Philox(key=config.run.seed, counter=[0, 2, 0, 0]))
        order = generator.permutation(self.train_set.n_samples)[: self.n_train]
        rows = order[self.share.own]
        wanted = None if len(rows) == self.train_set.n_samples else np.sort(rows)
        X = read_features(self.grid, self.source, self.train_set.n_samples, dtype, wanted, dense=self.dense)
        with self.comm.collective_errors():
            faults.at("allocate")
        self.scaling = self._scale(X)
        X = permute_rows(X, rows if wanted is None else np.searchsorted(wanted, rows))
        targets = self._as_targets(self.task.targets(self.train_set, self.source))
        targets, n_counted = normalised(with_weights(targets, self.train_set.weights)[order])
        if not n_counted > 0:
            raise DataError(f"{self.train_set.name}: the weights of all {len(targets)} samples are 0", collective=True)
        backend = self.network.backend
        own = targets_on(backend, targets[self.share.own])
        self.y_train = plain_targets(own if self.share.whole else targets_on(backend, targets))
        return Objective(
            self.network,
            weighted(LOSSES[config.network.loss], targets),
            backend.features(self.network.arrange(X)),
            own,
            config.method.regularization(n_counted),
            config.run.memory_mb * 2**20,
            self.share,
        )

    def _scale(self, X: Any) -> ColumnScaling:
        """Scale the training data, as the model did that the run starts from."""
        if self.start is None:
            return fit_and_apply(self.grid, self.config.data.scale, X)
        scaling = self.start.scaling.columns(*self.grid.feature_range())
        apply_scaling(self.grid, scaling, X)
        check_range(self.grid, X)
        return scaling

    def _as_targets(self, targets: Array) -> Array:
        """Targets as the loss takes them: class indices stay integers."""
        return targets if targets.dtype.kind == "i" else np.asarray(targets, self.network.backend.dtype)

    def summary(self, config: Config, transport: str = "", notes: Sequence[str] = ()) -> RunSummary:
        """What a run is about, with the notes of its data and partition (collective).

        Parameters
        ----------
        config : Config
            The run.
        transport : str
            How ranks tell each other that they have finished.
        notes : sequence of str
            Of the method.

        Returns
        -------
        RunSummary
        """
        model = Model(self.architecture, self.network, self.network.backend.zeros(0), self.scaling)
        notes = [*self.device.notes, *notes]
        found = describe_run(self.comm, config, self.train_set, self.held_out, model, self.n_threads, transport, notes)
        return replace(found, devices=self.device.names, device_transport=self.device.transport)
