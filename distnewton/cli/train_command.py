"""The command ``train``."""

from __future__ import annotations

import argparse
from contextlib import closing, nullcontext
from importlib import import_module
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from distnewton.cli.command import COMMANDS, DATA_DIR, DEVICE, RECIPE, RUN_DIR, SET, argument, command
from distnewton.cli.follower import Follower, end_run
from distnewton.cli.output import tell_once
from distnewton.cli.results import discarding, make_folder, write_text
from distnewton.cli.setting_help import settings_text
from distnewton.cli.settings import settle_resumption, shared_config
from distnewton.cli.streams import results_go_to_files
from distnewton.config import to_toml
from distnewton.data.formats.spool import STANDARD
from distnewton.guards.failures import failures
from distnewton.launch.startup import guard, launched_rank, launched_size, world_communicator

if TYPE_CHECKING:
    from distnewton.config import Config
    from distnewton.guards.signals import StopSignals
    from distnewton.parallel.collectives import Communicator
    from distnewton.runs.checkpoints import Resume
    from distnewton.runs.run_folder import RunFolder

_NOTICE = "distnewton: interrupted; the run saves a checkpoint after this iteration. Ctrl-C again ends it at once"


@command(
    "train",
    "train a network",
    RECIPE,
    SET,
    argument(
        "--resume", nargs="?", const="", metavar="RUN", help="continue from the newest checkpoint (=auto: if any)"
    ),
    argument("--replay", metavar="RUN", help="repeat a run bit for bit, on as many ranks"),
    argument("--start", metavar="MODEL", help="run folder or model file with the first weights"),
    RUN_DIR,
    DATA_DIR,
    DEVICE,
    argument("--dry-run", action="store_true", help="predict memory, messages and seconds, then stop"),
    argument("--print-config", action="store_true", help="show the resolved configuration, then stop"),
    argument("--quiet", action="store_true", help="show warnings and errors only"),
    argument("--tensorboard", action="store_true", help="also write events to RUN/tensorboard"),
    usage="[RECIPE] [OPTION ...] [--SECTION.KEY VALUE ...]",
    setting_flags=True,
    appendix=settings_text,
)  # fmt: skip
def train(options: argparse.Namespace) -> int:
    """Train as configured; rank 0 reads the recipe for all ranks."""
    return _dry_run(options) if options.dry_run else _train(options)


def _dry_run(options: argparse.Namespace) -> int:
    """Plan the run for the ranks of this launch; rank 0 does so alone."""
    if launched_rank() != 0:
        return 0
    import_module("distnewton.cli.plan_command")
    planned = COMMANDS["plan"].parse(["--ranks", str(launched_size())])
    return COMMANDS["plan"].run(argparse.Namespace(**{**vars(planned), **vars(options)}))


def _train(options: argparse.Namespace) -> int:
    """Train to the end, to the time limit, or to a signal."""
    from distnewton.cluster.job import is_waiting
    from distnewton.guards.signals import StopSignals

    resume = settle_resumption(options)
    if options.run_dir and is_waiting(Path(options.run_dir)):
        # a job's own folder: what fails before its recipe is read is kept there, too
        failures.folder = Path(options.run_dir)
    comm = world_communicator()
    config = shared_config(comm, options)
    if options.print_config:
        from distnewton.runs.automatic import settle_by_data

        with comm.collective_errors():
            if comm.rank == 0:
                write_text(Path(STANDARD), to_toml(settle_by_data(config)) + "\n")
        return 0
    if resume and not options.recipe:
        _tell_limit(comm, config, options)
    guard(comm, config.run.hang_seconds, config.run.warn_seconds, checked="messages" in config.run.checks)
    # from here on to the very end: a signal must not come between a run that is set aside and the one that replaces it
    results_go_to_files()
    with StopSignals(notice=_NOTICE if comm.rank == 0 else "") as signals:
        return _train_until(signals, comm, config, options, resume)


def _tell_limit(comm: Communicator, config: Config, options: argparse.Namespace) -> None:
    """Tell of a limit that comes from the run that is resumed, and not from the command."""
    if isfinite(config.run.max_seconds) and not any("run.max_seconds" in given for given in options.set):
        tell_once(
            comm, f"run.max_seconds = {config.run.max_seconds:g} holds for this command, too; --run.max_seconds inf "
            "lifts it"
        )  # fmt: skip


def _train_until(
    signals: StopSignals, comm: Communicator, config: Config, options: argparse.Namespace, resume: Resume
) -> int:
    """Train into a run folder until the end, or until a signal or the clock stops the run."""
    from distnewton.checkpoint.folder import CHECKPOINTS_FOLDER
    from distnewton.launch.deadline import Clock
    from distnewton.launch.shared_folder import check_visible
    from distnewton.runs import session
    from distnewton.runs.replay import Replay

    folder: RunFolder | None = None
    follower: Follower | None = None
    replay = Replay(comm, Path(options.replay)) if options.replay else None
    with comm.collective_errors():
        folder = make_folder(config, options.recipe, resume) if comm.rank == 0 else None
    path = Path(comm.broadcast_json(str(folder.path.absolute()) if folder else ""))
    failures.folder = path
    with discarding([folder] if folder else []):
        check_visible(comm, path)
        clock = Clock(comm, config.run.max_seconds, signals)
        with comm.collective_errors():
            follower = Follower(options, folder) if folder else None
        with closing(follower) if follower else nullcontext():
            result = session.train(
                config, comm, observers=follower.observers if follower else [], clock=clock,
                checkpoints=path / CHECKPOINTS_FOLDER, resume=resume, replay=replay,
            )  # fmt: skip
    with comm.collective_errors():
        if folder:
            folder.predictions(result.predictions)
    result.model.save(path / "model.safetensors")
    if follower:
        follower.finish(result)
    result.model.grid.free()
    if replay:
        tell_once(comm, replay.verdict)
    code = end_run(comm, result, config, path)
    if folder:
        folder.close()
    return code
