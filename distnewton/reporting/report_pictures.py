"""The pictures of a report, made from the records of runs; a picture without contents is None or false."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import numpy as np

from distnewton.guards.ledger import PHASES
from distnewton.method.records import IterationRecord
from distnewton.reporting.drawing import Picture, save
from distnewton.reporting.pictures import Bars, BlockMap, Chart, Curve, Field, HeatMap, Panels, Scatter, span
from distnewton.reporting.run_data import Predictions, Run
from distnewton.reporting.scale import Scale
from distnewton.reporting.totals import Totals

_MAX_COLUMNS, _MAX_ROWS, _MAX_GROUPS = 120, 64, 24
_PHASES = [phase for phase in PHASES if phase not in {"other", "evaluation"}]
_ROUNDING = 1e-12
"""Errors up to this value count as zero."""
_SET_COLOURS = {"train": 5, "validation": 2, "test": 1}
_SET_NAMES = {"train": "training", "validation": "validation", "test": "test"}

Get = Callable[[IterationRecord], float | None]
_PLACES: dict[str, Get] = {
    "iterations": lambda line: line.iteration,
    "seconds of training": lambda line: line.training_seconds,
}


def convergence(runs: Sequence[Run]) -> list[Chart]:
    """Make charts of objective and error of all runs, at least one, against iterations and against seconds."""
    charts = [
        Chart(f"objective against {place}", place, _overlaid(runs, x, lambda line: line.objective), log=True)
        for place, x in _PLACES.items()
    ]
    metrics = dict.fromkeys(run.metric for run in runs)
    return [*charts, *(chart for metric in metrics for chart in _errors(runs, metric))]


def _errors(runs: Sequence[Run], metric: str) -> Iterator[Chart]:
    """Make charts of the error in a metric, for the runs that have it."""
    shown = [(k, run) for k, run in enumerate(runs) if run.metric == metric]
    sets = {run.scale.which for _, run in shown} - {""}
    which = _SET_NAMES[sets.pop()] if len(sets) == 1 else "held-out, or training,"
    for place, x in _PLACES.items():
        curves = _curves_of_sets(runs[0], x) if len(runs) == 1 else _curves_of_runs(shown, x)
        name = metric if shown[0][1].scale.lower else f"error (1 - {metric})"
        title = name if len(runs) == 1 else f"{which} {name}"
        yield _error_chart(f"{title} against {place}", place, curves)


def _error_chart(title: str, place: str, curves: Sequence[Curve]) -> Chart:
    """Make a chart of errors on a logarithmic axis, with a tick at its lower edge for errors of 0."""
    errors = np.array([math.nan if y is None else y for curve in curves for y in curve.y])
    if (errors <= _ROUNDING).any():
        edge = min(errors[np.isfinite(errors) & (errors > _ROUNDING)], default=1.0) / 2
        curves = [
            replace(curve, y=[edge if y is not None and y <= _ROUNDING else y for y in curve.y]) for curve in curves
        ]
        return Chart(title, place, curves, log=True, nought=edge)
    return Chart(title, place, curves, log=True)


def _overlaid(runs: Sequence[Run], x: Get, y: Get) -> list[Curve]:
    """Make a curve for each run, with names if there are several."""
    return [_curve(run.name if len(runs) > 1 else "", run, x, y, k) for k, run in enumerate(runs)]


def _curve(name: str, run: Run, x: Get, y: Get, colour: int) -> Curve:
    return Curve(name, [x(line) for line in run.lines], [y(line) for line in run.lines], colour)


def _curves_of_sets(run: Run, x: Get) -> list[Curve]:
    """Make curves of a run's error on each of its sets, and mark its model."""
    sets = [which for which in _SET_NAMES if any(run.metric in getattr(line, which) for line in run.lines)]
    curves = [
        _curve(_SET_NAMES[which], run, x, Scale(run.metric, which).error, _SET_COLOURS[which]) for which in sets
    ]
    judged = run.scale
    if judged.which:
        line = run.model_line
        name = f"model: iteration {line.iteration}"
        curves.append(Curve(name, [x(line)], [judged.error(line)], _SET_COLOURS[judged.which], "mark"))
    return curves


def _curves_of_runs(shown: Sequence[tuple[int, Run]], x: Get) -> list[Curve]:
    """Make curves of each run's error, and of its least value up to each iteration."""
    raw = [_curve(run.name, run, x, Scale(run.metric, run.scale.which or "train").error, k) for k, run in shown]
    least = [replace(curve, y=_least_so_far(curve.y)) for curve in raw]
    return [*(replace(curve, kind="faint") for curve in raw), *least]


def _least_so_far(values: Sequence[float | None]) -> list[float | None]:
    numbers = [math.inf if value is None or math.isnan(value) else value for value in values]
    return [value if math.isfinite(value) else None for value in accumulate(numbers, min)]


