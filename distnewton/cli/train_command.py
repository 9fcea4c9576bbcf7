"""The command ``train``."""

from __future__ import annotations

import argparse
from importlib import import_module
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from distnewton.cli.command import COMMANDS, DATA_DIR, DEVICE, RECIPE, RUN_DIR, SET, argument, command
from distnewton.cli.output import tell_once
from distnewton.cli.results import write_text
from distnewton.cli.setting_help import settings_text
from distnewton.cli.settings import settle_resumption, shared_config
from distnewton.cli.streams import results_go_to_files
from distnewton.config import to_toml
from distnewton.data.formats.spool import STANDARD
from distnewton.guards.failures import failures
from distnewton.launch.startup import guard, launched_rank, launched_size, world_communicator

if TYPE_CHECKING:
    from distnewton.config import Config
    from distnewton.parallel.collectives import Communicator

_NOTICE = "distnewton: interrupted; the run saves a checkpoint after this iteration. Ctrl-C again stops it at once"


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
    """Train until the end, the time limit or a signal."""
    from distnewton.cli.training import train_into_folder
    from distnewton.guards.signals import StopSignals

    resume = settle_resumption(options)
    if options.run_dir:
        from distnewton.cluster.job import is_waiting

        if is_waiting(Path(options.run_dir)):
            # the folder belongs to the job, so errors before the recipe is read are kept there too
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
    # to the very end: a signal must not interrupt between setting a run aside and beginning the one that replaces it
    results_go_to_files()
    with StopSignals(notice=_NOTICE if comm.rank == 0 else "") as signals:
        return train_into_folder(signals, comm, config, options, resume)


def _tell_limit(comm: Communicator, config: Config, options: argparse.Namespace) -> None:
    """Print a note on a time limit that comes from the resumed run and not from the command."""
    if isfinite(config.run.max_seconds) and not any("run.max_seconds" in given for given in options.set):
        tell_once(
            comm, f"run.max_seconds = {config.run.max_seconds:g} of the run limits this command too; --run.max_seconds "
            "inf lifts it"
        )  # fmt: skip
