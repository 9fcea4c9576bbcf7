"""The command ``compare``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distnewton.cli.command import RECIPE, SET, argument, command
from distnewton.cli.output import say, warn
from distnewton.cli.results import discarding, picture_if_possible, write_text
from distnewton.cli.settings import overrides
from distnewton.cli.streams import results_go_to_files
from distnewton.config import apply_settings, make_config, read_settings
from distnewton.errors import ConfigError
from distnewton.launch.startup import guard, world_communicator
from distnewton.parallel.collectives import Communicator
from distnewton.reporting.terminal import make_console

if TYPE_CHECKING:
    from distnewton.reporting.comparison_tables import Comparison
    from distnewton.runs.comparison import Entry
    from distnewton.runs.run_folder import RunFolder


@command(
    "compare",
    "train with several directions and compare them",
    RECIPE,
    SET,
    argument(
        "--directions", required=True, metavar="NAMES",
        help="directions, separated by commas; also auto, or recipes whose [method] is used",
    ),
    argument("--seconds", type=float, default=60.0, metavar="N", help="training time of each run (default 60)"),
    argument("--levels", metavar="VALUES", help="levels of the metric whose times are shown, as 0.95,0.97"),
    argument("--run-dir", metavar="DIR", help="folder of the runs (default runs/compare-NAME-NUMBER)"),
    usage="[RECIPE] --directions NAME,NAME,... [--seconds N] [--SECTION.KEY VALUE ...]",
    epilog="Writes comparison.md, comparison.png and a run folder for each run; sgd and adam are tried with three "
    "learning rates. Settings are flags as for train: distnewton train --help-all.",
    setting_flags=True,
)
def compare(options: argparse.Namespace) -> int:
    """Train with several directions; rewrite the table after each, so a job that is cut short leaves a table."""
    from distnewton.reporting.comparison_tables import Comparison
    from distnewton.runs.comparison import Entry, run_entries, session_config
    from distnewton.runs.session import Session

    comm = world_communicator()
    trees = comm.on_first(lambda: _read_entries(comm, options))
    entries = [Entry(method, name, make_config(tree)) for method, name, tree in trees]
    run = entries[0].config.run
    guard(comm, run.hang_seconds, run.warn_seconds, checked="messages" in run.checks)
    with comm.collective_errors():
        folders = _entry_folders(entries, options) if comm.rank == 0 else {}
    path = folders[entries[0].name].path.parent if folders else Path()
    results_go_to_files()
    with discarding(list(folders.values())):
        shared = session_config(entries)
        session = Session(shared, comm)
        comparison = Comparison(session.summary(shared), options.seconds, _levels(options.levels))
        observers = {name: [folder] for name, folder in folders.items()}
        for trial in run_entries(session, entries, observers):
            comparison.trials.append(trial)
            with comm.collective_errors():
                if comm.rank == 0:
                    folders[trial.entry.name].close()
                    write_text(path / "comparison.md", comparison.markdown())
            say(comm, f"[{len(comparison.trials)}/{len(entries)}] {comparison.line(trial)}")
    if comm.rank == 0:
        _show_comparison(comparison, path)
    session.free()
    return 0


def _read_entries(comm: Communicator, options: argparse.Namespace) -> list[list[Any]]:
    """Read method, name and configuration of each run, in JSON form."""
    from distnewton.runs.comparison import make_entries

    if not options.seconds > 0.0:
        raise ConfigError(f"--seconds must be positive, got {options.seconds:g}")
    _levels(options.levels)
    settings = overrides(options)
    tree = apply_settings(read_settings(options.recipe), settings)
    methods = [name.strip() for name in options.directions.split(",") if name.strip()]
    limited = any(setting.startswith("run.iterations=") for setting in settings)
    limit = make_config({"run": tree.get("run", {})}).run.n_iterations if limited else None
    notes: list[str] = []
    entries = make_entries(tree, methods, options.seconds, limit, notes)
    for note in dict.fromkeys(notes):
        warn(comm, note)
    return [[entry.method, entry.name, entry.config.model_dump()] for entry in entries]


def _levels(text: str | None) -> list[float]:
    """Read the levels of the metric whose times are shown."""
    try:
        return [float(part) for part in (text or "").split(",") if part.strip()]
    except ValueError:
        raise ConfigError(f"--levels takes numbers, such as 0.95,0.97, got {text!r}", collective=True) from None


def _entry_folders(entries: Sequence[Entry], options: argparse.Namespace) -> dict[str, RunFolder]:
    """Create a run folder for each run inside the comparison's folder."""
    from distnewton.runs.run_folder import RunFolder, next_folder

    recipe = Path(options.recipe).stem if options.recipe else "run"
    path = Path(options.run_dir) if options.run_dir else next_folder(f"compare-{recipe}")
    around = [] if options.run_dir else [path, path.parent]
    more: dict[str, Any] = {"overwrite": entries[0].config.run.overwrite}
    return {
        entry.name: RunFolder(path / entry.folder, made=[] if i else around, **more) for i, entry in enumerate(entries)
    }


def _show_comparison(comparison: Comparison, path: Path) -> None:
    """Show table, verdicts and picture; a missing extra or a failure to draw must not spoil finished runs."""
    console = make_console(160)
    console.print(comparison.table())
    for line in comparison.remarks():
        console.print(line, highlight=False, markup=False, emoji=False)
    with picture_if_possible(console):
        comparison.save_picture(path / "comparison.png")
    print(f"comparison: {path / 'comparison.md'}")
