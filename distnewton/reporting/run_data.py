"""Contents of a run folder, read and checked for a report; an unfinished run has fewer files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from distnewton.config import Config, DataConfig, load_config
from distnewton.config.sections import data_title
from distnewton.errors import INTERRUPTED, STOPPED_EARLY, ConfigError, DataError
from distnewton.files import parse_json
from distnewton.frozen import frozen
from distnewton.guards.failures import read_first
from distnewton.method.divergence import DIVERGED
from distnewton.method.records import IterationRecord
from distnewton.models.metrics import main_metric
from distnewton.parallel.partition import Partition
from distnewton.reporting.scale import Scale
from distnewton.reporting.slowest import Slowest, slowest_rank
from distnewton.runs.run_folder import (
    CONFIG_FILE,
    END_FILE,
    ENVIRONMENT_FILE,
    METRICS_FILE,
    PREDICTIONS_FILE,
    gap_note,
    metrics_lines,
    no_run_folder,
)

COMPARISON_FILE = "comparison.md"
STOPS = {STOPPED_EARLY: "stopped by the clock or a signal", INTERRUPTED: "interrupted"}
"""What ended a run before its last iteration, by exit code."""
TORN = f"the last line of {METRICS_FILE} is cut off and was left out"


class _Read(BaseModel):
    """The fields of a file that are used; others are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)


class Software(_Read):
    """The software of a run."""

    python: str = ""
    platform: str = ""
    packages: dict[str, str] = {}
    mpi_library: str = ""


class Environment(_Read):
    """The machines and the partition of a run."""

    ranks: int = 1
    hosts: list[str] = []
    threads_per_rank: int = 1
    cores: int = 0  # number of cores of all hosts; 0 if not recorded
    splits: list[int] = []
    blocks: list[int] = []
    replicas: int = 1
    network: str = ""
    partition: Partition | None = None
    slurm: dict[str, str] = {}

    @property
    def crowding(self) -> float:
        """Number of ranks that share a core, at least 1."""
        return max(1.0, self.ranks / self.cores) if self.cores else 1.0


class Predictions(_Read):
    """Summary of the final predictions, an attribute for each key: see :mod:`distnewton.models.predictions`."""

    set: str = ""
    n_samples: int = 0
    classes: list[str] = []
    n_right: list[int] = []
    n_of: list[int] = []
    n_unknown: int = 0
    confusion: list[list[int]] = []
    mistaken: list[tuple[int, int, int]] = []
    targets: list[float] = []
    predictions: list[float | None] = []
    axes: list[list[float]] = []
    values: list[list[float]] = []
    errors: list[list[float]] = []


@frozen
class Run:
    """A run, as far as it is recorded.

    Attributes
    ----------
    name : str
        Name that distinguishes it from the other runs of the report.
    path : Path
        Folder of the run.
    config : Config
        Settings of the run.
    config_text : str
        Settings as they were written.
    lines : list of IterationRecord
        Records of the iterations, the start first; may be empty.
    environment : Environment
        Machines and partition of the run.
    software : Software
        Software of the run.
    predictions : Predictions or None
        Final predictions; None before the end, and for runs of a comparison.
    remarks : list of str
        Remarks on how it ended, if not as wished.
    """

    name: str
    path: Path
    config: Config
    config_text: str
    lines: list[IterationRecord]
    environment: Environment
    software: Software
    predictions: Predictions | None
    remarks: list[str] = field(default_factory=list)

    @property
    def metric(self) -> str:
        """The metric by which the run is judged."""
        return main_metric(self.config.task, self.lines[-1].test if self.lines else {})

    @property
    def scale(self) -> Scale:
        """The metric and the set by which the run is judged."""
        return Scale.of_records(self.metric, self.lines)

    @property
    def model_line(self) -> IterationRecord:
        """The iteration of the model: the best by validation, the lowest after divergence, or the last."""
        validation = Scale(self.metric, "validation")
        if validation.values(self.lines):
            return min(self.lines, key=lambda line: validation.cost(validation.of(line)))
        if DIVERGED in self.lines[-1].note:
            return min(self.lines, key=lambda line: line.objective if math.isfinite(line.objective) else math.inf)
        return self.lines[-1]

    @property
    def slowest(self) -> Slowest | None:
        """The rank for which the others waited more than 20 % of the time."""
        return slowest_rank(self.lines, self.environment.crowding)


def data_line(data: DataConfig) -> str:
    """Describe the training, validation and test data in a line."""
    words = [f"validation {data_title(data.validation)}"] if data.validation else []
    share = data.validation_fraction
    words += [f"{100 * share:g} % of it for validation"] if isinstance(share, float) and share else []
    return ", ".join([data.title, *words, *([f"test {data_title(data.test)}"] if data.test else [])])


