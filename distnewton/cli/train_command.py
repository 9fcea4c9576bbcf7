"""The command ``train``."""

from __future__ import annotations

import argparse
from contextlib import closing, nullcontext
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
    from distnewton.runs.run_folder import RunFolder
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
    folder: RunFolder | None = None
    follower: _Follower | None = None
    with comm.collective_errors():
        folder = make_folder(config, options.recipe, resume) if comm.rank == 0 else None
    path = Path(comm.broadcast_json(str(folder.path.absolute()) if folder else ""))
    failures.folder = path
    with discarding([folder] if folder else []), StopSignals() as signals:
        check_visible(comm, path)
        clock = Clock(comm, config.run.max_seconds, signals)
        with comm.collective_errors():
            follower = _Follower(options, folder) if folder else None
        with closing(follower) if follower else nullcontext():
            result = session.train(
                config, comm, observers=follower.observers if follower else [], clock=clock,
                checkpoints=path / CHECKPOINTS_FOLDER, resume=resume,
            )  # fmt: skip
    with comm.collective_errors():
        if folder:
            folder.predictions(result.predictions)
    result.model.save(path / "model.safetensors")
    if follower:
        follower.finish(result)
    result.model.grid.free()
    code = _end(comm, result, config, path)
    if folder:
        folder.close()
    return code


class _Follower:
    """What follows a run on rank 0: its folder, the terminal, and events for TensorBoard where they are asked for.

    Parameters
    ----------
    options : argparse.Namespace
        Options of the command.
    folder : RunFolder
        Run folder.
    """

    def __init__(self, options: argparse.Namespace, folder: RunFolder) -> None:
        from distnewton.reporting.progress import Progress
        from distnewton.reporting.terminal import ends_on_terminal

        live = options.progress == "bar" or (options.progress == "auto" and ends_on_terminal())
        self.quiet, self.folder = options.quiet, folder
        self.console = make_console(watched=live or None)
        self.progress = Progress(self.console, live=live)
        self.observers: list[Any] = [*([] if self.quiet else [self.progress]), FolderWriter(folder)]
        if options.tensorboard:
            from distnewton.reporting.tensorboard import TensorBoard

            self.observers.append(TensorBoard(folder.path))

    def close(self) -> None:
        """Close what is open, however the run ends."""
        for follower in dict.fromkeys((self.progress, *self.observers)):
            if hasattr(follower, "close"):
                follower.close()

    def finish(self, result: Result) -> None:
        """Draw the picture, and show the result; a failure to draw never spoils a finished run."""
        from distnewton.reporting.report_pictures import save_convergence
        from distnewton.reporting.run_data import read_run
        from distnewton.runs.run_folder import PICTURE_FILE

        path = self.folder.path
        with picture_if_possible(self.console):
            save_convergence(read_run(path, path.name), path / PICTURE_FILE)
        if not self.quiet:
            self.progress.finish(result)
            print(f"run folder: {path}", flush=True)


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
