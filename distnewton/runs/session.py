"""A whole training run: data, grid, network and trainer from one configuration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distnewton.backend import Array
from distnewton.config import Config
from distnewton.data.description import DataSource
from distnewton.data.partitioned import gather_scaling
from distnewton.errors import ConfigError, DistNewtonError, NumericalError
from distnewton.guards.faults import faults
from distnewton.launch.deadline import Clock
from distnewton.method.best_model import BestModel
from distnewton.method.schedule import Schedule
from distnewton.method.trainer import Trainer
from distnewton.models.model import Model
from distnewton.models.warm_start import Start, StartFrom
from distnewton.runs.checkpoints import CheckpointKeeper, KeeperSettings, Resume
from distnewton.runs.evaluator import MetricsEvaluator
from distnewton.runs.history import History
from distnewton.runs.resume_check import run_identity, state_bytes
from distnewton.runs.setup import Setup
from distnewton.runs.summary import Observer, Result, RunSummary

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
        Data in memory, say :class:`~distnewton.data.in_memory.ArraySource`; by default what ``config.data`` names.
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


class Session(Setup):
    """The data, grid and network of a configuration, on which one method after the other can be trained.

    Parameters, attributes and errors are those of :class:`~distnewton.runs.setup.Setup`.

    Notes
    -----
    Collective over ``comm``, as all methods.
    """

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
            message = "runs of a session differ in [method], apart from C, and in their length"
            raise ConfigError(message, collective=True)
        if config.run.patience and "validation" not in self.held_out:
            raise ConfigError(
                "run.patience waits for a better validation metric: give data.validation or data.validation_fraction",
                collective=True,
            )
        self._check_memory(config)
        keeper: CheckpointKeeper | None = None
        evaluator = MetricsEvaluator(self.task, self.objective, self.y_train, self.held_out)
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
                trainer = Trainer(self.objective, params, schedule.stages, evaluator.measure, best)
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
                if error.collective:
                    schedule.free()
                if isinstance(error, NumericalError) and keeper and keeper.path:
                    text = f"{error}\nthe last checkpoint is {keeper.path}"
                    raise NumericalError(text, collective=error.collective) from None
                raise
            schedule.free()
            params = self._final_params(trainer, best, evaluator)
            return Result(
                Model(self.architecture, self.network, params, self.scaling),
                history,
                summary,
                trainer.stopped,
                keeper.path if keeper else None,
                evaluator.predictions(),
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

    def _final_params(self, trainer: Trainer, best: BestModel | None, evaluator: MetricsEvaluator) -> Array:
        """The variables of the result, whose outputs are then the last ones measured."""
        if best is None or best.params is None:
            if evaluator.last is None:
                # nothing was left to do: the point is a checkpoint's
                evaluator.measure(trainer.params, trainer.evaluation)
            return trainer.params
        if evaluator.last is None or not self._is_last(trainer, best):
            evaluator.measure(best.params, self.objective.evaluate(best.params, None))
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
                raise ConfigError("resume needs checkpoints: the folder to go on from", collective=True)
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
