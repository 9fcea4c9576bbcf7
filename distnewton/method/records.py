"""The record of one iteration: its results, and its costs by rank and phase."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, TypeAdapter

from distnewton.backend import library_of
from distnewton.directions.direction import DirectionResult
from distnewton.files import parse_json
from distnewton.guards.ledger import PHASES, PhaseCost
from distnewton.launch.deadline import Stop
from distnewton.parallel.collectives import Communicator

Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A number that JSON stores as null if it is not finite."""


@dataclass
class DirectionRecord:
    """How each rank found the direction; the attributes are the keys of ``direction`` in a record.

    Attributes
    ----------
    method : str
        Name of the direction.
    inner_iterations : list of int
        CG steps of each rank.
    residuals : list of float
        Final relative residual of each rank.
    finished_ranks : list of int
        Ranks that met their own stopping rule; with early termination the others were stopped.
    stopped_early : bool
        Whether any rank was stopped.
    seconds : list of float
        Seconds that each rank spent in the direction phase.
    failed_ranks : list of int
        Ranks without a direction, or with one that is not finite; if there are any, the direction is not used.
    phases : list of list of int
        CG steps of each rank in each direction of the iteration, for a replay; empty if ranks cannot be stopped early.
    step_sizes : list of float
        Step sizes of the groups of ``grouped_newton`` in the last step; else empty.
    rank : list of int
        Numerical rank of the matrix in sample space that each rank factorised, the least over its blocks; it equals the
        matrix size if the Cholesky factorisation exists. Empty for directions without such a matrix.
    condition : list of float
        Estimated 1-norm condition number of that matrix, damping included; the largest over the rank's blocks.
    """

    method: str
    inner_iterations: list[int]
    residuals: list[Number]
    finished_ranks: list[int]
    stopped_early: bool
    seconds: list[float]
    failed_ranks: list[int] = field(default_factory=list)
    phases: list[list[int]] = field(default_factory=list)
    step_sizes: list[Number] = field(default_factory=list)
    rank: list[int] = field(default_factory=list)
    condition: list[Number] = field(default_factory=list)

    @staticmethod
    def sum(records: Sequence[DirectionRecord]) -> DirectionRecord | None:
        """Merge the records of several steps: CG steps and seconds add up, and a rank finished if it always did."""
        if not records:
            return None
        last = records[-1]
        steps, residuals, seconds = (
            np.array([getattr(record, name) for record in records])
            for name in ("inner_iterations", "residuals", "seconds")
        )
        finished = set.intersection(*(set(record.finished_ranks) for record in records))
        failed = set().union(*(record.failed_ranks for record in records))
        return DirectionRecord(
            last.method,
            steps.sum(axis=0).tolist(),
            residuals.max(axis=0).tolist(),
            sorted(finished),
            any(record.stopped_early for record in records),
            seconds.sum(axis=0).tolist(),
            sorted(failed),
            [steps for record in records for steps in record.phases],
            last.step_sizes,
            last.rank,
            last.condition,
        )


@dataclass
class IterationRecord:
    """One line of ``metrics.jsonl``; iteration 0 is the start.

    The attributes are the keys of the line: this class is the only description of the file, for writing and reading.

    Attributes
    ----------
    iteration : int
        Number of the iteration.
    elapsed_seconds : float
        Seconds since training started, on the slowest rank.
    training_seconds : float
        The same without evaluation, that is without metrics and objectives that the method itself does not need.
    objective, loss : float
        f and the mean loss at the end of the iteration.
    gradient_norm : float or None
        ||grad f|| at the start of the iteration.
    damping : float
        lambda that the iteration used.
    reduction_ratio : float or None
        Actual over predicted decrease.
    step_size : float
        Accepted alpha; 0 if the direction was rejected.
    line_search_trials : int
        Number of evaluations in the line search.
    steps : int
        Number of steps in the iteration: 1, or the number of mini-batches.
    betas : list of float
        Coefficients of this direction and the last one in the combination.
    note : str
        Note on what was unusual, such as a rejected direction or more damping; else empty.
    direction : DirectionRecord or None
        How the direction was found.
    seconds : dict of str to float
        Seconds by phase on the slowest rank; ``wait`` is the mean over ranks of the time inside MPI.
    phase_seconds : dict of str to float
        Seconds by phase, averaged over ranks, including the time inside MPI.
    phase_wait_seconds : dict of str to float
        Seconds inside MPI by phase, for transfer and waiting for other ranks, averaged over ranks.
    wait_seconds : list of float
        Seconds inside MPI of each rank, without evaluation.
    compute_seconds : list of float
        Seconds of each rank in the phases of the method, outside MPI; a slow rank makes the others wait for them.
    common_seconds : list of float
        The same without the direction phase, in which a slow rank may be stopped: time for equal work on all ranks.
    sent_bytes : dict of str to float
        Bytes sent by phase, over all ranks.
    train, validation, test : dict of str to float
        The task's metrics at the end of the iteration, empty for a set that the run does not have.
    """

    iteration: int
    elapsed_seconds: float
    objective: Number
    loss: Number
    training_seconds: float = 0.0
    gradient_norm: float | None = None
    damping: Number = 0.0
    reduction_ratio: float | None = None
    step_size: Number = 0.0
    line_search_trials: int = 0
    steps: int = 1
    betas: list[Number] = field(default_factory=list)
    note: str = ""
    direction: DirectionRecord | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    phase_seconds: dict[str, float] = field(default_factory=dict)
    phase_wait_seconds: dict[str, float] = field(default_factory=dict)
    wait_seconds: list[float] = field(default_factory=list)
    compute_seconds: list[float] = field(default_factory=list)
    common_seconds: list[float] = field(default_factory=list)
    sent_bytes: dict[str, float] = field(default_factory=dict)
    train: dict[str, Number] = field(default_factory=dict)
    validation: dict[str, Number] = field(default_factory=dict)
    test: dict[str, Number] = field(default_factory=dict)

    @property
    def training_bytes(self) -> float:
        """Bytes sent in the iteration over all ranks, without evaluation."""
        return sum(sent for phase, sent in self.sent_bytes.items() if phase != "evaluation")

    def as_dict(self) -> dict[str, Any]:
        """Return the record as plain values; numbers that are not finite stay as they are, and lists are not copied."""
        return {**vars(self), "direction": None if self.direction is None else {**vars(self.direction)}}

    def to_json(self) -> str:
        """Return the record as a line of ``metrics.jsonl``; numbers that are not finite become null."""
        return json.dumps(plain(self.as_dict()), allow_nan=False)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> IterationRecord:
        """Undo :meth:`as_dict`.

        Parameters
        ----------
        values : dict
            Values of the record. Unknown keys, from other versions, are ignored, and missing ones get their defaults.
            None in place of a number means NaN.

        Returns
        -------
        IterationRecord

        Raises
        ------
        ValueError
            If the values are not those of a record.
        """
        return _reader().validate_python(values)

    @classmethod
    def from_json(cls, line: str) -> IterationRecord:
        """Read a line of ``metrics.jsonl``, as :meth:`to_json` returns it; raise a ValueError if it is not a record."""
        return cls.from_dict(parse_json(line))


