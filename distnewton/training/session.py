"""A whole training run: data, grid, network and trainer from one configuration."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from distnewton.backend import Array, Backend
from distnewton.config import Config
from distnewton.data.description import DataSource, Description
from distnewton.data.partitioned import (
    Task,
    fit_and_apply,
    keep_dense,
    open_and_describe,
    read_features,
    resolve_widths,
)
from distnewton.data.rows import permute_rows
from distnewton.data.sources import open_data
from distnewton.errors import ConfigError, DataError
from distnewton.network.losses import LOSSES
from distnewton.network.network import PartitionedNetwork
from distnewton.parallel.collectives import Communicator
from distnewton.parallel.faults import faults
from distnewton.parallel.grid import ProcessGrid
from distnewton.parallel.partition import Partition, as_splits
from distnewton.parallel.planning import auto_splits
from distnewton.parallel.threads import threads_per_rank
from distnewton.training.metrics import task_metrics
from distnewton.training.model import Architecture, Model, network_outputs
from distnewton.training.objective import Evaluation, Objective
from distnewton.training.records import IterationRecord
from distnewton.training.schedule import Schedule, check_memory
from distnewton.training.trainer import Trainer

OpenSource = Callable[[], DataSource]


@dataclass
class RunSummary:
    """What a run is about, known before its first iteration; replicated.

    Attributes
    ----------
    config : Config
        As given.
    train, test : Description
        Of the data sets; ``test`` is None without one.
    task : Task
        Task and classes.
    partition : Partition
        Widths and splits, resolved.
    n_ranks, n_threads : int
        Ranks, and BLAS threads of each.
    mpi_library : str
        Version text of the MPI library, empty without MPI.
    hosts : list of str
        Host of each rank.
    transport : str
        How ranks tell each other that they have finished; empty without early termination.
    notes : list of str
        What the user should know: idle ranks, constant features, peculiarities of the files.
    """

    config: Config
    train: Description
    test: Description | None
    task: Task
    partition: Partition
    n_ranks: int
    n_threads: int
    mpi_library: str
    hosts: list[str]
    transport: str = ""
    notes: list[str] = field(default_factory=list)


class Observer(Protocol):
    """Something that follows a run on every rank: progress, the run folder, the caller's own."""

    def start(self, summary: RunSummary) -> None:
        """Before the first iteration."""
        ...

    def iteration(self, record: IterationRecord) -> None:
        """After each iteration, the start (0) included."""
        ...


@dataclass
class Result:
    """What training returns, on every rank.

    Attributes
    ----------
    model : Model
        The trained network.
    history : list of IterationRecord
        Record of each iteration, the start included.
    summary : RunSummary
        What the run was about.
    """

    model: Model
    history: list[IterationRecord]
    summary: RunSummary

    @property
    def last(self) -> IterationRecord:
        """Record of the last iteration."""
        return self.history[-1]


def train(
    config: Config,
    comm: Any = None,
    *,
    train_data: DataSource | None = None,
    test_data: DataSource | None = None,
    observers: Sequence[Observer] = (),
) -> Result:
    """Train a network as configured.

    Parameters
    ----------
    config : Config
        The run.
    comm : mpi4py.MPI.Intracomm, Communicator or None
        The ranks; None is this process alone, without MPI.
    train_data, test_data : DataSource or None
        Data in memory, say :class:`~distnewton.data.memory.ArraySource`; by default what ``config.data`` names.
    observers : sequence of Observer
        Told of the start and of each iteration, on every rank.

    Returns
    -------
    Result

    Raises
    ------
    DistNewtonError
        With advice; on every rank alike where it is marked as agreed.

    Notes
    -----
    Collective over ``comm``.
    """
    from threadpoolctl import threadpool_limits

    world = comm if isinstance(comm, Communicator) else Communicator(comm)
    n_threads = config.run.threads or threads_per_rank(world)
    faults.arm(world.rank)
    with threadpool_limits(n_threads, user_api="blas"):
        return _Session(config, world, n_threads, train_data, test_data).run(observers)


