"""The command ``train``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distnewton.cli.command import COMMANDS, DATA_DIR, DEVICE, RECIPE, RUN_DIR, SET, argument, command
from distnewton.cli.output import make_console, say, tell_once
from distnewton.cli.results import FolderWriter, discarding, make_folder, picture_if_possible
from distnewton.cli.setting_help import settings_text
from distnewton.cli.settings import settle_resumption, shared_config
from distnewton.config import Config, to_toml
from distnewton.errors import STOPPED_EARLY
from distnewton.guards.failures import failures
from distnewton.guards.watchdog import watchdog
from distnewton.launch.startup import guard, launched_rank, launched_size, world_communicator
from distnewton.parallel.collectives import Communicator

if TYPE_CHECKING:
    from rich.console import Console

    from distnewton.reporting.progress import Progress
    from distnewton.reporting.tensorboard import TensorBoard
    from distnewton.runs.session import Result


@command(
    "train",
    "train a network",
    RECIPE,
    SET,
    argument(
        "--resume", nargs="?", const="", metavar="RUN", help="continue from the newest checkpoint (=auto: if any)"
    ),
    argument("--start", metavar="MODEL", help="run folder or model file with the first weights"),
    RUN_DIR,
    DATA_DIR,
    DEVICE,
    argument("--dry-run", action="store_true", help="predict memory, messages and seconds, then stop"),
    argument("--print-config", action="store_true", help="show the resolved configuration, then stop"),
    argument("--quiet", action="store_true", help="show warnings and errors only"),
    argument(
        "--progress", choices=("auto", "bar", "lines"), default="auto", metavar="NAME",
        help="auto (default), bar or lines",
    ),
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
    from distnewton.cli.plan_command import show_plans

    if launched_rank() != 0:
        return 0
    planned = COMMANDS["plan"].parse(["--ranks", str(launched_size())])
    return show_plans(argparse.Namespace(**{**vars(planned), **vars(options)}))


def _train(options: argparse.Namespace) -> int:
    """Train to the end, to the time limit, or to a signal."""
    from distnewton.checkpoint.folder import CHECKPOINTS_FOLDER
    from distnewton.cluster.job import is_waiting
    from distnewton.guards.signals import StopSignals
    from distnewton.launch.deadline import Clock
    from distnewton.launch.shared_folder import check_visible
    from distnewton.reporting.progress import Progress
    from distnewton.reporting.terminal import ends_on_terminal
    from distnewton.runs import session

    resume = settle_resumption(options)
    if options.run_dir and is_waiting(Path(options.run_dir)):
        # a job's own folder: what fails before its recipe is read is kept there, too
        failures.folder = Path(options.run_dir)
    comm = world_communicator()
    config = shared_config(comm, options)
    if options.print_config:
        say(comm, to_toml(config))
        return 0
    guard(comm, config.run.hang_seconds, config.run.warn_seconds, checked=config.run.checked)
    live = options.progress == "bar" or (options.progress == "auto" and ends_on_terminal())
    console, folder = make_console(watched=live or None), None
    with comm.collective_errors():
        folder = make_folder(config, options.recipe, resume) if comm.rank == 0 else None
    path = Path(comm.broadcast_json(str(folder.path.absolute()) if folder else ""))
    failures.folder = path
    progress = Progress(console, live=live) if comm.rank == 0 else None
    observers: list[Any] = [FolderWriter(folder)] if folder else []
    if progress and not options.quiet:
        observers.insert(0, progress)
    with discarding([folder] if folder else []), StopSignals() as signals:
        check_visible(comm, path)
        clock = Clock(comm, config.run.max_seconds, signals)
        checkpoints = path / CHECKPOINTS_FOLDER
        with _closing(progress, *_tensorboard(comm, options, path, observers)):
            result = session.train(
                config, comm, observers=observers, clock=clock, checkpoints=checkpoints, resume=resume
            )
    with comm.collective_errors():
        if folder is not None:
            folder.predictions(result.predictions)
    result.model.save(path / "model.safetensors")
    if progress and folder:
        _draw(folder.path, console)
        if not options.quiet:
            progress.finish(result)
            say(comm, f"run folder: {folder.path}")
    result.model.grid.free()
    code = _end(comm, result, config, path)
    if folder:
        folder.close()
    return code


def _tensorboard(
    comm: Communicator, options: argparse.Namespace, path: Path, observers: list[Any]
) -> list[TensorBoard]:
    """Add what writes events for TensorBoard, on rank 0, where that is asked for."""
    writers: list[TensorBoard] = []
    if options.tensorboard:
        with comm.collective_errors():
            if comm.rank == 0:
                from distnewton.reporting.tensorboard import TensorBoard

                writers.append(TensorBoard(path))
    observers += writers
    return writers


@contextmanager
def _closing(*followers: Progress | TensorBoard | None) -> Iterator[None]:
    """Close what follows a run, however it ends."""
    try:
        yield
    finally:
        for follower in followers:
            if follower is not None:
                follower.close()


def _draw(path: Path, console: Console) -> None:
    """Draw the picture; a missing extra or a failure to draw never spoils a finished run."""
    from distnewton.reporting.report_pictures import save_convergence
    from distnewton.reporting.run_data import read_run
    from distnewton.runs.run_folder import PICTURE_FILE

    with picture_if_possible(console):
        save_convergence(read_run(path, path.name), path / PICTURE_FILE)


def _end(comm: Communicator, result: Result, config: Config, path: Path) -> int:
    """Say how training ended; code 75 asks the job script to queue the run again."""
    from distnewton.launch.deadline import Stop
    from distnewton.runs.run_folder import write_end

    code = STOPPED_EARLY if result.stopped else 0
    if result.stopped:
        why = "by the clock" if result.stopped is Stop.CLOCK else "by a signal"
        saved = "a checkpoint and the model are" if result.checkpoint else "the model is"
        how = f"; distnewton train --resume {path} goes on" if result.checkpoint else ""
        tell_once(
            comm,
            f"stopped {why} after iteration {result.last.iteration} of {config.run.iterations}; {saved} saved, exit "
            f"code {code}{how}",
        )
    # rank 0 may still be at the picture
    with watchdog.patient(), comm.collective_errors():
        if comm.rank == 0:
            write_end(path, code)
    return code
