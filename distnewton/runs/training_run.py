"""One run on a setup: from its first variables, through every iteration, to its result."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from distnewton.backend import Array, scalar
from distnewton.config import Config
from distnewton.config.method import regularization
from distnewton.data.scaled import gather_scaling
from distnewton.errors import DataError, DistNewtonError, NumericalError
from distnewton.launch.deadline import Clock
from distnewton.method.best_model import BestModel
from distnewton.method.records import IterationRecord
from distnewton.method.schedule import Schedule
from distnewton.method.trainer import Trainer
from distnewton.models.warm_start import Start, StartFrom
from distnewton.physics.network import check_residuals, set_unknowns
from distnewton.runs.checkpoints import CheckpointKeeper, Resume, keeper_of_run
from distnewton.runs.evaluator import MetricsEvaluator
from distnewton.runs.history import History
from distnewton.runs.replay import Replay
from distnewton.runs.setup import Setup
from distnewton.runs.summary import Observer, Result, summarize_run


def train_once(
    setup: Setup,
    config: Config,
    start: StartFrom | None,
    *,
    observers: Sequence[Observer],
    clock: Clock | None,
    checkpoints: str | Path | None,
    resume: Resume,
    replay: Replay | None,
) -> Result:
    """Train from the configuration's start, or from a checkpoint.

    Parameters
    ----------
    setup : Setup
        Data, network and ranks.
    config : Config
        The run, settled and checked.
    start, observers, clock, checkpoints, resume, replay
        Arguments of :meth:`distnewton.runs.session.Session.train`.

    Returns
    -------
    Result

    Notes
    -----
    Collective.
    """
    run, data, training = config.run, setup.data, setup.training
    objective = training.objective
    if config.method.C != setup.config.method.C:
        objective = objective.regularized(regularization(config.method.C, objective.n_counted))
    evaluator = MetricsEvaluator(
        setup.placement.network, data.task, training.objective, training.targets, data.held_out, data.residuals
    )
    best = BestModel(setup.comm, data.task.name, int(run.patience)) if "validation" in data.held_out else None
    with setup.limit_threads():
        origin = setup.start if start is None else Start(setup.comm, start)
        params = _first_params(setup, config, origin)
        schedule = Schedule(
            config.method, objective, run.n_iterations, run.seed, deterministic=run.deterministic,
            recorded=replay.steps() if replay else None,
        )  # fmt: skip
        trainer = Trainer(objective, params, schedule.stages, evaluator.measure, best)
        keeper = keeper_of_run(config, setup, trainer, checkpoints, clock)
        with _schedule_freed(schedule, keeper):
            notes = [*filter(None, [setup.note]), *schedule.notes, *keeper.begin(resume, observers)]
            if origin is not None and keeper.record is None:
                notes.append(f"starts from {origin.name}")
            summary = summarize_run(setup, config, schedule.transport, notes, resumed=keeper.record)
            history = History(filter(None, [keeper.record]))
            for observer in observers:
                observer.start(summary)
            # a checkpoint counts records, so that it comes last
            followers = [history.append, *(observer.iteration for observer in observers), keeper.follow]
            _iterate(trainer, config, clock, followers, replay)
            keeper.finish()
        return Result(
            setup.model(objective.network.expanded(_final_params(setup, trainer, evaluator))),
            history,
            summary,
            trainer.stopped,
            keeper.path,
            evaluator.predictions(),
            best.best if best else None,
            trainer.ended,
        )


def _first_params(setup: Setup, config: Config, origin: Start | None) -> Array:
    """The variables that a run begins with; terms of a residual problem are tried there."""
    residuals = setup.data.residuals
    with setup.comm.ledger.phase("init"):
        params = _random_params(setup, config) if origin is None else _params_of(setup, config, origin)
    if residuals is not None:
        check_residuals(residuals, setup.training.objective.network, params)
    return params


def _random_params(setup: Setup, config: Config) -> Array:
    """Random variables, and a residual problem's values of its unknown constants."""
    residuals = setup.data.residuals
    params = setup.training.objective.network.initial_params(config.run.seed, config.network.init)
    if residuals is not None:
        set_unknowns(residuals.problem, setup.placement.network, params)
    return params


def _params_of(setup: Setup, config: Config, origin: Start) -> Array:
    """The variables of a model that the run starts from; one that the setup did not start from is checked."""
    placement, network = setup.placement, setup.training.objective.network
    if origin is not setup.start:
        origin.check(placement.architecture, config.data.scale)
        origin.check_scaling(gather_scaling(placement.grid, setup.training.scaling))
    params = origin.params(placement.network)
    reduced = network.reduced(params)
    if placement.grid.world.any(scalar((params != 0).sum()) > scalar((reduced != 0).sum())):
        raise DataError(
            f"{origin.name} has weights for features that no training sample has: give it to the session",
            collective=True,
        )
    return reduced


def _final_params(setup: Setup, trainer: Trainer, evaluator: MetricsEvaluator) -> Array:
    """The variables of the result, whose outputs are then the last ones measured."""
    iteration, params = trainer.chosen
    if iteration != trainer.iteration:
        evaluator.measure(params, setup.training.objective.evaluate(params, None))
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