def read_run(path: Path, name: str) -> Run:
    """Read a run folder.

    Parameters
    ----------
    path : Path
        The folder.
    name : str
        Name that tells it from other runs.

    Returns
    -------
    Run

    Raises
    ------
    MissingInputError
        If the folder is not a run folder.
    DataError
        If one of its files is damaged.
    """
    if not (path / CONFIG_FILE).is_file():
        raise no_run_folder(path, CONFIG_FILE)
    remarks: list[str] = []
    lines = _lines(path / METRICS_FILE, remarks)
    config = load_config(path / CONFIG_FILE)
    remarks += _ending(path, lines)
    environment = _optional(path / ENVIRONMENT_FILE, Environment.model_validate_json)
    software = _optional(path / ENVIRONMENT_FILE, Software.model_validate_json)
    predictions = _optional(path / PREDICTIONS_FILE, Predictions.model_validate_json)
    if predictions is not None:
        _check(path / PREDICTIONS_FILE, predictions)
    text = (path / CONFIG_FILE).read_text(encoding="utf-8")
    where = environment or Environment()
    return Run(name, path, config, text, lines, where, software or Software(), predictions, remarks)


def _ending(path: Path, lines: list[IterationRecord]) -> Iterator[str]:
    """Yield remarks on how a run ended, if not as wished."""
    failure, end = read_first(path), _optional(path / END_FILE, _object)
    if failure:
        yield f"failed with exit code {failure.get('exit_code')}: {failure.get('message')}"
    if end and end.get("exit_code") in STOPS:
        yield f"{STOPS[end['exit_code']]} after iteration {lines[-1].iteration if lines else 0}"
    if lines and DIVERGED in lines[-1].note:
        yield lines[-1].note
    # the runs of a comparison have no end of their own
    elif end is None and not failure and not (path.parent / COMPARISON_FILE).is_file():
        yield "has not ended, or was cut off"


def _lines(path: Path, remarks: list[str]) -> list[IterationRecord]:
    """Read the iterations; the last line of a run that was cut off may be incomplete."""
    texts, is_torn = metrics_lines(path.parent)
    if is_torn:
        remarks.append(TORN)
    lines = []
    for number, text in enumerate(texts, 1):
        try:
            lines.append(IterationRecord.from_json(text))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "line"
            raise DataError(f"{path}:{number}: not a record: {where}: {first['msg']}", collective=True) from None
        except ValueError as error:
            raise DataError(f"{path}:{number}: not a record: {error}", collective=True) from None
    remarks += filter(None, [gap_note([line.iteration for line in lines])])
    return lines


def _object(text: str) -> dict[str, Any]:
    """Read a JSON object; raise a ValueError for anything else."""
    found = parse_json(text)
    if not isinstance(found, dict):
        raise ValueError("expected a JSON object")
    return found


def _optional(path: Path, parse: Callable[[str], Any]) -> Any:
    """Read a file that may be missing."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, ConfigError) as error:
        raise DataError(f"{path} cannot be read: {str(error).splitlines()[0]}", collective=True) from None


def _check(path: Path, found: Predictions) -> None:
    """Refuse counts that do not belong to the classes."""
    k = len(found.classes)
    right = len(found.n_right) == len(found.n_of) == k and len(found.targets) == len(found.predictions)
    right = right and (not found.confusion or [len(row) for row in found.confusion] == [k] * k)
    if not right or any(not (0 <= i < k and 0 <= j < k) for i, j, _ in found.mistaken):
        raise DataError(f"{path}: counts and classes do not fit together", collective=True)
    _check_solution(path, found)


def _check_solution(path: Path, found: Predictions) -> None:
    """Refuse values of a solution that do not belong to the axes."""
    n_points = math.prod(map(len, found.axes))
    fits = len(found.axes) <= 2 and len(found.errors) in (0, len(found.values))
    if not fits or any(len(row) != n_points for row in found.values + found.errors):
        raise DataError(f"{path}: axes and values do not fit together", collective=True)


def read_runs(paths: list[Path]) -> list[Run]:
    """Read run folders, and name each by the end of its path that differs from the others.

    Parameters
    ----------
    paths : list of Path
        Run folders.

    Returns
    -------
    list of Run
    """
    parts = [path.absolute().parts for path in paths]
    depth = 1
    while depth < max(map(len, parts)) and len({part[-depth:] for part in parts}) < len(set(parts)):
        depth += 1
    return [read_run(path, "/".join(part[-depth:])) for path, part in zip(paths, parts, strict=True)]
