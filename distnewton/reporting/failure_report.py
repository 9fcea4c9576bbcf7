"""Explain why a run failed: the first cause, and in a hang the rank for which the others waited."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distnewton.errors import DataError
from distnewton.files import parse_json
from distnewton.guards.failures import ERRORS_FOLDER, LAUNCHER_FILE, read_first
from distnewton.guards.hangs import describe_hang, ranges, read_hangs, where
from distnewton.reporting.run_data import STOPS, TORN
from distnewton.runs.run_folder import (
    END_FILE,
    METRICS_FILE,
    hosts_of,
    is_at_work,
    metrics_lines,
    no_run_folder,
    read_metrics,
)

_LINES = 12


def explain_failure(path: Path) -> Iterator[str]:
    """Explain how a run ended, as ``why`` prints it.

    Parameters
    ----------
    path : Path
        Run folder with ``metrics.jsonl`` or with reports of errors.

    Yields
    ------
    str
        A line; lines on one subject are consecutive.

    Raises
    ------
    MissingInputError
        If the folder holds neither.
    DataError
        If a report is damaged.
    """
    errors = path / ERRORS_FOLDER
    if not (path / METRICS_FILE).is_file() and not errors.is_dir():
        raise no_run_folder(path, METRICS_FILE)
    try:
        first = read_first(path)
        yield from _cause(path, first)
        yield from _hang(path, first)
        yield from _later(path, first)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"a report in {errors} is damaged: {error!r}", collective=True) from None


def _silent_end(path: Path, reached: str) -> str:
    """Say what is known about a run that left neither a report nor an exit code."""
    if is_at_work(path):
        return f"the run is still training, {reached}"
    outside = "a signal (kill, out of memory) or the crash of a library ended a process or host"
    file = path / ERRORS_FOLDER / LAUNCHER_FILE
    written = f"no report was written {reached}"
    if not file.is_file():
        return f"{written}, and no process has the run open: {outside}; the launcher's output says which"
    code = parse_json(file.read_text(encoding="utf-8"))["exit_code"]
    # shells and Open MPI add 128, MPICH does not
    number = code - 128 if code > 128 else code
    try:
        said = f"signal {number} ({signal.Signals(number).name}) ended a rank or the launcher"
    except ValueError:
        said = outside
    return f"{written}: {said}; the launcher returned {code}"


def _hang(path: Path, first: dict[str, Any] | None) -> Iterator[str]:
    """Name the rank for which the others waited, if the watchdog ended the run."""
    errors = path / ERRORS_FOLDER
    hangs = read_hangs(errors, first.get("launch") if first else None)
    if hangs:
        hosts = hosts_of(path) or ["an unknown host"] * (1 + max(hangs))
        yield f"hang       {describe_hang(hangs, hosts)}"
        yield f"stacks     {errors}/hang-rank-*.txt"


def _later(path: Path, first: dict[str, Any] | None) -> Iterator[str]:
    """List the ranks that failed after the first one."""
    reports = (path / ERRORS_FOLDER).glob("rank-*.json")
    failed = sorted(parse_json(file.read_text(encoding="utf-8"))["rank"] for file in reports)
    later = [rank for rank in failed if first is None or rank != first["rank"]]
    if later:
        yield f"later      rank {ranges(later)} failed too, independently or as a consequence"


def _end_without_failure(path: Path) -> Iterator[str]:
    """Say how a run without a report ended, or where it stopped."""
    if (path / END_FILE).is_file():
        code = parse_json((path / END_FILE).read_text(encoding="utf-8"))["exit_code"]
        yield f"ended      in order, exit code {code}" + (f": {STOPS[code]}" if code in STOPS else "")
        return
    records = list(read_metrics(path)) if (path / METRICS_FILE).is_file() else []
    if (path / METRICS_FILE).is_file() and metrics_lines(path)[1]:
        yield f"note       {TORN}"
    reached = f"after iteration {records[-1]['iteration']}" if records else "before its first iteration"
    yield f"cause      {_silent_end(path, reached)}"


def _cause(path: Path, first: dict[str, Any] | None) -> Iterator[str]:
    """Describe the first failure in some lines, or what its absence means."""
    if first is None:
        yield from _end_without_failure(path)
        return
    phase = f", phase {first['phase']}" if first.get("phase") else ""
    done = first.get("finished_iteration")
    reached = "before the first iteration was done" if done is None else f"after iteration {done}"
    yield f"cause      rank {first['rank']} on {first['host']}, {reached}{phase}, exit code {first['exit_code']}"
    yield from (f"           {line}" for line in str(first["message"]).splitlines())
    if first.get("collective"):
        yield f"last       {where(first)}"
    trace = str(first.get("traceback", "")).splitlines()
    yield from (f"           {line}" for line in trace[-_LINES:])
