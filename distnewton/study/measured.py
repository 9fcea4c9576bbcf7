"""What the runs of a study took: medians with intervals, efficiency, and points that do not count."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from distnewton.files import parse_json
from distnewton.guards.ledger import PHASES
from distnewton.runs.run_folder import ENVIRONMENT_FILE, read_metrics
from distnewton.study.points import Study

_RESAMPLES = 2000
_BASIC = [phase for phase in PHASES if phase != "evaluation"]


@dataclass
class MeasuredPoint:
    """Runs on a number of ranks.

    Its 17 attributes are the keys of a line of ``scaling.jsonl``.

    Attributes
    ----------
    n_ranks, n_hosts, n_threads : int
        Ranks, hosts, and BLAS threads of a rank.
    seconds : float
        Seconds of an iteration without its evaluation: the median over the iterations of all runs that count.
    low, high : float
        95 % bootstrap interval of the median.
    wait : float
        Seconds of an iteration that a rank spends inside MPI, waiting and transfer: the median of the ranks' mean.
    phases : dict of str to float
        Median seconds of the slowest rank by phase.
    sent_bytes : float
        Bytes of an iteration over all ranks, the median.
    n_steps, n_trials : float
        CG steps and line-search trials of an iteration, the mean.
    objective : float
        Objective after the last iteration.
    splits : list of int
        Groups of each layer.
    n_runs : int
        Number of runs that have ended.
    refused : str
        Why the point does not count; empty if it does.
    n_replicas : int
        Copies of the grid.
    n_cores : int
        Cores that the ranks' threads had; less than the threads where they shared some.
    """

    n_ranks: int
    n_hosts: int
    n_threads: int
    seconds: float
    low: float
    high: float
    wait: float
    phases: dict[str, float]
    sent_bytes: float
    n_steps: float
    n_trials: float
    objective: float
    splits: list[int]
    n_runs: int
    refused: str = ""
    n_replicas: int = 1
    n_cores: int = 0


def collect(study: Study, root: Path, tolerance: float) -> tuple[list[MeasuredPoint], list[str]]:
    """Read the runs that have ended.

    Parameters
    ----------
    study : Study
        The study.
    root : Path
        Folder of the study.
    tolerance : float
        Relative difference of objectives up to which runs of the same problem have done the same work.

    Returns
    -------
    list of MeasuredPoint
        By rank count; empty where nothing has ended.
    list of str
        What is missing.
    """
    points, missing = [], []
    n_expected = study.n_warmup + study.n_measured + 1
    for n_ranks in study.ranks:
        runs = []
        for repeat in range(1, study.n_repeats + 1):
            folder = study.folder(root, n_ranks, repeat)
            records = list(read_metrics(folder)) if folder.is_dir() else []
            if len(records) < n_expected:
                missing.append(f"{folder.relative_to(root)}: {len(records)} of {n_expected} records")
            else:
                facts = parse_json((folder / ENVIRONMENT_FILE).read_text(encoding="utf-8"))
                runs.append((records, facts))
        if runs:
            points.append(_point(study, n_ranks, runs))
    if points and study.kind == "strong":
        _refuse_other_objectives(points, tolerance)
    return points, missing


def _point(study: Study, n_ranks: int, runs: list[tuple[list[dict[str, Any]], dict[str, Any]]]) -> MeasuredPoint:
    times = list(chain.from_iterable(_iteration_seconds(records)[study.n_warmup :] for records, _ in runs))
    counted = list(chain.from_iterable(records[study.n_warmup + 1 :] for records, _ in runs))
    low, high = bootstrap_interval(times)
    facts = runs[0][1]
    n_threads = n_ranks * int(facts["threads_per_rank"])
    directions = [record["direction"] for record in counted if record["direction"]]
    return MeasuredPoint(
        n_ranks,
        len(set(facts["hosts"])),
        int(facts["threads_per_rank"]),
        _median(times),
        low,
        high,
        _median(np.mean(record["wait_seconds"]) for record in counted),
        _seconds_by_phase(counted),
        _median(sum(map(record["sent_bytes"].__getitem__, _BASIC)) for record in counted),
        float(np.mean([np.mean(direction["inner_iterations"]) for direction in directions])),
        float(np.mean([record["line_search_trials"] for record in counted])),
        float(counted[-1]["objective"]),
        list(facts["splits"]),
        len(runs),
        n_replicas=int(facts.get("replicas", 1)),
        n_cores=min(n_threads, int(facts.get("cores") or n_threads)),
    )


def _seconds_by_phase(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Median seconds of the slowest rank."""
    return {phase: _median(record["seconds"][phase] for record in records) for phase in _BASIC}


def _iteration_seconds(records: Sequence[dict[str, Any]]) -> list[float]:
    """Seconds of each iteration of a run."""
    return list(np.diff([record["training_seconds"] for record in records]))


def _median(values: Iterable[float]) -> float:
    return float(np.median(list(values)))


def bootstrap_interval(times: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the median, by resampling; the same for the same times."""
    values = np.asarray(times)
    drawn = np.random.default_rng(0).choice(values, size=(_RESAMPLES, len(values)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return float(low), float(high)


def _refuse_other_objectives(points: list[MeasuredPoint], tolerance: float) -> None:
    """Points that did not do the same work do not count."""
    base = points[0].objective
    for point in points[1:]:
        difference = abs(point.objective - base) / max(abs(base), 1e-300)
        if not difference <= tolerance:
            point.refused = (
                f"its objective is {point.objective:.6g}, that of {points[0].n_ranks} ranks {base:.6g}: not the same "
                "work (gauss_newton is the same on every grid, block directions are not)"
            )


def efficiency(study: Study, points: Sequence[MeasuredPoint], seconds: float, n_ranks: int) -> float:
    """Parallel efficiency against the point with the fewest ranks.

    Parameters
    ----------
    study : Study
        Strong or weak.
    points : sequence of MeasuredPoint
        The first is the base.
    seconds : float
        Seconds of an iteration.
    n_ranks : int
        Ranks that need these seconds.

    Returns
    -------
    float
        T_b b / (T p), or T_b / T where the work grows with the ranks.
    """
    base = points[0]
    return base.seconds / seconds * (base.n_ranks / n_ranks if study.kind == "strong" else 1.0)
