"""A whole training run: data, grid, network and trainer from one configuration."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from distnewton.backend import Array, scalar, take_rows, to_host
from distnewton.config import Config
from distnewton.data.description import DataSource, Description
from distnewton.data.partitioned import (
    Task,
    apply_scaling,
    check_range,
    fit_and_apply,
    gather_scaling,
    keep_dense,
    open_and_describe,
    read_features,
)
from distnewton.data.rows import permute_rows
from distnewton.data.same_files import check_same_file
from distnewton.data.scaling import ColumnScaling
from distnewton.data.splits import class_weights, split_off
from distnewton.data.subset import Kept, Subset
from distnewton.errors import ConfigError, DataError, DistNewtonError, NumericalError
from distnewton.network.losses import LOSSES
from distnewton.network.network import PartitionedNetwork
from distnewton.network.shapes import resolve_shape
from distnewton.network.weighted import normalised, plain_targets, targets_on, weighted, with_weights
from distnewton.parallel.collectives import Communicator
from distnewton.parallel.deadline import Clock
from distnewton.parallel.devices import choose_device
from distnewton.parallel.faults import faults
from distnewton.parallel.grid import ProcessGrid
from distnewton.parallel.launch import guard
from distnewton.parallel.partition import as_splits
from distnewton.parallel.replicas import SampleShare, ranks_of_a_grid
from distnewton.parallel.speeds import measured_speeds, speeds_of_grid
from distnewton.parallel.threads import threads_per_rank
from distnewton.parallel.watchdog import watchdog
from distnewton.training.best_model import BestModel
from distnewton.training.checkpoints import CheckpointKeeper, KeeperSettings, Resume
from distnewton.training.held_out import HeldOut, opener
from distnewton.training.history import History
from distnewton.training.identity import run_identity, state_bytes
from distnewton.training.memory_check import PlannedRun, check_device_memory, check_memory_fits
from distnewton.training.metrics import task_metrics
from distnewton.training.model import Architecture, Model, image_problem
from distnewton.training.objective import Evaluation, Objective
from distnewton.training.planned import planned_splits
from distnewton.training.predictions import summarize
from distnewton.training.same_config import check_same_config
from distnewton.training.schedule import Schedule, check_memory, check_samples
from distnewton.training.summary import Observer, Result, RunSummary, describe_run
from distnewton.training.trainer import Measured, Trainer
from distnewton.training.warm_start import Start, StartFrom

__all__ = ["Observer", "Result", "RunSummary", "Session", "train"]


def train(
    config: Config,
    comm: Any = None,
    *,
    train_data: DataSource | None = None,
    test_data: DataSource | None = None,
    validation_data: DataSource | None = None,
    start: StartFrom | None = None,
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
    train_data, test_data, validation_data : DataSource or None
        Data in memory, say :class:`~distnewton.data.memory.ArraySource`; by default what ``config.data`` names.
    start : Model, path or None
        Model, model file or run folder whose weights and scaling the run begins with, on any grid; by default what
        ``config.network.start`` names, or random weights. Under MPI all ranks name the same.
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
    session = Session(
        config, comm, train_data=train_data, test_data=test_data, validation_data=validation_data, start=start
    )
    return session.train(config, observers=observers, clock=clock, checkpoints=checkpoints, resume=resume)


class Session:
    """The data, grid and network of a configuration, on which one method after the other can be trained.

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
            if isinstance(self._whole, Kept):
                self._whole.forget()

    def train(
        self,
        config: Config,
        *,
        start: StartFrom | None = None,
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
        start : Model, path or None
            Model whose weights the run begins with; by default the session's, or random weights. Its scaling must be
            the session's.
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
        length = {key: getattr(self.config.run, key) for key in ("iterations", "seconds", "patience", "tolerance")}
        same = {"method": self.config.method, "run": config.run.model_copy(update=length)}
        if config.model_copy(update=same) != self.config or config.method.C != self.config.method.C:
            raise ConfigError("runs of a session differ in [method], apart from C, and in their length", agreed=True)
        if config.run.patience and "validation" not in self.held_out:
            raise ConfigError(
                "run.patience waits for a better validation metric: give data.validation or data.validation_fraction",
                agreed=True,
            )
        self._check_memory(config)
        keeper: CheckpointKeeper | None = None
        self._last_outputs: tuple[str, Array, Array, SampleShare] | None = None
        with self._thread_limit():
            found = self.start if start is None else Start(self.comm, start)
            params = self._first_params(config, found)
            faults.at("init", params)
            schedule = Schedule(
                config.method,
                self.objective,
                config.run.iterations,
                config.run.seed,
                deterministic=config.run.deterministic,
            )
            best = BestModel(self.comm, self.task.name, config.run.patience) if "validation" in self.held_out else None
            try:
                trainer = Trainer(self.objective, params, schedule.stages, self._metrics, best)
                keeper = self._keeper(config, trainer, checkpoints, resume, clock)
                notes = [*schedule.notes, *(keeper.begin(resume, observers) if keeper else [])]
                if found is not None and not (keeper and keeper.record):
                    notes.append(f"starts from {found.name}")
                summary = self.summary(config, schedule.transport, notes)
                history = History([keeper.record] if keeper and keeper.record else [])
                summary.resumed = history[0].iteration if history else None
                if summary.resumed is not None and summary.resumed >= config.run.iterations:
                    summary.notes.append(f"nothing is left of {config.run.iterations} iterations: raise run.iterations")
                for observer in observers:
                    observer.start(summary)
                must_stop = clock.must_stop if clock else None
                run = config.run
                for record in trainer.iterations(run.iterations, run.seconds, must_stop, tolerance=run.tolerance):
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
            params = self._final_params(trainer, best)
            return Result(
                Model(self.architecture, self.network, params, self.scaling),
                history,
                summary,
                trainer.stopped,
                keeper.path if keeper else None,
                self._predictions(),
                best.best if best else None,
                trainer.ended,
            )

    def _first_params(self, config: Config, start: Start | None) -> Array:
        """The variables that a run begins with."""
        if start is None:
            return self.network.initial_params(config.run.seed, config.network.init)
        if start is not self.start:
            start.check(self.architecture, config.data.scale)
            start.check_scaling(gather_scaling(self.grid, self.scaling))
        return start.params(self.network)

    def _final_params(self, trainer: Trainer, best: BestModel | None) -> Array:
        """The variables of the result, whose outputs are then the last ones measured."""
        if best is None or best.params is None:
            if self._last_outputs is None:
                # nothing was left to do: the point is a checkpoint's
                self._metrics(trainer.params, trainer.evaluation)
            return trainer.params
        if self._last_outputs is None or not self._is_last(trainer, best):
            self._metrics(best.params, self.objective.evaluate(best.params, None))
        return best.params

    def _is_last(self, trainer: Trainer, best: BestModel) -> bool:
        """Whether the best point is the last one."""
        return best.best is not None and best.best.iteration == trainer.iteration

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
        if "validation" in self.held_out:
            identity["data"]["validation samples"] = self.held_out["validation"].description.n_samples
        if self.start is not None:
            identity["network"]["start"] = f"a model with scaling {self.start.fingerprint:08x}"
        settings = KeeperSettings(
            Path(checkpoints),
            config.run.keep_checkpoints,
            60.0 * config.run.checkpoint_minutes,
            state_bytes(
                config.method,
                self.network.shape,
                self.grid.partition,
                self.network.backend.dtype.itemsize,
                n_more=int("validation" in self.held_out),
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
        with self.comm.agreeing():
            self.task = Task.fit(self.config.task, self.train_set, self.source)
        if self.n_train > self.train_set.n_samples:
            raise ConfigError(
                f"data.n_train = {self.n_train}, but {self.train_set.name} has {self.train_set.n_samples} samples",
                agreed=True,
            )
        for which, name in (("validation", data.validation), ("test", data.test)):
            if self._given[which] is not None or name:
                opened = opener(data, self._given[which], name, self.train_set.n_features, self.train_set.names)
                self.held_out[which] = HeldOut(which, self.comm, opened, self.train_set)

    def _split_off(self) -> None:
        """Put some of the training samples aside for validation."""
        if self._given["validation"] is not None:
            raise ConfigError("data.validation_fraction and validation_data say the same: give one", agreed=True)
        data, whole = self.config.data, self.train_set
        by_class = self.config.task != "regression"
        rows, aside = split_off(whole.labels, data.validation_fraction, self.config.run.seed, by_class=by_class)
        self._whole = Kept(self.source, whole)
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
                raise DataError(problem, agreed=True)
        # patches are gathered from dense images
        self.dense = keep_dense(self.train_set) or shape.image_shape is not None
        n_replicas = config.partition.replicas
        n_ranks = ranks_of_a_grid(self.comm.size, n_replicas)
        speeds = self._speeds(n_ranks, n_replicas)
        if config.partition.splits != "auto":
            splits = as_splits(config.partition.splits)
        else:
            told = speeds if len(set(speeds)) > 1 else []
            found = planned_splits(config, shape, self.n_train, n_ranks, told, nonzeros=self._nonzeros)
            # processors of different kinds round differently, so one rank's choice is everyone's
            splits = tuple(self.comm.broadcast_json(list(found)))
        self.device = choose_device(self.comm, config.run.device, config.run.dtype, config.run.comm)
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
    def _nonzeros(self) -> float | None:
        """Of a sample with sparse features; None where they are held dense."""
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
        with self.comm.agreeing():
            faults.at("allocate")
        self.scaling = self._scale(X)
        X = permute_rows(X, rows if wanted is None else np.searchsorted(wanted, rows))
        targets = self._as_targets(self.task.targets(self.train_set, self.source))
        targets, n_counted = normalised(with_weights(targets, self.train_set.weights)[order])
        if not n_counted > 0:
            raise DataError(f"{self.train_set.name}: the weights of all {len(targets)} samples are 0", agreed=True)
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

    def _metrics(self, params: Array, evaluation: Evaluation) -> Measured:
        """The task's metrics by set, from the evaluation's outputs and a pass over each other set."""
        self._last_outputs = "train", evaluation.outputs, self.y_train, self.share
        found = {"train": self._judged(evaluation.outputs, self.y_train, self.share)}
        for which, held in self.held_out.items():
            outputs = held.outputs(self.network, params, self.objective.chunk_rows)
            self._last_outputs = which, outputs, held.targets, held.share
            found[which] = self._judged(outputs, held.targets, held.share)
        return found

    def _judged(self, outputs: Array, targets: Array, share: SampleShare) -> dict[str, float]:
        """The task's metrics, from the outputs of this replica's samples and the targets of all."""
        if share.whole or self.task.name != "classification":
            return task_metrics(self.task.name, self.grid.gather_samples(outputs, share), targets)
        n_right = np.array([scalar((outputs.argmax(axis=1) == take_rows(targets, share.own)).sum())])
        return {"accuracy": float(self.grid.sum_of_samples(n_right)[0]) / share.n_samples}

    def _predictions(self) -> dict[str, Any]:
        """How the model did on the set that was evaluated last."""
        if self._last_outputs is None:
            return {}
        which, outputs, targets, share = self._last_outputs
        return summarize(self.task, which, to_host(self.grid.gather_samples(outputs, share)), to_host(targets))

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
