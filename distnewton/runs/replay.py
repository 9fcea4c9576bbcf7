"""Repeat a run bit for bit from its record, although the speeds of its ranks decided when each direction ended."""

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
    """A recorded run that is repeated: directions end after the recorded CG steps, and objectives are compared.

    Parameters
    ----------
    comm : Communicator
        All ranks, as many as the run had.
    path : Path
        Folder of the recorded run; rank 0 reads it.

    Attributes
    ----------
    n_iterations : int
        Number of iterations of the recorded run.

    Raises
    ------
    MissingInputError
        If the folder is not a run folder.
    DataError
        If the records have gaps, or come from a version that did not record each direction.
    ConfigError
        If the run had another number of ranks.

    Notes
    -----
    Construction is collective.
    """

    def __init__(self, comm: Communicator, path: Path) -> None:
        self._path, self._rank = path, comm.rank
        found = comm.on_first(lambda: _read(path))
        if found["n_ranks"] != comm.size:
            raise ConfigError(
                f"--replay {path}: the run had {found['n_ranks']} ranks, but there are {comm.size}: start as many",
                collective=True,
            )
        self._steps: list[list[int]] = found["steps"]
        self._objectives: list[float | None] = found["objectives"]
        self.n_iterations = len(self._objectives) - 1
        self._difference = ""

    def steps(self) -> Iterator[int]:
        """Iterate over the CG steps of this rank in each direction of the run, in order."""
        return (steps[self._rank] for steps in self._steps)

    def iteration(self, record: IterationRecord) -> None:
        """Compare the objective of an iteration with the recorded one, bit for bit."""
        then, now = self._objectives[record.iteration], record.objective
        if self._difference or then == now or (then is None and not math.isfinite(now)):
            return
        self._difference = f"differs from iteration {record.iteration} on: objective {then!r} then, {now!r} now"

    @property
    def verdict(self) -> str:
        """Sentence that says whether the run has been repeated exactly so far."""
        same = f"repeats it bit for bit, {self.n_iterations} iterations"
        return f"replay of {self._path} {self._difference or same}"


def _ranks_of(path: Path) -> int:
    """Read the number of ranks of a run."""
    if not (path / ENVIRONMENT_FILE).is_file():
        raise no_run_folder(path, ENVIRONMENT_FILE)
    try:
        return int(parse_json((path / ENVIRONMENT_FILE).read_bytes())["ranks"])
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path / ENVIRONMENT_FILE} is damaged: it does not give the number of ranks") from None


def _read(path: Path) -> dict[str, Any]:
    """Read the number of ranks, the CG steps and the objectives of a run."""
    n_ranks = _ranks_of(path)
    records = [IterationRecord.from_dict(record) for record in read_metrics(path)]
    if [record.iteration for record in records] != list(range(len(records))):
        raise DataError(f"{path}: the records have gaps, so the run cannot be repeated")
    objectives = [record.objective if math.isfinite(record.objective) else None for record in records]
    return {"n_ranks": n_ranks, "steps": _steps(path, records), "objectives": objectives}


def _steps(path: Path, records: Iterable[IterationRecord]) -> list[Any]:
    """Collect the CG steps of each phase of the directions."""
    directions = [record.direction for record in records if record.direction is not None]
    steps = [steps for direction in directions for steps in direction.phases]
    if not steps and any(direction.stopped_early for direction in directions):
        raise DataError(f"{path}: the records do not say how each direction ended: an older version wrote them")
    return steps
