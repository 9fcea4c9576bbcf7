"""The commands that look at finished runs: ``report``, ``info`` and ``why``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from distnewton.cli.command import RUN, argument, command
from distnewton.cli.results import check_result
from distnewton.cli.streams import results_go_to_files


@command(
    "report",
    "write an HTML page about one or more runs",
    argument("runs", metavar="RUN", nargs="+", help="run folders"),
    argument(
        "--out", metavar="FILE", help="page to write (default: report.html in the run's folder; for several runs a "
        "page here, named after them)"
    ),
    first_rank=True,
)
def report(options: argparse.Namespace) -> int:
    """Write the page."""
    from distnewton.reporting.report import write_report
    from distnewton.runs.run_folder import PICTURE_FILE, REPORT_FILE

    runs = [Path(run) for run in options.runs]
    names = "-".join(run.absolute().name for run in runs)[:100]
    # a page on several runs does not belong to the first one
    target = Path(options.out) if options.out else runs[0] / REPORT_FILE if len(runs) == 1 else Path(f"{names}.html")
    check_result(str(target), pages_of=runs)
    results_go_to_files()
    # a page elsewhere, or on several runs, must not change their folders
    picture = runs[0] / PICTURE_FILE if len(runs) == 1 and not options.out else None
    sentence, missing = write_report(runs, target, picture)
    if missing:
        print(f"no pictures: {missing}", file=sys.stderr)
    return _show([*filter(None, [sentence]), f"report: {target}"])


@command("info", "summarise a run: its settings and its results", RUN, first_rank=True)
def info(options: argparse.Namespace) -> int:
    """Print the summary of a run."""
    from distnewton.reporting.run_info import describe_run

    return _show(describe_run(Path(options.run)))


@command("why", "explain why a run failed: the first cause, and the rank that hung", RUN, first_rank=True)
def why(options: argparse.Namespace) -> int:
    """Print the reason of a failure."""
    from distnewton.reporting.failure_report import explain_failure

    return _show(explain_failure(Path(options.run)))


def _show(lines: Iterable[str]) -> int:
    for line in lines:
        print(line)
    return 0