def save_convergence(run: Run, path: Path) -> None:
    """Draw objective and metric of a run against iterations and seconds into a PNG or SVG file."""
    save(Panels(run.name, convergence([run])), path, "the convergence picture")


def costs(runs: Sequence[Run]) -> list[Picture]:
    """Make pictures of time and traffic: by phase for all runs, and by rank for a single one."""
    # one rank sends nothing and waits for nobody
    several = [run for run in runs if run.environment.ranks > 1]
    pictures: list[Picture] = [
        *_phase_seconds(runs),
        *_phases("seconds in MPI by phase, mean of the ranks", several, lambda line: line.phase_wait_seconds, "s"),
        *_phases("megabytes sent by all ranks, by phase", several, lambda line: line.sent_bytes, "MB", 1e-6),
    ]
    return pictures + (rank_times(runs[0]) if len(runs) == 1 else [])


def _phase_seconds(runs: Sequence[Run]) -> Iterator[Bars]:
    """Seconds by phase, and the rest of those that a run took."""
    for bars in _phases("seconds by phase, waiting included", runs, lambda line: line.phase_seconds, "s"):
        rest = [Totals.of(run.lines).seconds - sum(row) for run, row in zip(runs, bars.values, strict=True)]
        values = [[*row, max(0.0, more)] for row, more in zip(bars.values, rest, strict=True)]
        yield replace(bars, kinds=[*bars.kinds, "other"], values=values, colours=[*bars.colours, "line"])


def _phases(
    title: str, runs: Sequence[Run], get: Callable[[IterationRecord], dict[str, float]], unit: str, factor: float = 1.0
) -> Iterator[Bars]:
    """What runs took by phase, for the phases that took something, in a unit."""
    rows = [[factor * sum(get(line).get(phase, 0.0) for line in run.lines) for phase in _PHASES] for run in runs]
    there = [k for k in range(len(_PHASES)) if any(row[k] for row in rows)]
    if there:
        values = [[row[k] for k in there] for row in rows]
        names, colours = [_PHASES[k].replace("_", " ") for k in there], [f"p{k}" for k in there]
        yield Bars(title, [run.name for run in runs], names, values, unit, colours)


def rank_times(run: Run) -> list[Picture]:
    """Make bars of computing and waiting of each rank, if there are several but not too many."""
    n = max((len(line.compute_seconds) for line in run.lines), default=0)
    if not 2 <= n <= _MAX_ROWS:
        return []
    rows = [line for line in run.lines if len(line.compute_seconds) == len(line.wait_seconds) == n]
    values = [[sum(r.compute_seconds[i] for r in rows), sum(r.wait_seconds[i] for r in rows)] for i in range(n)]
    names, kinds = [f"rank {i}" for i in range(n)], ["computing", "waiting in MPI"]
    return [Bars("seconds by rank: computing, and waiting in MPI", names, kinds, values, "s", ["work", "wait"])]


def cg_steps(run: Run) -> list[Picture]:
    """Make a map of CG steps by rank and iteration, with a dot where a rank was stopped."""
    steps = [(line.iteration, line.direction) for line in run.lines if line.direction is not None]
    n_ranks = max((len(direction.inner_iterations) for _, direction in steps), default=0)
    counts, stopped = np.zeros((n_ranks, len(steps))), np.zeros((n_ranks, len(steps)), dtype=bool)
    for k, (_, direction) in enumerate(steps):
        n = len(direction.inner_iterations)
        counts[:n, k] = direction.inner_iterations
        stopped[:n, k] = direction.stopped_early & ~np.isin(range(n), direction.finished_ranks)
    if not counts.any():
        return []
    ranks, groups = _starts(n_ranks, _MAX_ROWS), _starts(len(steps), _MAX_COLUMNS)
    # a cell of several ranks or iterations shows their largest number
    counts, stopped = (
        np.maximum.reduceat(np.maximum.reduceat(table, ranks, axis=0), groups, axis=1) for table in (counts, stopped)
    )
    return [
        HeatMap(
            "CG steps by rank and iteration" + ("; a dot: the rank was stopped early" if stopped.any() else ""),
            counts.tolist(),
            _spans(list(range(n_ranks)), ranks),
            _spans([iteration for iteration, _ in steps], groups),
            ("rank", "iteration" if len(groups) == len(steps) else "iterations (the most steps of each group)"),
            marks=stopped.tolist(),
        )
    ]


def _starts(n: int, most: int) -> list[int]:
    """Return the starts of at most `most` groups of equal size among n."""
    return list(range(0, n, max(1, math.ceil(n / most))))


def _spans(numbers: Sequence[int], starts: Sequence[int]) -> list[str]:
    """Write the first and last number of each group."""
    ends = [*starts[1:], len(numbers)]
    return [span(numbers[start], numbers[end - 1]) for start, end in zip(starts, ends, strict=True)]


