"""A whole training run: data, grid, network and trainer from one configuration."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from distnewton.backend import Array, scalar
from distnewton.components import with_components
from distnewton.config import Config
from distnewton.config.method import regularization
from distnewton.data.scaled import gather_scaling
from distnewton.errors import ConfigError, DataError, DistNewtonError, NumericalError
from distnewton.guards.signals import StopSignals
from distnewton.launch.deadline import Clock, Stop
from distnewton.method.best_model import BestModel
from distnewton.method.records import IterationRecord
from distnewton.method.schedule import Schedule, check_memory
from distnewton.method.trainer import Trainer
from distnewton.models.warm_start import Start, StartFrom
from distnewton.network.losses import Loss
from distnewton.parallel.collectives import Communicator
from distnewton.physics.network import check_residuals, set_unknowns
from distnewton.runs.checkpoints import CheckpointKeeper, Resume, keeper_of_run
from distnewton.runs.evaluator import MetricsEvaluator
from distnewton.runs.history import History
from distnewton.runs.replay import Replay
from distnewton.runs.setup import Setup
from distnewton.runs.summary import Observer, Result, RunSummary, summarize_run

__all__ = ["Observer", "Result", "RunSummary", "Session", "train"]


def train(
    config: Config,
    comm: Any = None,
    *,
    train_data: Any = None,
    test_data: Any = None,
    validation_data: Any = None,
    start: StartFrom | None = None,
    direction: Any = None,
    loss: Loss | None = None,
    observers: Sequence[Observer] = (),
    clock: Clock | None = None,
    checkpoints: str | Path | None = None,
    resume: Resume = False,
    replay: Replay | None = None,
) -> Result:
    """Train a network as configured.

    Parameters
    ----------
    config : Config
        The run.
    comm : mpi4py.MPI.Intracomm, Communicator, None, or training data
        The ranks; None is this process alone, without MPI. Anything else is ``train_data``, for this process alone.
    train_data, test_data, validation_data : DataSource, tuple of X and y, frame, path, or None
        Data in memory, as of :func:`~distnewton.data.in_memory.as_source`; by default what ``config.data`` names. A
        frame holds its labels in the column that ``config.data.label_column`` names, or that a file would have.
    start : Model, path or None
        Model, model file or run folder whose weights and scaling the run begins with, on any grid; by default what
        ``config.network.start`` names, or random weights. Under MPI all ranks name the same.
    direction : Direction, type of Direction or None
        Direction of one's own in place of ``config.method.direction``; the options of an instance win over the
        configuration's.
    loss : Loss or None
        Loss of one's own in place of ``config.network.loss``.
    observers : sequence of Observer
        Told of the start and of each iteration, on every rank.
    clock : Clock or None
        When to stop before the last iteration; None for never.
    checkpoints : path or None
        Folder in which all ranks save, and from which a run resumes; None saves nothing. Where there is one, and no
        clock, Ctrl-C lets the iteration end and saves; a second one ends at once.
    resume : bool or "auto"
        Go on from the newest checkpoint there; with ``"auto"`` begin anew where there is none.
    replay : Replay or None
        Run that is repeated: its directions end where they did, and training ends where it did.

    Returns
    -------
    Result

    Raises
    ------
    DistNewtonError
        With advice; on every rank alike where it is marked as agreed.
    KeyboardInterrupt
        After Ctrl-C on any rank.

    Notes
    -----
    Collective over ``comm``.
    """
    if not isinstance(config, Config):
        raise ConfigError(f"expected a Config, got a {type(config).__name__}; make_config(tables) makes one")
    if direction is not None or loss is not None:
        config = with_components(config, direction, loss)
    if not _is_communicator(comm):
        if train_data is not None:
            raise ConfigError("the training data is given twice: behind the configuration, and as train_data")
        comm, train_data = None, comm
    given = {"train": train_data, "validation": validation_data, "test": test_data}
    session = Session(config, comm, given=given, start=start)
    run = partial(session.train, config, observers=observers, checkpoints=checkpoints, resume=resume, replay=replay)
    if clock is not None or checkpoints is None:
        return run(clock=clock)
    with StopSignals([signal.SIGINT]) as signals:
        result = run(clock=Clock(session.setup.comm, None, signals))
    if result.stopped is Stop.INTERRUPT:
        raise KeyboardInterrupt(f"interrupted after iteration {result.last.iteration}; saved as {result.checkpoint}")
    return result


def _is_communicator(given: Any) -> bool:
    return given is None or isinstance(given, Communicator) or hasattr(given, "Get_rank")


class Session:
    """One method after the other, trained on the same data, network and ranks.

    Parameters
    ----------
    config, comm, given, start : Config, Any, mapping, StartFrom
        Arguments of :class:`~distnewton.runs.setup.Setup`.

    Attributes
    ----------
    setup : Setup
        Data, network and ranks, which all runs of the session share.

    Notes
    -----
    Collective over ``comm``, as all methods.
    """

    def __init__(
        self,
        config: Config,
        comm: Any = None,
        *,
        given: Mapping[str, Any] | None = None,
        start: StartFrom | None = None,
    ) -> None:
        self.setup = Setup(config, comm, given, start)

    def free(self) -> None:
        """Free the communicators of the grid."""
        self.setup.placement.grid.free()

    def summary(self, config: Config) -> RunSummary:
        """Summary of a run of this session."""
        return summarize_run(self.setup, self.setup.settle(config))

    def train(
        self,
        config: Config,
        *,
        start: StartFrom | None = None,
        observers: Sequence[Observer] = (),
        clock: Clock | None = None,
        checkpoints: str | Path | None = None,
        resume: Resume = False,
        replay: Replay | None = None,
    ) -> Result:
        """Train from the configuration's start, or from a checkpoint.

        Parameters
        ----------
        config : Config
            The session's own, or one with another ``[method]`` and another length of the run; C differs only where
            ``auto`` has chosen that of the session.
        start : Model, path or None
            Model whose weights the run begins with; by default the session's, or random weights. Its scaling must be
            the session's.
        observers, clock, checkpoints, resume, replay
            Arguments of :func:`train`, whose errors are raised, too.

        Returns
        -------
        Result
        """
        setup = self.setup
        config = setup.settle(config)
        run = config.run
        self._check(config, checkpoints, resume)
        data, training = setup.data, setup.training
        objective = training.objective
        if config.method.C != setup.config.method.C:
            objective = objective.regularized(regularization(config.method.C, objective.n_counted))
        evaluator = MetricsEvaluator(
            setup.placement.network, data.task, training.objective, training.targets, data.held_out, data.residuals
        )
        best = BestModel(setup.comm, data.task.name, int(run.patience)) if "validation" in data.held_out else None
        with setup.limit_threads():
            origin = setup.start if start is None else Start(setup.comm, start)
            with setup.comm.ledger.phase("init"):
                params = self._first_params(config, origin)
            schedule = Schedule(
                config.method, objective, run.n_iterations, run.seed, deterministic=run.deterministic,
                recorded=replay.steps() if replay else None,
            )  # fmt: skip
            if data.residuals is not None:
                check_residuals(data.residuals, training.objective.network, params)
            trainer = Trainer(objective, params, schedule.stages, evaluator.measure, best)
            keeper = keeper_of_run(config, setup, trainer, checkpoints, clock)
            with _schedule_freed(schedule, keeper):
                notes = [*filter(None, [setup.note]), *schedule.notes, *keeper.begin(resume, observers)]
                if origin is not None and keeper.record is None:
                    notes.append(f"starts from {origin.name}")
                summary = summarize_run(setup, config, schedule.transport, notes, resumed=keeper.record)
                history = History([keeper.record] if keeper.record else [])
                for observer in observers:
                    observer.start(summary)
                # a checkpoint counts records, so that it comes last
                followers = [history.append, *(observer.iteration for observer in observers), keeper.follow]
                _iterate(trainer, config, clock, followers, replay)
                keeper.finish()
            return Result(
                setup.model(objective.network.expanded(self._final_params(trainer, evaluator))),
                history,
                summary,
                trainer.stopped,
                keeper.path,
                evaluator.predictions(),
                best.best if best else None,
                trainer.ended,
            )

    def _check(self, config: Config, checkpoints: str | Path | None, resume: Resume) -> None:
        """Refuse a run that the session's data and network do not serve."""
        setup, own = self.setup, self.setup.config
        length = {key: getattr(own.run, key) for key in ("iterations", "seconds", "patience", "tolerance")}
        same = {"method": own.method, "run": config.run.model_copy(update=length)}
        other_constant = config.method.C != own.method.C and not setup.chooses
        if config.model_copy(update=same) != own or other_constant:
            message = "runs of a session differ in [method], apart from C, and in their length"
            raise ConfigError(message, collective=True)
        if config.run.patience and "validation" not in setup.data.held_out:
            raise ConfigError(
                "run.patience waits for a better validation metric: give data.validation or data.validation_fraction",
                collective=True,
            )
        if resume and checkpoints is None:
            raise ConfigError("resume needs checkpoints: the folder to resume from", collective=True)
        network, n_ranks = setup.placement.network, setup.placement.grid.world.size
        check_memory(
            config.method, setup.data.n_train, setup.data.task.n_out, network.backend.dtype.itemsize,
            config.run.memory_mb, n_ranks, network.shape.n_params,
        )  # fmt: skip

    def _first_params(self, config: Config, origin: Start | None) -> Array:
        """The variables that a run begins with."""
        placement, network = self.setup.placement, self.setup.training.objective.network
        if origin is None:
            params = network.initial_params(config.run.seed, config.network.init)
            if self.setup.data.residuals is not None:
                set_unknowns(self.setup.data.residuals.problem, placement.network, params)
            return params
        if origin is not self.setup.start:
            origin.check(placement.architecture, config.data.scale)
            origin.check_scaling(gather_scaling(placement.grid, self.setup.training.scaling))
        params = origin.params(placement.network)
        reduced = network.reduced(params)
        if placement.grid.world.any(scalar((params != 0).sum()) > scalar((reduced != 0).sum())):
            raise DataError(
                f"{origin.name} has weights for features that no training sample has: give it to the session",
                collective=True,
            )
        return reduced

    def _final_params(self, trainer: Trainer, evaluator: MetricsEvaluator) -> Array:
        """The variables of the result, whose outputs are then the last ones measured."""
        iteration, params = trainer.chosen
        if iteration != trainer.iteration:
            evaluator.measure(params, self.setup.training.objective.evaluate(params, None))
        elif evaluator.last is None:
            # nothing was left to do: the point is a checkpoint's
            evaluator.measure(params, trainer.evaluation)
        return params


def _iterate(
    trainer: Trainer,
    config: Config,
    clock: Clock | None,
    followers: Sequence[Callable[[IterationRecord], None]],
    replay: Replay | None,
) -> None:
    """Train to the end of the run, or of the repeated one; followers are told of each iteration in turn."""
    run, must_stop = config.run, clock.must_stop if clock else None
    length = (replay.n_iterations, math.inf) if replay else (run.n_iterations, run.seconds)
    for record in trainer.iterations(*length, must_stop, tolerance=run.tolerance):
        if replay:
            replay.iteration(record)
        for follow in followers:
            follow(record)


@contextmanager
def _schedule_freed(schedule: Schedule, keeper: CheckpointKeeper) -> Iterator[None]:
    """Free what the schedule holds open at the end; name the checkpoint that is left where numbers went wrong."""
    try:
        yield
    except DistNewtonError as error:
        # freeing is collective: only where every rank gets here
        if error.collective:
            schedule.free()
        if isinstance(error, NumericalError) and keeper.path:
            text = f"{error}\nthe last checkpoint is {keeper.path}"
            raise NumericalError(text, collective=error.collective) from None
        raise
    schedule.free()
