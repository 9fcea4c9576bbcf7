"""Repeating a run bit for bit from its record, although the speeds of its ranks decided when directions ended."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from distnewton.errors import ConfigError, DataError
from distnewton.files import parse_json
from distnewton.method.records import IterationRecord
from distnewton.parallel.collectives import Communicator
from distnewton.runs.run_folder import ENVIRONMENT_FILE, no_run_folder, read_metrics


class Replay:
    """A recorded run, whose directions end where they did, and whose objectives are compared.

    Parameters
    ----------
    comm : Communicator
        All ranks, as many as the run had.
    path : Path
        Its run folder; rank 0 reads it.

    Attributes
    ----------
    n_iterations : int
        Iterations of the run.

    Raises
    ------
    MissingInputError
        If the folder is not a run folder.
    DataError
        If the records have gaps, or are those of a version that did not record each direction.
    ConfigError
        If the run had another number of ranks.

    Notes
    -----
    Construction is collective.
    """

    def __init__(self, comm: Communicator, path: Path) -> None:
        self._path, self._rank = path, comm.rank
        found: dict[str, Any] = {}
        with comm.collective_errors():
            if comm.rank == 0:
                found = _read(path)
        found = comm.broadcast_json(found)
        if found["n_ranks"] != comm.size:
            raise ConfigError(
                f"--replay {path}: the run had {found['n_ranks']} ranks, and there are {comm.size}: start as many",
                collective=True,
            )
        self._steps: list[list[int]] = found["steps"]
        self._objectives: list[float | None] = found["objectives"]
        self.n_iterations = len(self._objectives) - 1
        self._difference = ""

    def steps(self) -> Iterator[int]:
        """CG steps of this rank in each direction of the run, in their order."""
        return (steps[self._rank] for steps in self._steps)

    def iteration(self, record: IterationRecord) -> None:
        """Compare the objective with the recorded one, bit for bit."""
        then, now = self._objectives[record.iteration], record.objective
        if self._difference or then == now or (then is None and not math.isfinite(now)):
            return
        self._difference = f"differs from iteration {record.iteration} on: objective {then!r} then, {now!r} now"

    @property
    def verdict(self) -> str:
        """Whether the run was repeated so far."""
        same = f"repeats it bit for bit, {self.n_iterations} iterations"
        return f"replay of {self._path} {self._difference or same}"


def _ranks_of(path: Path) -> int:
    """On how many ranks a run was."""
    if not (path / ENVIRONMENT_FILE).is_file():
        raise no_run_folder(path, ENVIRONMENT_FILE)
    try:
        return int(parse_json((path / ENVIRONMENT_FILE).read_bytes())["ranks"])
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path / ENVIRONMENT_FILE} is damaged: it names no number of ranks") from None


def _read(path: Path) -> dict[str, Any]:
    """Ranks, CG steps and objectives of a run."""
    n_ranks = _ranks_of(path)
    records = [IterationRecord.from_dict(record) for record in read_metrics(path)]
    if [record.iteration for record in records] != list(range(len(records))):
        raise DataError(f"{path}: the records have gaps, so that the run cannot be repeated")
    objectives = [record.objective if math.isfinite(record.objective) else None for record in records]
    return {"n_ranks": n_ranks, "steps": _steps(path, records), "objectives": objectives}


def _steps(path: Path, records: Iterable[IterationRecord]) -> list[Any]:
    """CG steps of each direction phase."""
    directions = [record.direction for record in records if record.direction is not None]
    steps = [steps for direction in directions for steps in direction.phases]
    if not steps and any(direction.stopped_early for direction in directions):
        raise DataError(f"{path}: the records do not say how each direction ended; they are of an older version")
    return steps
