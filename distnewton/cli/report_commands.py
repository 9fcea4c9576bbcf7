"""What the command ``report`` does."""

from __future__ import annotations

import argparse
from typing import Any


def add_report(commands: Any) -> None:
    """Add the command line of ``report``."""
    report = commands.add_parser("report", help="write one page on a run, or on several")
    report.add_argument("runs", metavar="RUN", nargs="+", help="run folders")
    report.add_argument("--out", metavar="FILE", help="page to write (default: report.html in the first run's folder)")


def report(options: argparse.Namespace) -> int:
    """Write the page, without MPI."""
    raise NotImplementedError
