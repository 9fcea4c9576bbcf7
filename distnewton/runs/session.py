"""A whole training run: data, grid, network and trainer from one configuration."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from distnewton.components import with_components
from distnewton.config import Config
from distnewton.errors import ConfigError
from distnewton.guards.signals import StopSignals
from distnewton.launch.deadline import Clock, Stop
from distnewton.method.schedule import check_memory
from distnewton.models.warm_start import StartFrom
from distnewton.network.losses import Loss
from distnewton.parallel.collectives import Communicator
from distnewton.runs.checkpoints import Resume
from distnewton.runs.replay import Replay
from distnewton.runs.setup import Setup
from distnewton.runs.summary import Observer, Result, RunSummary, summarize_run
from distnewton.runs.training_run import train_once

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
        Data in memory, as :func:`~distnewton.data.in_memory.as_source` takes it; by default what ``config.data`` names.
        The labels of a frame are in the column that ``config.data.label_column`` names, or where a file would have
        them.
    start : Model, path or None
        Model, model file or run folder whose weights and scaling the run begins with, on any grid; by default what
        ``config.network.start`` names, or random weights. Under MPI all ranks must name the same one.
    direction : Direction, type of Direction or None
        The caller's own direction in place of ``config.method.direction``; the options of an instance win over the
        configuration's.
    loss : Loss or None
        The caller's own loss in place of ``config.network.loss``.
    observers : sequence of Observer
        Called at the start and after each iteration, on every rank.
    clock : Clock or None
        Decides when to stop before the last iteration; None never stops.
    checkpoints : path or None
        Folder in which all ranks save checkpoints, and from which a run resumes; None saves nothing. With a folder and
        no clock, Ctrl-C saves after the current iteration and stops; a second Ctrl-C stops at once.
    resume : bool or "auto"
        Whether to continue from the newest checkpoint in that folder; ``"auto"`` starts anew if there is none.
    replay : Replay or None
        Run to repeat: directions and training end where they ended in it.

    Returns
    -------
    Result

    Raises
    ------
    DistNewtonError
        With advice; on every rank alike if its ``collective`` is true.
    KeyboardInterrupt
        After Ctrl-C on any rank.

    Notes
    -----
    Collective over ``comm``.
    """
    if not isinstance(config, Config):
        raise ConfigError(f"expected a Config, got a {type(config).__name__}; make_config(tables) returns one")
    if direction is not None or loss is not None:
        config = with_components(config, direction, loss)
    if not _is_communicator(comm):
        if train_data is not None:
            raise ConfigError("the training data is given twice: after the configuration, and as train_data")
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
    """Trains several methods, one after the other, on the same data, network and ranks.

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
    Collective over ``comm``, as are all methods.
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
        """Free the communicators of the grid (collective)."""
        self.setup.placement.grid.free()

    def summary(self, config: Config) -> RunSummary:
        """Summarise a run of this session."""
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
            The session's configuration, or one with another ``[method]`` and another length of the run. C may differ
            only if ``auto`` chose that of the session.
        start : Model, path or None
            Model whose weights the run begins with; by default the session's, or random weights. Its scaling must be
            the session's.
        observers, clock, checkpoints, resume, replay
            As in :func:`train`, whose errors this method also raises.

        Returns
        -------
        Result
        """
        config = self.setup.settle(config)
        self._check(config, checkpoints, resume)
        return train_once(
            self.setup, config, start, observers=observers, clock=clock, checkpoints=checkpoints, resume=resume,
            replay=replay,
        )  # fmt: skip

    def _check(self, config: Config, checkpoints: str | Path | None, resume: Resume) -> None:
        """Refuse a run that does not fit the session's data and network."""
        setup, own = self.setup, self.setup.config
        length = {key: getattr(own.run, key) for key in ("iterations", "seconds", "patience", "tolerance")}
        same = {"method": own.method, "run": config.run.model_copy(update=length)}
        other_constant = config.method.C != own.method.C and not setup.chooses
        if config.model_copy(update=same) != own or other_constant:
            message = "runs of a session may differ only in [method], except C, and in their length"
            raise ConfigError(message, collective=True)
        if config.run.patience and "validation" not in setup.data.held_out:
            raise ConfigError(
                "run.patience waits for a better validation metric: give data.validation or data.validation_fraction",
                collective=True,
            )
        if resume and checkpoints is None:
            raise ConfigError("resume needs checkpoints: the folder to resume from", collective=True)
        n_ranks, n_params = setup.placement.grid.world.size, setup.placement.network.shape.n_params
        check_memory(config, setup.data.n_train, setup.data.task.n_out, n_ranks, n_params)
