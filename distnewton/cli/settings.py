"""Make the configuration from a command's flags, recipe and environment, as rank 0 sees them."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distnewton.cli.parsing import SHORT_FLAGS
from distnewton.config import Config, load_config, make_config
from distnewton.config.sections import READING, DataName
from distnewton.errors import ConfigError, UsageError
from distnewton.parallel.collectives import Communicator

if TYPE_CHECKING:
    from distnewton.runs.checkpoints import Resume

DATA_VARIABLE = "DISTNEWTON_DATA"


def shared_config(comm: Communicator, options: argparse.Namespace) -> Config:
    """Return rank 0's configuration on all ranks; a file that differs on another host has no effect."""
    with comm.ledger.phase("config"):
        # settings that nobody has set may depend on the data
        tree = comm.on_first(lambda: noted_config(options).model_dump(exclude_unset=True))
    return make_config(tree)


def noted_config(options: argparse.Namespace) -> Config:
    """Read the configuration in this process; print a note on stderr for each ignored option of the recipe."""
    notes: list[str] = []
    config = _beside_variable(load_config(recipe_of(options), overrides(options), notes))
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return config


def is_here(name: DataName) -> bool:
    """Whether the working folder has data of a name, which may be ``PATH:PART`` or ``FEATURES,LABELS``."""
    # rank 0 owns the first of files by columns
    name = name if isinstance(name, str) else name[0]
    return any(path and Path(path).exists() for path in (name, name.rpartition(":")[0], name.partition(",")[0]))


def _absolute(name: str) -> str:
    """Return the absolute name of data in the working folder."""
    return ",".join(str(Path(part).absolute()) for part in name.split(","))


def _beside_variable(config: Config) -> Config:
    """Make names of files in the working folder absolute: DISTNEWTON_DATA is for files that are not there."""
    data = config.data
    if not data.directory or data.directory != os.environ.get(DATA_VARIABLE):
        return config
    named = {which: getattr(data, which) for which in ("train", "test", "validation")}
    here = {
        which: _absolute(name) if isinstance(name, str) else [_absolute(part) for part in name]
        for which, name in named.items() if is_here(name)
    }  # fmt: skip
    return config.model_copy(update={"data": data.model_copy(update=here)})


def overrides(options: argparse.Namespace) -> list[str]:
    """Collect settings from the environment, ``--set`` and short flags, the most specific last."""
    given = {name: vars(options).get(flag.strip("-").replace("-", "_")) for flag, name in SHORT_FLAGS.items()}
    if given["network.start"]:
        # a run that resumes from another working folder needs it too
        given["network.start"] = str(Path(given["network.start"]).absolute())
    folder = os.environ.get(DATA_VARIABLE)
    settings = [f"data.directory={json.dumps(folder)}"] if folder else []
    return [*settings, *options.set, *(f"{name}={json.dumps(value)}" for name, value in given.items() if value)]


def check_reading(settings: Sequence[str], also: Sequence[str] = ()) -> None:
    """Refuse all settings except those that decide how data are read, and those in `also`, as ``section.key``."""
    known = [*(f"data.{key}" for key in READING), *also]
    for setting in settings:
        if setting.partition("=")[0].strip() not in known:
            raise ConfigError(
                f"--set {setting}: data are read by {', '.join(known)}; other settings have no effect here",
                collective=True,
            )


def settle_resumption(options: argparse.Namespace) -> Resume:
    """Decide whether to resume a run; a run folder given to ``--resume`` becomes ``--run-dir``.

    Parameters
    ----------
    options : argparse.Namespace
        Options of the command, which are changed.

    Returns
    -------
    bool or "auto"

    Raises
    ------
    UsageError
        If the run to resume is not named, or named twice.
    """
    if options.replay:
        if options.recipe or options.resume is not None:
            raise UsageError("--replay repeats a run by its own settings: no recipe, no --resume", collective=True)
        # never into the folder of the run that is repeated
        options.run_dir = options.run_dir or f"{options.replay.rstrip('/')}-replay"
    if options.resume is None:
        return False
    if options.resume == "auto":
        return "auto"
    if options.resume:
        options.run_dir = _run_to_resume(Path(options.resume), options.run_dir)
    if not (options.recipe or options.run_dir):
        raise UsageError("--resume needs a run folder: --resume RUN, or --run-dir RUN", collective=True)
    return True


def _run_to_resume(run: Path, run_dir: str | None) -> str:
    """Return the run folder that ``--resume`` names; refuse another ``--run-dir``."""
    if run.suffix == ".toml":
        raise UsageError(f"--resume takes a run folder, not {run}: put the recipe before --resume", collective=True)
    if run_dir and Path(run_dir).absolute() != run.absolute():
        raise UsageError(f"--resume {run} and --run-dir {run_dir} are different folders: give one", collective=True)
    return str(run)


def recipe_of(options: argparse.Namespace) -> str | None:
    """Return, on rank 0, the named recipe, or the configuration of the run that resumes."""
    from distnewton.checkpoint.folder import CHECKPOINTS_FOLDER, has_checkpoints
    from distnewton.runs.run_folder import CONFIG_FILE

    named: str | None = options.recipe
    if options.command == "train" and options.replay:
        return str(Path(options.replay) / CONFIG_FILE)
    if named or options.command != "train" or options.resume is None or not options.run_dir:
        return named
    run = Path(options.run_dir)
    return str(run / CONFIG_FILE) if has_checkpoints(run / CHECKPOINTS_FOLDER) else None