def damping_and_steps(runs: Sequence[Run]) -> list[Chart]:
    """Make charts of gradient norm, damping, steps and reduction ratio; for a single run, of steps of groups too."""
    kinds: list[tuple[str, Get, bool]] = [
        ("gradient norm", lambda line: line.gradient_norm, True),
        ("damping lambda", lambda line: line.damping if line.direction else None, True),
        ("step size alpha", lambda line: line.step_size if line.direction else None, False),
        ("actual over predicted decrease", lambda line: line.reduction_ratio, False),
    ]
    at = _PLACES["iterations"]
    charts = [Chart(title, "iteration", _overlaid(runs, at, y), log=log, zero=not log) for title, y, log in kinds]
    return [*charts, *([_group_steps(runs[0])] if len(runs) == 1 else [])]


def _group_steps(run: Run) -> Chart:
    """Make a chart of the step sizes of ``grouped_newton``'s groups."""
    steps = [(line.iteration, line.direction.step_sizes) for line in run.lines if line.direction is not None]
    steps = [(k, sizes) for k, sizes in steps if sizes]
    n_groups = min(_MAX_GROUPS, max((len(sizes) for _, sizes in steps), default=0))
    iterations = [k for k, _ in steps]
    curves = [
        Curve(f"group {i}", iterations, [sizes[i] if i < len(sizes) else None for _, sizes in steps], i)
        for i in range(n_groups)
    ]
    return Chart("step sizes of the groups", "iteration", curves, zero=True)


def ownership(run: Run) -> list[Picture]:
    """Draw which rank owned which block."""
    partition, hosts, n = run.environment.partition, run.environment.hosts, run.environment.replicas
    if partition is None or partition.n_ranks == 1:
        return []
    about = [f"host {hosts[rank]}" if rank < len(hosts) else "" for rank in range(partition.n_ranks)]
    more = f" (the first of {n} replicas, which differ in their samples)" if n > 1 else ""
    blocks = BlockMap(f"blocks of the weight matrices: inputs downwards, outputs across{more}", partition, about)
    return [blocks] if blocks else []


def predictions(shown: Predictions) -> list[Picture]:
    """Draw a confusion matrix, or predictions and residuals against targets."""
    name = f"{_SET_NAMES.get(shown.set, shown.set)} set"
    if shown.targets:
        return _residuals(shown, name)
    return [_confusion(shown, name)] if shown.confusion else []


def _residuals(shown: Predictions, name: str) -> list[Picture]:
    pairs = [(a, b) for a, b in zip(shown.targets, shown.predictions, strict=True) if b is not None]
    truth, predicted = [a for a, _ in pairs], [b for _, b in pairs]
    if len(pairs) < shown.n_samples:
        name += f", {len(pairs):,} of {shown.n_samples:,}"
    errors = [b - a for a, b in pairs]
    return [
        Scatter(f"prediction against target ({name})", "target", truth, predicted, diagonal=True),
        Scatter(f"residual against prediction ({name})", "prediction", predicted, errors, diagonal=False),
    ]


def _confusion(shown: Predictions, name: str) -> HeatMap:
    classes, counts = shown.classes, np.array(shown.confusion)
    totals = np.maximum(1, counts.sum(axis=1))
    tips = [
        [f"{true} taken for {other}: {n:,} of {total:,} samples" for other, n in zip(classes, row, strict=True)]
        for true, row, total in zip(classes, shown.confusion, totals, strict=True)
    ]
    return HeatMap(
        f"confusion matrix: per cent of each true class ({name})", (100.0 * counts / totals[:, None]).tolist(),
        classes, classes, ("true class", "predicted class"), number="{:.0f}", tips=tips,
        square=True, most=100.0,
    )  # fmt: skip


def solution(shown: Predictions) -> list[Picture]:
    """Draw the solution of a residual problem in one or two dimensions, and its error if that is known."""
    several = len(shown.values) > 1
    pictures: list[Picture] = []
    for k, values in enumerate(shown.values):
        name = f"u[{k}]" if several else "u"
        of_error = f"error |{name} - solution|"
        errors = [abs(value) for value in shown.errors[k]] if shown.errors else []
        x = shown.axes[0]
        if len(shown.axes) == 1:
            true = np.subtract(values, shown.errors[k]).tolist() if errors else []
            known = [Curve("solution", x, true, 1)] if errors else []
            pictures.append(Chart(name, "x[0]", [*known, Curve("network", x, values)]))
            pictures += [Chart(of_error, "x[0]", [Curve("", x, errors)], log=True)] if errors else []
        else:
            pictures += _fields(shown.axes, {name: values, of_error: errors})
    return pictures


def _fields(axes: Sequence[Sequence[float]], fields: dict[str, list[float]]) -> list[Picture]:
    """Draw values on a grid of points, by title; leave out empty ones."""
    x, y = axes
    return [Field(title, x, y, np.reshape(values, (len(x), len(y)))) for title, values in fields.items() if values]
