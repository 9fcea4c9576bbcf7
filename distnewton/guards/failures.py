"""The first failure of a run, which is kept in the run folder besides the message on stderr.

Every failing rank writes ``errors/rank-0007.json`` before it ends the job, and the first one also writes
``errors/first.json``. The file system lets only one rank create that file: this rank prints the message, and the
others, which fail as a consequence, print nothing.
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
    """Facts about this process's run, for the report of a failure.

    Attributes
    ----------
    folder : Path or None
        Run folder; None until it is known on this rank.
    ledger : Ledger or None
        Ledger that knows the current phase.
    iteration : int or None
        The last finished iteration; None until the start has been evaluated.
    launch : str
        Name of the launch, the same on all of its ranks and different for each launch; empty until they have met.
    waits : callable
        Returns the last collectives, as the fields ``collective`` and ``recent`` of a report.
    """

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.ledger: Ledger | None = None
        self.iteration: int | None = None
        self.launch = ""
        self.waits: Callable[[], dict[str, Any]] = dict

    @property
    def current_iteration(self) -> int:
        """The current iteration of the run; 0 is the start."""
        return 0 if self.iteration is None else self.iteration + 1

    @property
    def phase(self) -> str | None:
        """The current phase of the run, or the one that an exception has just left."""
        return (self.ledger.failed or self.ledger.current) if self.ledger else None

    def facts(self) -> dict[str, Any]:
        """Return time, host, process, phase and iteration of this process."""
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
        """Return the folder of failures in the run folder; None if there is no run folder or it was given up."""
        return self.folder / ERRORS_FOLDER if self.folder is not None and self.folder.is_dir() else None

    def meeting_place(self) -> Path:
        """Return the folder in which waiting ranks exchange files: the run's errors, or else a temporary folder.

        Ranks that have not met yet use the number of their parent process, which those of a host share.

        Returns
        -------
        Path
            A folder that exists.
        """
        place = self.errors() or Path(tempfile.gettempdir()) / f"distnewton-{self.launch or os.getppid()}"
        place.mkdir(mode=0o777 if place.name == ERRORS_FOLDER else 0o700, exist_ok=True)
        return place

    def write(self, rank: int, exit_code: int, message: str, traceback: str = "") -> tuple[bool, str]:
        """Keep a failure in the run folder, if there is one.

        Parameters
        ----------
        rank, exit_code : int
            Rank that failed, and exit code of the process.
        message : str
            Cause of the failure.
        traceback : str
            Full traceback, if there is one.

        Returns
        -------
        later : bool
            Whether another rank of this launch has failed before.
        problem : str
            Message to the user if the failure could not be stored; empty if it was.
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
                # write the file completely before it gets its name, which only the first failure gets
                os.link(own, first)
            except FileExistsError:
                before = read_first(errors.parent)
                if before is not None and self.launch and before.get("launch") == self.launch:
                    return before["rank"] != rank, ""
                # of an earlier launch in the same folder
                first.unlink(missing_ok=True)
                os.link(own, first)
        except (OSError, DataError) as error:
            return False, f"(this failure could not be stored in {errors}: {getattr(error, 'strerror', None) or error})"
        return False, ""


failures = Failures()
"""The failures of this process."""


def replace(file: Path, report: dict[str, Any]) -> None:
    """Replace a report atomically: readers see all of it or nothing."""
    part = file.with_suffix(f".part-{platform.node()}-{os.getpid()}")
    part.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    os.replace(part, file)


def read_first(folder: Path) -> dict[str, Any] | None:
    """Read the first failure of a run, if any.

    Parameters
    ----------
    folder : Path
        Run folder.

    Returns
    -------
    dict or None
        ``time, host, pid, phase, finished_iteration, rank, exit_code, message``; None if nothing failed.
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
    """Remove the failures of an earlier run from a folder that will be used again."""
    errors = folder / ERRORS_FOLDER
    for pattern in ("rank-*", "hang-rank-*", "waiting.*", FIRST_FILE, LAUNCHER_FILE):
        for file in errors.glob(pattern):
            file.unlink(missing_ok=True)
