"""What the commands do that look at runs: ``report``, ``info`` and ``why``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_report(commands: Any) -> None:
    """Add the command line of ``report``."""
    report = commands.add_parser("report", help="write one page on a run, or on several")
    report.add_argument("runs", metavar="RUN", nargs="+", help="run folders")
    report.add_argument("--out", metavar="FILE", help="page to write (default: report.html in the first run's folder)")


def report(options: argparse.Namespace) -> int:
    """Write the page, without MPI, on the first rank alone."""
    from distnewton.launch.startup import launched_rank
    from distnewton.reporting.report import write_report
    from distnewton.runs.run_folder import REPORT_FILE

    if launched_rank() == 0:
        runs = [Path(run) for run in options.runs]
        target = Path(options.out) if options.out else runs[0] / REPORT_FILE
        write_report(runs, target)
        print(f"report: {target}")
    return 0


def info(options: argparse.Namespace) -> int:
    """Say what a run was and how it went, without MPI."""
    from distnewton.launch.startup import launched_rank
    from distnewton.reporting.run_info import describe_run

    if launched_rank() == 0:
        for line in describe_run(Path(options.run)):
            print(line)
    return 0


def why(options: argparse.Namespace) -> int:
    """Say why a run failed, without MPI."""
    from distnewton.launch.startup import launched_rank
    from distnewton.reporting.failure_report import explain_failure

    if launched_rank() == 0:
        for line in explain_failure(Path(options.run)):
            print(line)
    return 0
