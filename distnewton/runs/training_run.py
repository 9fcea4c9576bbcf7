"""One run on a setup, from its first variables through every iteration to its result."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from distnewton.backend import Array, scalar
from distnewton.config import Config
from distnewton.data.scaled import gather_scaling
from distnewton.errors import DataError, DistNewtonError, NumericalError
from distnewton.launch.deadline import Clock
from distnewton.method.best_model import BestModel
from distnewton.method.records import IterationRecord
from distnewton.method.trainer import Trainer
from distnewton.models.warm_start import Start, StartFrom
from distnewton.physics.network import check_residuals, set_unknowns
from distnewton.runs.checkpoints import CheckpointKeeper, Resume, keeper_of_run
from distnewton.runs.engine import Engine, make_engine
from distnewton.runs.evaluator import MetricsEvaluator
from distnewton.runs.history import History
from distnewton.runs.moving import MovingPartition
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
    data = setup.data
    best = BestModel(setup.comm, data.task.name, int(config.run.patience)) if "validation" in data.held_out else None
    moving = _moving_partition(setup, config, replay)
    with setup.limit_threads():
        origin = setup.start if start is None else Start(setup.comm, start)
        params = _first_params(setup, config, origin)
        engine = make_engine(setup, config, params, best, replay.steps() if replay else None)
        keeper = keeper_of_run(config, setup, engine.trainer, checkpoints, clock)
        course = _Course(engine, best, keeper, moving)
        with course.ending():
            notes = [*filter(None, [setup.note]), *engine.schedule.notes, *keeper.begin(resume, observers)]
            if origin is not None and keeper.record is None:
                notes.append(f"starts from {origin.name}")
                if config.run.tolerance and setup.placement.grid.partition.n_layers == 1:
                    # the tolerance of a convex problem must not depend on how good the start is
                    engine.trainer.count_from_zero()
            summary = summarize_run(setup, config, engine.schedule.transport, notes, resumed=keeper.record)
            history = History(filter(None, [keeper.record]))
            for observer in observers:
                observer.start(summary)
            # last, because a checkpoint relies on what the others have recorded
            followers = [history.append, *(observer.iteration for observer in observers), keeper.follow]
            course.iterate(config, clock, followers, replay)
            keeper.finish()
        trainer, evaluator = course.engine.trainer, course.engine.evaluator
        return Result(
            setup.model(trainer.objective.network.expanded(_final_params(setup, trainer, evaluator))),
            history,
            summary,
            trainer.stopped,
            keeper.path,
            evaluator.predictions(),
            best.best if best else None,
            trainer.ended,
        )


def _moving_partition(setup: Setup, config: Config, replay: Replay | None) -> MovingPartition | None:
    """Return what moves the partition, where the run says so and there is something to move."""
    if config.partition.speeds != "auto" or setup.placement.grid.size == 1:
        return None
    return MovingPartition(setup, config, replay=replay is not None)


def _first_params(setup: Setup, config: Config, origin: Start | None) -> Array:
    """Return the first variables of a run; try the terms of a residual problem at them."""
    residuals = setup.data.residuals
    with setup.comm.ledger.phase("init"):
        params = _random_params(setup, config) if origin is None else _params_of(setup, config, origin)
    if residuals is not None:
        check_residuals(residuals, setup.training.objective.network, params)
    return params


def _random_params(setup: Setup, config: Config) -> Array:
    """Draw random variables; set unknown constants to the values that a residual problem gives."""
    residuals = setup.data.residuals
    params = setup.training.objective.network.initial_params(config.run.seed, config.network.init)
    if residuals is not None:
        set_unknowns(residuals.problem, setup.placement.network, params)
    return params


def _params_of(setup: Setup, config: Config, origin: Start) -> Array:
    """Return the variables of the model that the run starts from; check the model if the setup has not done so."""
    placement, network = setup.placement, setup.training.objective.network
    if origin is not setup.start:
        origin.check(placement.architecture, config.data.scale)
        origin.check_scaling(gather_scaling(placement.grid, setup.training.scaling))
    params = origin.params(placement.network)
    reduced = network.reduced(params)
    if placement.grid.world.any(scalar((params != 0).sum()) > scalar((reduced != 0).sum())):
        raise DataError(
            f"{origin.name} has weights for features that no training sample has: pass it as the session's start",
            collective=True,
        )
    return reduced


def _final_params(setup: Setup, trainer: Trainer, evaluator: MetricsEvaluator) -> Array:
    """Return the variables of the result; their outputs are then the ones measured last."""
    iteration, params = trainer.chosen
    if iteration != trainer.iteration:
        evaluator.measure(params, setup.training.objective.evaluate(params, None))
    elif evaluator.last is None:
        # no iteration was left to do: the point comes from a checkpoint
        evaluator.measure(params, trainer.evaluation)
    return params


class _Course:
    """A run from its first iteration to its last, on one partition or on several in turn."""

    def __init__(
        self, engine: Engine, best: BestModel | None, keeper: CheckpointKeeper, moving: MovingPartition | None
    ) -> None:
        self.engine, self._best, self._keeper, self._moving = engine, best, keeper, moving

    def iterate(
        self,
        config: Config,
        clock: Clock | None,
        followers: Sequence[Callable[[IterationRecord], None]],
        replay: Replay | None,
    ) -> None:
        """Train to the end of the run, or of the replayed one; call the followers, in order, after each iteration."""
        run, must_stop = config.run, clock.must_stop if clock else None
        length = (replay.n_iterations, math.inf) if replay else (run.n_iterations, run.seconds)
        moves = True
        while moves:
            moves = False
            for record in self.engine.trainer.iterations(*length, must_stop, tolerance=run.tolerance):
                if replay:
                    replay.iteration(record)
                if self._moving:
                    self._moving.announce(record)
                for follow in followers:
                    follow(record)
                if moves := self._moves(record):
                    break

    def _moves(self, record: IterationRecord) -> bool:
        """Move the partition if a move is due; tell whether a new engine does the next iteration."""
        if self._moving is None or self.engine.trainer.stopped or not self._moving.is_due(record):
            return False
        before, self.engine = self.engine, self._moving.move(self.engine, self._best)
        self._keeper.rebind(self.engine.trainer)
        return self.engine is not before

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Free the run's resources at its end; add the last checkpoint to a numerical error."""
        try:
            yield
        except DistNewtonError as error:
            # freeing is collective, so only if every rank gets here
            if error.collective:
                self.engine.schedule.free()
            if isinstance(error, NumericalError) and self._keeper.path:
                text = f"{error}\nthe last checkpoint is {self._keeper.path}"
                raise NumericalError(text, collective=error.collective) from None
            raise
        self.engine.schedule.free()
