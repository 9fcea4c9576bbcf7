"""Measurements of a study: medians with intervals, efficiency, and points that do not count."""

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
    """Measurements on a number of ranks.

    Its 17 attributes are the keys of a line of ``scaling.jsonl``.

    Attributes
    ----------
    n_ranks, n_hosts, n_threads : int
        Number of ranks, of hosts, and of BLAS threads of a rank.
    seconds : float
        Seconds of an iteration without evaluation: the median over the timed iterations of all runs.
    low, high : float
        95 % bootstrap interval of the median.
    wait : float
        Seconds of an iteration inside MPI, for waiting and transfer: the median of the mean over ranks.
    phases : dict of str to float
        Median seconds of the slowest rank by phase.
    sent_bytes : float
        Median bytes sent in an iteration over all ranks.
    n_steps, n_trials : float
        Mean numbers of CG steps and line-search trials in an iteration.
    objective : float
        Objective after the last iteration.
    splits : list of int
        Groups of each layer.
    n_runs : int
        Number of finished runs.
    refused : str
        Why the point does not count; empty if it does.
    n_replicas : int
        Number of copies of the grid.
    n_cores : int
        Number of cores for the ranks' threads; less than the number of threads if they share cores.
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
    """Read the finished runs.

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
        Points by number of ranks; empty if no run has finished.
    list of str
        Lines on missing runs.
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
    """Return a 95 % interval of the median by resampling; the same times give the same interval."""
    values = np.asarray(times)
    drawn = np.random.default_rng(0).choice(values, size=(_RESAMPLES, len(values)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return float(low), float(high)


def _refuse_other_objectives(points: list[MeasuredPoint], tolerance: float) -> None:
    """Refuse points that did not do the same work."""
    base = points[0].objective
    for point in points[1:]:
        difference = abs(point.objective - base) / max(abs(base), 1e-300)
        if not difference <= tolerance:
            point.refused = (
                f"its objective is {point.objective:.6g}, that of {points[0].n_ranks} ranks {base:.6g}: not the same "
                "work (gauss_newton is the same on every grid, block directions are not)"
            )


def efficiency(study: Study, points: Sequence[MeasuredPoint], seconds: float, n_ranks: int) -> float:
    """Compute the parallel efficiency relative to the point with the fewest ranks.

    Parameters
    ----------
    study : Study
        Strong or weak.
    points : sequence of MeasuredPoint
        Points, of which the first is the base.
    seconds : float
        Seconds of an iteration.
    n_ranks : int
        Number of ranks that take these seconds.

    Returns
    -------
    float
        T_b b / (T p), or T_b / T if the work grows with the ranks.
    """
    base = points[0]
    return base.seconds / seconds * (base.n_ranks / n_ranks if study.kind == "strong" else 1.0)
