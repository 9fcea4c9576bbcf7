"""The first failure of a run, kept where its owner looks for it: in the run folder, beside the message on stderr.

Every failing rank writes ``errors/rank-0007.json`` before it ends the job, and the first of all also
``errors/first.json``: a batch system may lose the output of a job that is ended, and the ranks that die of the
consequences come later.
"""

from __future__ import annotations

import json
import os
import platform
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from distnewton.parallel.ledger import Ledger

ERRORS_FOLDER, FIRST_FILE = "errors", "first.json"


class Failures:
    """What this process knows of its run, for the report of a failure.

    Attributes
    ----------
    folder : Path or None
        Run folder; None until it is known on this rank.
    ledger : Ledger or None
        Tells the phase.
    iteration : int or None
        The last that was finished.
    """

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.ledger: Ledger | None = None
        self.iteration: int | None = None

    def facts(self) -> dict[str, Any]:
        """When, where and in what this process is."""
        return {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "host": platform.node(),
            "pid": os.getpid(),
            "phase": (self.ledger.failed or self.ledger.current) if self.ledger else None,
            "finished_iteration": self.iteration,
        }

    def write(self, rank: int, exit_code: int, message: str) -> str:
        """Keep a failure in the run folder; nothing where there is none, or where it was given up.

        Parameters
        ----------
        rank, exit_code : int
            Who failed, and what the process returns.
        message : str
            As it is printed.

        Returns
        -------
        str
            Why it could not be written, for the user; empty if it was.
        """
        if self.folder is None or not self.folder.is_dir():
            return ""
        report = {**self.facts(), "rank": rank, "exit_code": exit_code, "message": message}
        text = json.dumps(report, indent=2) + "\n"
        errors = self.folder / ERRORS_FOLDER
        try:
            errors.mkdir(exist_ok=True)
            (errors / f"rank-{rank:04d}.json").write_text(text, encoding="utf-8")
            # complete before it has its name, which only the first failure gets
            with suppress(FileExistsError):
                os.link(errors / f"rank-{rank:04d}.json", errors / FIRST_FILE)
        except OSError as error:
            return f"(this failure could not be kept in {errors}: {error.strerror or error})"
        return ""


failures = Failures()
"""The process's own."""


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
    try:
        found: dict[str, Any] = json.loads((folder / ERRORS_FOLDER / FIRST_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return found


def forget(folder: Path) -> None:
    """Remove the failures of an earlier run from a folder that is to be used again."""
    errors = folder / ERRORS_FOLDER
    for file in [*errors.glob("rank-*.json"), *errors.glob("hang-rank-*"), errors / FIRST_FILE]:
        file.unlink(missing_ok=True)