@cache
def _reader() -> TypeAdapter[IterationRecord]:
    """Build the checker and converter of plain values, at first use because it takes milliseconds."""
    return TypeAdapter(IterationRecord)


def gather_direction(comm: Communicator, method: str, result: DirectionResult, seconds: float) -> DirectionRecord:
    """Gather, on all ranks, how each rank found its part of the direction (collective: one small sum)."""
    squared = library_of(result.direction).dot(result.direction, result.direction)
    failed = bool(result.failure) or not math.isfinite(result.residual + squared)
    residual = result.residual if math.isfinite(result.residual) else 0.0
    numbers = [result.inner_iterations, residual, result.finished, seconds, failed, result.rank, result.condition]
    steps, residuals, finished, times, failures, ranks, conditions = comm.allgather(np.array(numbers, np.float64)).T
    factorised = slice(None if ranks.any() else 0)
    return DirectionRecord(
        method,
        steps.astype(int).tolist(),
        residuals.tolist(),
        np.flatnonzero(finished).tolist(),
        bool((finished == 0).any()),
        times.tolist(),
        np.flatnonzero(failures).tolist(),
        step_sizes=list(result.step_sizes),
        rank=ranks.astype(int)[factorised].tolist(),
        condition=conditions[factorised].tolist(),
    )


def gather_costs(
    comm: Communicator,
    record: IterationRecord,
    costs: dict[str, PhaseCost],
    elapsed: float,
    evaluation: float,
    stop: Stop = Stop.NO,
) -> Stop:
    """Fill in the costs of an iteration on all ranks, and agree on whether to stop (collective: one small sum).

    Parameters
    ----------
    comm : Communicator
        The ranks.
    record : IterationRecord
        Record that takes seconds, waiting and bytes; the same on all ranks.
    costs : dict of str to PhaseCost
        Costs of this rank, by phase.
    elapsed, evaluation : float
        Seconds since the start, and the part of them spent in evaluation, on this rank.
    stop : Stop
        Whether this rank wants to stop, and why; it is sent with the costs.

    Returns
    -------
    Stop
        Whether any rank wants to stop, and why; the same on all ranks.
    """
    by_phase = [[costs[p].seconds, costs[p].wait_seconds, costs[p].sent_bytes] for p in PHASES]
    mine = np.array([elapsed, elapsed - evaluation, *np.ravel(by_phase), stop])
    everyone = comm.allgather(mine)
    record.elapsed_seconds, record.training_seconds = (float(t) for t in everyone[:, :2].max(axis=0))
    table = everyone[:, 2:-1].reshape(comm.size, len(PHASES), 3)
    method = [p != "evaluation" for p in PHASES]
    wait = table[:, method, 1].sum(axis=1)
    record.seconds = dict(zip(PHASES, table[:, :, 0].max(axis=0).tolist(), strict=True))
    record.seconds["wait"] = float(wait.mean())
    record.phase_seconds = dict(zip(PHASES, table[:, :, 0].mean(axis=0).tolist(), strict=True))
    record.phase_wait_seconds = dict(zip(PHASES, table[:, :, 1].mean(axis=0).tolist(), strict=True))
    record.wait_seconds = wait.tolist()
    worked = np.maximum(table[:, :, 0] - table[:, :, 1], 0.0)
    timed = [p not in {"evaluation", "other"} for p in PHASES]
    common = [p not in {"evaluation", "other", "direction"} for p in PHASES]
    record.compute_seconds = worked[:, timed].sum(axis=1).tolist()
    record.common_seconds = worked[:, common].sum(axis=1).tolist()
    record.sent_bytes = dict(zip(PHASES, table[:, :, 2].sum(axis=0).tolist(), strict=True))
    return Stop(int(everyone[:, -1].max()))


def plain(value: Any) -> Any:
    """Replace numbers that JSON lacks by None."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
