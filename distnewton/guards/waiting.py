"""Let only one of many waiting ranks warn; they agree by a file, because they are waiting for messages."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from distnewton.files import parse_json
from distnewton.guards.failures import replace

_FILE = "waiting.json"


def claim_warning(place: Path, report: dict[str, Any]) -> bool:
    """Decide whether this rank is the one that warns.

    Parameters
    ----------
    place : Path
        Folder in which the ranks of the run meet.
    report : dict
        Where this rank waits: ``rank``, ``launch``, ``finished_iteration`` and more.

    Returns
    -------
    bool
    """
    own, file = _own(place, report["rank"]), place / _FILE
    try:
        replace(own, report)
        try:
            # only one rank gets the name
            os.link(own, file)
        except FileExistsError:
            before = parse_json(file.read_text(encoding="utf-8"))
            if all(before.get(key) == report[key] for key in ("launch", "finished_iteration")):
                return False
            os.replace(own, file)
        own.unlink(missing_ok=True)
    except OSError:
        # several warnings are better than none
        return True
    return True


def take_back_warning(place: Path, rank: int) -> bool:
    """Remove the files of this rank; tell whether it was the one that warned.

    Parameters
    ----------
    place : Path
        Folder in which the ranks of the run meet.
    rank : int
        This rank.

    Returns
    -------
    bool
    """
    _own(place, rank).unlink(missing_ok=True)
    file = place / _FILE
    if not file.exists() or parse_json(file.read_text(encoding="utf-8")).get("rank") != rank:
        return False
    file.unlink(missing_ok=True)
    return True


def _own(place: Path, rank: int) -> Path:
    return place / f"waiting.rank-{rank:04d}"