class _Session:
    """The steps from a configuration to a trained model; each leaves what the next needs."""

    def __init__(
        self,
        config: Config,
        comm: Communicator,
        n_threads: int,
        train_data: DataSource | None,
        test_data: DataSource | None,
    ) -> None:
        self.config, self.comm, self.n_threads = config, comm, n_threads
        self._train_data, self._test_data = train_data, test_data

    def run(self, observers: Sequence[Observer]) -> Result:
        config = self.config
        self._describe()
        self._lay_out()
        objective = self._read_training_data()
        self._read_test_data()
        params = self.network.initial_params(config.run.seed, config.network.init)
        schedule = Schedule(
            config.method,
            objective,
            config.run.iterations,
            config.run.seed,
            deterministic=config.run.deterministic,
        )
        summary = self._summary(schedule.transport)
        for observer in observers:
            observer.start(summary)
        trainer = Trainer(objective, params, schedule.stages, self._metrics)
        history = []
        for record in trainer.iterations(config.run.iterations):
            history.append(record)
            for observer in observers:
                observer.iteration(record)
        schedule.free()
        model = Model(self.architecture, self.network, trainer.params, self.scaling)
        return Result(model, history, summary)

    def _describe(self) -> None:
        """Open and check the data; every rank learns its size and labels."""
        data = self.config.data
        if self._train_data is None and not data.train:
            raise ConfigError("data.train is not set: name a file, or a bundled set such as digits:train", agreed=True)
        self.source, self.train = open_and_describe(self.comm, self._opener(self._train_data, data.train, None))
        with self.comm.agreeing():
            self.task = Task.fit(self.config.task, self.train, self.source)
        self.test: Description | None = None
        if self._test_data is not None or data.test:
            opener = self._opener(self._test_data, data.test, self.train.n_features)
            self.test_source, self.test = open_and_describe(self.comm, opener)
            if self.test.n_features != self.train.n_features:
                raise DataError(
                    f"{self.test.name} has {self.test.n_features} features, {self.train.name} {self.train.n_features}",
                    agreed=True,
                )

    def _opener(self, given: DataSource | None, name: str, n_features: int | None) -> OpenSource:
        """How a data set is opened; test data takes the features of the training data."""
        if given is not None:
            return lambda: given
        data = self.config.data
        return lambda: open_data(
            name,
            data_dir=data.directory or None,
            format=data.format,
            label_column=data.label_column,
            n_features=n_features or data.n_features,
            zero_based=data.zero_based,
            ignore_extra_features=n_features is not None,
        )

    def _lay_out(self) -> None:
        """Partition the network over the ranks."""
        config = self.config
        widths = resolve_widths(list(config.network.layers), self.train.n_features, self.task.n_out)
        self.dense = keep_dense(self.train)
        if config.partition.splits == "auto":
            density = None if self.dense else self.train.n_nonzeros / (self.train.n_samples * self.train.n_features)
            splits = auto_splits(widths, self.comm.size, density=density)
        else:
            splits = as_splits(config.partition.splits)
        backend = Backend.of(config.run.dtype)
        check_memory(
            config.method, self.train.n_samples, self.task.n_out, backend.dtype.itemsize, config.run.memory_mb
        )
        self.grid = ProcessGrid(self.comm, Partition(widths, splits))
        self.network = PartitionedNetwork(self.grid, config.network.activation, backend)
        self.architecture = Architecture(widths, config.network.activation, self.task, self.dense, config.run.dtype)

    def _read_training_data(self) -> Objective:
        """Read this rank's columns, scale them, and put the samples in the order of the run."""
        config, dtype = self.config, self.network.backend.dtype
        X = read_features(self.grid, self.source, self.train.n_samples, dtype, dense=self.dense)
        self.scaling = fit_and_apply(self.grid, config.data.scale, X)
        order = np.random.Generator(np.random.Philox(key=config.run.seed, counter=[0, 2, 0, 0]))
        permutation = order.permutation(self.train.n_samples)
        targets = self._as_targets(self.task.targets(self.train, self.source))[permutation]
        regularization = config.method.regularization(self.train.n_samples)
        return Objective(
            self.network,
            LOSSES[config.network.loss],
            permute_rows(X, permutation),
            targets,
            regularization,
            config.run.memory_mb * 2**20,
        )

    def _read_test_data(self) -> None:
        """Read and scale this rank's columns of the test set."""
        if self.test is None:
            return
        model = Model(self.architecture, self.network, self.network.backend.zeros(0), self.scaling)
        self.X_test = model.features(self.test_source, self.test)
        with self.comm.agreeing():
            self.y_test = self.task.targets(self.test, self.test_source)

    def _as_targets(self, targets: Array) -> Array:
        """Targets as the loss takes them: class indices stay integers."""
        return targets if targets.dtype.kind == "i" else self.network.backend.asarray(targets)

    def _metrics(self, params: Array, evaluation: Evaluation) -> tuple[dict[str, float], dict[str, float]]:
        """The task's metrics on both sets, from the evaluation's outputs and a pass over the test set."""
        train = task_metrics(self.task.name, evaluation.outputs, evaluation.targets)
        if self.test is None:
            return train, {}
        outputs = network_outputs(self.network, params, self.X_test)
        return train, task_metrics(self.task.name, outputs, self.y_test)

    def _summary(self, transport: str) -> RunSummary:
        """What the run is about, with the notes of its data and partition."""
        notes = [*self.train.notes, *(self.test.notes if self.test else [])]
        idle = self.grid.partition.idle_ranks()
        if idle:
            notes.append(f"{len(idle)} of {self.comm.size} ranks own no variable: more ranks than these layers can use")
        if self.scaling.n_constant and self.comm.size == 1:
            notes.append(f"{self.scaling.n_constant} features are constant and are scaled to 0")
        if self.test and self.test.n_ignored_values:
            notes.append(
                f"{self.test.name}: ignored {self.test.n_ignored_values} values of features beyond the training data's"
            )
        unseen = self.task.classes.unseen(self.test.labels) if self.test and self.task.classes else {}
        if unseen:
            shown = ", ".join(f"'{label}' ({n})" for label, n in unseen.items())
            notes.append(f"test labels that never occur in training count as wrong: {shown}")
        hosts = [self.comm.broadcast_json(platform.node(), rank) for rank in range(self.comm.size)]
        return RunSummary(
            self.config,
            self.train,
            self.test,
            self.task,
            self.grid.partition,
            self.comm.size,
            self.n_threads,
            _mpi_library(self.comm),
            hosts,
            transport,
            notes,
        )


def _mpi_library(comm: Communicator) -> str:
    """Version text of the MPI library in use, its first line."""
    if comm.mpi is None:
        return ""
    from mpi4py import MPI

    return " ".join(MPI.Get_library_version().split("\n")[0].split()).rstrip("\x00")
