"""A whole training run: data, grid, network and trainer from one configuration."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
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
)
from distnewton.data.rows import permute_rows
from distnewton.data.same_files import check_same_file
from distnewton.data.sources import open_data
from distnewton.errors import ConfigError, DataError, DistNewtonError, NumericalError
from distnewton.network.losses import LOSSES
from distnewton.network.network import PartitionedNetwork
from distnewton.network.shapes import NetworkShape, resolve_shape
from distnewton.network.weighted import normalised, weighted, with_weights
from distnewton.parallel.collectives import Communicator
from distnewton.parallel.deadline import Clock, Stop
from distnewton.parallel.faults import faults
from distnewton.parallel.grid import ProcessGrid
from distnewton.parallel.launch import guard
from distnewton.parallel.partition import Partition, as_splits
from distnewton.parallel.planning import auto_splits
from distnewton.parallel.threads import threads_per_rank
from distnewton.parallel.watchdog import watchdog
from distnewton.training.checkpoints import CheckpointKeeper, KeeperSettings, Resume
from distnewton.training.history import History
from distnewton.training.identity import run_identity, state_bytes
from distnewton.training.memory_check import PlannedRun, check_memory_fits
from distnewton.training.metrics import task_metrics
from distnewton.training.model import Architecture, Model, image_problem, network_outputs
from distnewton.training.objective import Evaluation, Objective
from distnewton.training.predictions import summarize
from distnewton.training.records import IterationRecord
from distnewton.training.same_config import check_same_config
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
    shape : NetworkShape
        Layers, resolved.
    partition : Partition
        Units and splits, resolved.
    n_ranks, n_threads : int
        Ranks, and BLAS threads of each.
    mpi_library : str
        Version text of the MPI library, empty without MPI.
    hosts : list of str
        Host of each rank.
    transport : str
        How ranks tell each other that they have finished; empty without early termination.
    resumed : int or None
        Iteration of the checkpoint that the run goes on from.
    notes : list of str
        What the user should know: idle ranks, constant features, peculiarities of the files.
    """

    config: Config
    train: Description
    test: Description | None
    task: Task
    shape: NetworkShape
    partition: Partition
    n_ranks: int
    n_threads: int
    mpi_library: str
    hosts: list[str]
    transport: str = ""
    resumed: int | None = None
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
    history : History
        Record of each iteration, the start included; of a run that was resumed from its checkpoint's on. A sequence.
    summary : RunSummary
        What the run was about.
    stopped : Stop
        What ended it before its last iteration, if anything: the clock, or a signal.
    checkpoint : Path or None
        The last that was saved, or that it went on from; None where there is none.
    predictions : dict
        How the model did at the end, on the test set where there is one: :func:`~.predictions.summarize`.
    """

    model: Model
    history: History
    summary: RunSummary
    stopped: Stop = Stop.NO
    checkpoint: Path | None = None
    predictions: dict[str, Any] = field(default_factory=dict)

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
    clock: Clock | None = None,
    checkpoints: str | Path | None = None,
    resume: Resume = False,
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
    clock : Clock or None
        When to stop before the last iteration; None for never.
    checkpoints : path or None
        Folder in which all ranks save, and from which a run goes on; None saves nothing.
    resume : bool or "auto"
        Go on from the newest checkpoint there; with ``"auto"`` begin anew where there is none.

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
    session = Session(config, comm, train_data=train_data, test_data=test_data)
    return session.train(config, observers=observers, clock=clock, checkpoints=checkpoints, resume=resume)


class Session:
    """The data, grid and network of a configuration, on which one method after the other can be trained.

    Parameters
    ----------
    config : Config
        What is trained on what.
    comm : mpi4py.MPI.Intracomm, Communicator or None
        The ranks; None is this process alone, without MPI.
    train_data, test_data : DataSource or None
        Data in memory; by default what ``config.data`` names.

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
    ) -> None:
        self.config = config
        self.comm = comm if isinstance(comm, Communicator) else Communicator(comm)
        self.n_threads = config.run.threads or threads_per_rank(self.comm)
        self._train_data, self._test_data = train_data, test_data
        faults.arm(self.comm.rank)
        if not isinstance(comm, Communicator):
            # a program of its own: the command line has done so
            guard(self.comm, config.run.hang_seconds, config.run.warn_seconds, checked=config.run.checked)
        check_same_config(self.comm, config)
        with self._thread_limit(), watchdog.patient():
            self._describe()
            self._lay_out()
            self.objective = self._read_training_data()
            self._read_test_data()

    def train(
        self,
        config: Config,
        *,
        observers: Sequence[Observer] = (),
        clock: Clock | None = None,
        checkpoints: str | Path | None = None,
        resume: Resume = False,
    ) -> Result:
        """Train from the configuration's start, or from a checkpoint.

        Parameters
        ----------
        config : Config
            The session's own, or one with another ``[method]`` and another length of the run.
        observers : sequence of Observer
            Told of the start and of each iteration, on every rank.
        clock : Clock or None
            When to stop before the last iteration; None for never.
        checkpoints, resume : path or None, bool or "auto"
            As of :func:`train`.

        Returns
        -------
        Result

        Raises
        ------
        DistNewtonError
            With advice; on every rank alike where it is marked as agreed.
        """
        length = {"iterations": self.config.run.iterations, "seconds": self.config.run.seconds}
        same = {"method": self.config.method, "run": config.run.model_copy(update=length)}
        if config.model_copy(update=same) != self.config or config.method.C != self.config.method.C:
            raise ConfigError("runs of a session differ in [method], apart from C, and in their length", agreed=True)
        self._check_memory(config)
        keeper: CheckpointKeeper | None = None
        self._last_outputs: tuple[str, Array, Array] | None = None
        with self._thread_limit():
            params = self.network.initial_params(config.run.seed, config.network.init)
            faults.at("init", params)
            schedule = Schedule(
                config.method,
                self.objective,
                config.run.iterations,
                config.run.seed,
                deterministic=config.run.deterministic,
            )
            try:
                trainer = Trainer(self.objective, params, schedule.stages, self._metrics)
                keeper = self._keeper(config, trainer, checkpoints, resume, clock)
                notes = [*schedule.notes, *(keeper.begin(resume, observers) if keeper else [])]
                summary = self.summary(config, schedule.transport, notes)
                history = History([keeper.record] if keeper and keeper.record else [])
                summary.resumed = history[0].iteration if history else None
                if summary.resumed is not None and summary.resumed >= config.run.iterations:
                    summary.notes.append(f"nothing is left of {config.run.iterations} iterations: raise run.iterations")
                for observer in observers:
                    observer.start(summary)
                must_stop = clock.must_stop if clock else None
                for record in trainer.iterations(config.run.iterations, config.run.seconds, must_stop):
                    history.append(record)
                    for observer in observers:
                        observer.iteration(record)
                    if keeper:
                        keeper.follow(record)
                if keeper:
                    keeper.finish()
            except DistNewtonError as error:
                # freeing is collective: only where every rank gets here
                if error.agreed:
                    schedule.free()
                if isinstance(error, NumericalError) and keeper and keeper.path:
                    text = f"{error}\nthe last checkpoint is {keeper.path}"
                    raise NumericalError(text, agreed=error.agreed) from None
                raise
            schedule.free()
            model = Model(self.architecture, self.network, trainer.params, self.scaling)
            if self._last_outputs is None:
                # nothing was left to do: the point is a checkpoint's
                self._metrics(trainer.params, trainer.evaluation)
            predictions: dict[str, Any] = summarize(self.task, *self._last_outputs) if self._last_outputs else {}
            return Result(model, history, summary, trainer.stopped, keeper.path if keeper else None, predictions)

    def _keeper(
        self,
        config: Config,
        trainer: Trainer,
        checkpoints: str | Path | None,
        resume: Resume,
        clock: Clock | None,
    ) -> CheckpointKeeper | None:
        """Who saves and resumes; None where there is no folder for it."""
        if checkpoints is None:
            if resume:
                raise ConfigError("resume needs checkpoints: the folder to go on from", agreed=True)
            return None
        identity = run_identity(
            config, self.architecture, self.train_set.n_features, self.n_train, self.train_set.weights
        )
        settings = KeeperSettings(
            Path(checkpoints),
            config.run.keep_checkpoints,
            60.0 * config.run.checkpoint_minutes,
            state_bytes(
                config.method, self.network.shape, self.grid.partition, self.network.backend.dtype.itemsize
            ),
            self.task.name,
            identity,
        )
        return CheckpointKeeper(settings, self.network, trainer, clock)

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
            raise ConfigError("data.train is not set: name a file, or a bundled set such as digits:train", agreed=True)
        for given, name in ((self._train_data, data.train), (self._test_data, data.test)):
            if given is None and name:
                check_same_file(self.comm, name, data.directory or None)
        self.source, self.train_set = open_and_describe(self.comm, self._opener(self._train_data, data.train, None))
        with self.comm.agreeing():
            self.task = Task.fit(self.config.task, self.train_set, self.source)
        if self.n_train > self.train_set.n_samples:
            raise ConfigError(
                f"data.n_train = {self.n_train}, but {self.train_set.name} has {self.train_set.n_samples} samples",
                agreed=True,
            )
        self.test_set: Description | None = None
        if self._test_data is not None or data.test:
            opener = self._opener(self._test_data, data.test, self.train_set.n_features)
            self.test_source, self.test_set = open_and_describe(self.comm, opener)
            if self.test_set.n_features != self.train_set.n_features:
                raise DataError(
                    f"{self.test_set.name} has {self.test_set.n_features} features, {self.train_set.name} "
                    f"{self.train_set.n_features}",
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
            sort_indices=data.sort_indices,
        )

    def _lay_out(self) -> None:
        """Partition the network over the ranks."""
        config = self.config
        given = config.network.input
        image_shape = self.train_set.image_shape if given == "auto" else tuple(given)
        listed = config.network.listed
        shape = resolve_shape(listed, self.train_set.n_features, image_shape, self.task.n_out)
        for described in (self.train_set, self.test_set):
            if described is not None and (problem := image_problem(shape, described)) is not None:
                raise DataError(problem, agreed=True)
        # patches are gathered from dense images
        self.dense = keep_dense(self.train_set) or shape.image_shape is not None
        if config.partition.splits == "auto":
            n_values = self.train_set.n_samples * self.train_set.n_features
            density = None if self.dense else self.train_set.n_nonzeros / n_values
            splits = auto_splits(shape.costs, self.comm.size, density=density)
        else:
            splits = as_splits(config.partition.splits)
        backend = Backend.of(config.run.dtype)
        self._check_memory(config)
        self.grid = ProcessGrid(self.comm, shape.partition(splits))
        if config.run.memory_check:
            n_test = self.test_set.n_samples if self.test_set is not None else 0
            sizes = PlannedRun(config, shape, self.train_set, n_test, self.dense)
            check_memory_fits(self.comm, sizes, self.grid.partition)
        self.network = PartitionedNetwork(self.grid, config.network.activation, backend, shape)
        self.architecture = Architecture(
            shape, config.network.activation, self.task, self.dense, config.run.dtype, config.network.loss
        )

    @property
    def n_train(self) -> int:
        """Samples that are trained on."""
        return self.config.data.n_train or self.train_set.n_samples

    def _read_training_data(self) -> Objective:
        """Read this rank's columns, scale them, and put the samples in the order of the run."""
        config, dtype = self.config, self.network.backend.dtype
        X = read_features(self.grid, self.source, self.train_set.n_samples, dtype, dense=self.dense)
        with self.comm.agreeing():
            faults.at("allocate")
        order = np.random.Generator(np.random.Philox(key=config.run.seed, counter=[0, 2, 0, 0]))
        permutation = order.permutation(self.train_set.n_samples)
        targets = self._as_targets(self.task.targets(self.train_set, self.source))
        targets = with_weights(targets, self.train_set.weights)
        if self.n_train < len(permutation):
            # a new array, which frees the samples left out
            X, targets = X[permutation[: self.n_train]], targets[permutation[: self.n_train]]
            self.scaling = fit_and_apply(self.grid, config.data.scale, X)
        else:
            self.scaling = fit_and_apply(self.grid, config.data.scale, X)
            X, targets = permute_rows(X, permutation), targets[permutation]
        targets, n_counted = normalised(targets)
        if not n_counted > 0:
            raise DataError(f"{self.train_set.name}: the weights of all {len(targets)} samples are 0", agreed=True)
        return Objective(
            self.network,
            weighted(LOSSES[config.network.loss], targets),
            self.network.arrange(X),
            targets,
            config.method.regularization(n_counted),
            config.run.memory_mb * 2**20,
        )

    def _read_test_data(self) -> None:
        """Read and scale this rank's columns of the test set."""
        if self.test_set is None:
            return
        model = Model(self.architecture, self.network, self.network.backend.zeros(0), self.scaling)
        self.X_test = model.features(self.test_source, self.test_set)
        with self.comm.agreeing():
            self.y_test = self.task.targets(self.test_set, self.test_source)

    def _as_targets(self, targets: Array) -> Array:
        """Targets as the loss takes them: class indices stay integers."""
        return targets if targets.dtype.kind == "i" else self.network.backend.asarray(targets)

    def _metrics(self, params: Array, evaluation: Evaluation) -> tuple[dict[str, float], dict[str, float]]:
        """The task's metrics on both sets, from the evaluation's outputs and a pass over the test set."""
        train = task_metrics(self.task.name, evaluation.outputs, evaluation.targets)
        if self.test_set is None:
            self._last_outputs = "train", evaluation.outputs, evaluation.targets
            return train, {}
        outputs = network_outputs(self.network, params, self.X_test)
        self._last_outputs = "test", outputs, self.y_test
        return train, task_metrics(self.task.name, outputs, self.y_test)

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
        notes = [*notes, *self.train_set.notes, *(self.test_set.notes if self.test_set else [])]
        idle = self.grid.partition.idle_ranks()
        if idle:
            notes.append(f"{len(idle)} of {self.comm.size} ranks own no variable: more ranks than these layers can use")
        (n_constant,) = self.comm.sum_scalars(self.scaling.n_constant * self.grid.first_of_feature_group())
        if n_constant:
            notes.append(f"{n_constant:.0f} features are constant and are scaled to 0")
        if self.task.classes is not None and any(isinstance(label, str) for label in self.task.classes.classes):
            named = [f"{k} = {label}" for k, label in enumerate(self.task.classes.classes)]
            more = f", ... ({len(named)} in all)" if len(named) > 10 else ""
            notes.append(f"classes: {', '.join(named[:10])}{more}")
        if self.config.method.subsample_min > self.n_train:
            notes.append(f"method.subsample_min is more than the {self.n_train} samples there are: all are used")
        if self.test_set and self.test_set.n_ignored_values:
            notes.append(
                f"{self.test_set.name}: ignored {self.test_set.n_ignored_values} values of features that the training "
                "data does not have"
            )
        unseen = self.task.classes.unseen(self.test_set.labels) if self.test_set and self.task.classes else {}
        if unseen:
            shown = ", ".join(f"'{label}' ({n})" for label, n in unseen.items())
            notes.append(f"test labels that never occur in training count as wrong: {shown}")
        hosts = self.comm.allgather_json(platform.node())
        return RunSummary(
            config,
            self.train_set,
            self.test_set,
            self.task,
            self.network.shape,
            self.grid.partition,
            self.comm.size,
            self.n_threads,
            _mpi_library(self.comm),
            hosts,
            transport,
            notes=notes,
        )


def _mpi_library(comm: Communicator) -> str:
    """Version text of the MPI library in use, its first line."""
    if comm.mpi is None:
        return ""
    from mpi4py import MPI

    return " ".join(MPI.Get_library_version().split("\n")[0].split()).rstrip("\x00")
