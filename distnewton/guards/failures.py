"""The first failure of a run, kept where its owner looks for it: in the run folder, beside the message on stderr.

Every failing rank writes ``errors/rank-0007.json`` before it ends the job, and the first of all also
``errors/first.json``, which the file system gives to one rank only: that rank speaks, the others die of the
consequences and stay quiet.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distnewton.errors import DataError
from distnewton.files import parse_json
from distnewton.guards.ledger import Ledger

ERRORS_FOLDER, FIRST_FILE, LAUNCHER_FILE = "errors", "first.json", "launcher.json"


class Failures:
    """What this process knows of its run, for the report of a failure.

    Attributes
    ----------
    folder : Path or None
        Run folder; None until it is known on this rank.
    ledger : Ledger or None
        Tells the phase.
    iteration : int or None
        The last that was finished; None until the start is evaluated.
    launch : str
        The same on all ranks of one launch, another one for each launch; empty until they have met.
    waits : callable
        Tells the last collective, as the fields ``collective`` and ``recent`` of a report.
    """

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.ledger: Ledger | None = None
        self.iteration: int | None = None
        self.launch = ""
        self.waits: Callable[[], dict[str, Any]] = dict

    @property
    def current_iteration(self) -> int:
        """The iteration that the run is in; 0 is the start."""
        return 0 if self.iteration is None else self.iteration + 1

    @property
    def phase(self) -> str | None:
        """The phase that the run is in, or that an exception has just left."""
        return (self.ledger.failed or self.ledger.current) if self.ledger else None

    def facts(self) -> dict[str, Any]:
        """When, where and in what this process is."""
        return {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "launch": self.launch,
            "host": platform.node(),
            "pid": os.getpid(),
            "phase": self.phase,
            "finished_iteration": self.iteration,
            **self.waits(),
        }

    def errors(self) -> Path | None:
        """Where failures are kept: in the run folder; None where there is none, or where it was given up."""
        return self.folder / ERRORS_FOLDER if self.folder is not None and self.folder.is_dir() else None

    def meeting_place(self) -> Path:
        """Where ranks that wait for each other leave word: the run's errors, else a folder for temporary files.

        Ranks that have not met yet share the process that started them, on each host one.

        Returns
        -------
        Path
            It exists.
        """
        place = self.errors() or Path(tempfile.gettempdir()) / f"distnewton-{self.launch or os.getppid()}"
        place.mkdir(mode=0o777 if place.name == ERRORS_FOLDER else 0o700, exist_ok=True)
        return place

    def write(self, rank: int, exit_code: int, message: str, traceback: str = "") -> tuple[bool, str]:
        """Keep a failure in the run folder, if there is one.

        Parameters
        ----------
        rank, exit_code : int
            Who failed, and what the process returns.
        message : str
            The cause.
        traceback : str
            Whole, where there is one.

        Returns
        -------
        later : bool
            Whether another rank of this launch has failed before.
        problem : str
            Why it could not be kept, for the user; empty if it was.
        """
        errors = self.errors()
        if errors is None:
            return False, ""
        report = {**self.facts(), "rank": rank, "exit_code": exit_code, "message": message, "traceback": traceback}
        own, first = errors / f"rank-{rank:04d}.json", errors / FIRST_FILE
        try:
            errors.mkdir(exist_ok=True)
            replace(own, report)
            try:
                # complete before it has its name, which only the first failure gets
                os.link(own, first)
            except FileExistsError:
                before = read_first(errors.parent)
                if before is not None and self.launch and before.get("launch") == self.launch:
                    return before["rank"] != rank, ""
                # of an earlier launch in the same folder
                first.unlink(missing_ok=True)
                os.link(own, first)
        except (OSError, DataError) as error:
            return False, f"(this failure could not be kept in {errors}: {getattr(error, 'strerror', None) or error})"
        return False, ""


failures = Failures()
"""The process's own."""


def replace(file: Path, report: dict[str, Any]) -> None:
    """Write a report whole: readers see all of it or nothing."""
    part = file.with_suffix(f".part-{platform.node()}-{os.getpid()}")
    part.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    os.replace(part, file)


def read_first(folder: Path) -> dict[str, Any] | None:
    """The first failure of a run, if any.

    Parameters
    ----------
    folder : Path
        Run folder.

    Returns
    -------
    dict or None
        ``time, host, pid, phase, finished_iteration, rank, exit_code, message``; None where nothing failed.
    """
    file = folder / ERRORS_FOLDER / FIRST_FILE
    try:
        failure: dict[str, Any] = parse_json(file.read_bytes())
        if not (isinstance(failure["rank"], int) and isinstance(failure["exit_code"], int)):
            raise TypeError("rank and exit_code are no numbers")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is damaged: {error}") from None
    return failure


def forget(folder: Path) -> None:
    """Remove the failures of an earlier run from a folder that is to be used again."""
    errors = folder / ERRORS_FOLDER
    for pattern in ("rank-*", "hang-rank-*", "waiting.*", FIRST_FILE, LAUNCHER_FILE):
        for file in errors.glob(pattern):
            file.unlink(missing_ok=True)
