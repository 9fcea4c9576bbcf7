"""A run of ``train`` in its run folder, from its start to its exit code."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

from distnewton.checkpoint.folder import CHECKPOINTS_FOLDER
from distnewton.cli.follower import Follower, end_run
from distnewton.cli.output import tell_once
from distnewton.cli.results import discarding, make_folder
from distnewton.config import Config
from distnewton.guards.failures import failures
from distnewton.guards.signals import StopSignals
from distnewton.launch.deadline import Clock
from distnewton.launch.shared_folder import check_visible
from distnewton.models.model_file import MODEL_FILE
from distnewton.parallel.collectives import Communicator
from distnewton.runs import session
from distnewton.runs.checkpoints import Resume
from distnewton.runs.replay import Replay


def train_into_folder(
    signals: StopSignals, comm: Communicator, config: Config, options: argparse.Namespace, resume: Resume
) -> int:
    """Train into a run folder until the end, or until a signal or the clock stops the run.

    Parameters
    ----------
    signals : StopSignals
        Signals that stop the run.
    comm : Communicator
        All ranks.
    config : Config
        The run.
    options : argparse.Namespace
        Options of the command.
    resume : bool or "auto"
        Whether to resume from the newest checkpoint of the folder.

    Returns
    -------
    int
        Exit code.

    Notes
    -----
    Collective.
    """
    replay = Replay(comm, Path(options.replay)) if options.replay else None
    folder = None
    with comm.collective_errors():
        folder = make_folder(config, options.recipe, resume) if comm.rank == 0 else None
    path = Path(comm.broadcast_json(str(folder.path.absolute()) if folder else ""))
    failures.folder = path
    with discarding([folder] if folder else []):
        check_visible(comm, path)
        clock = Clock(comm, config.run.max_seconds, signals)
        with comm.collective_errors():
            follower = Follower(options, folder)
        with closing(follower):
            result = session.train(
                config, comm, observers=follower.observers, clock=clock, checkpoints=path / CHECKPOINTS_FOLDER,
                resume=resume, replay=replay,
            )  # fmt: skip
    with comm.collective_errors():
        follower.keep(result)
    result.model.save(path / MODEL_FILE)
    follower.finish(result)
    result.model.grid.free()
    if replay:
        tell_once(comm, replay.verdict)
    code = end_run(comm, result, config, path)
    if folder:
        folder.close()
    return code
