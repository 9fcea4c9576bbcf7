"""The pictures of a report, each from what runs have recorded."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from distnewton.guards.ledger import PHASES
from distnewton.reporting.run_data import Line, Predictions, Run
from distnewton.reporting.svg import Curve, chart, scatter
from distnewton.reporting.svg_maps import bars, heat_map, process_grid

_MAX_COLUMNS, _MAX_ROWS = 120, 64
_PHASES = [phase for phase in PHASES if phase not in {"other", "evaluation"}]
_NAMES = {"line_search": "line search"}
_MEGABYTE = 1e6

Get = Callable[[Line], float | None]


def _names(phases: Sequence[str]) -> list[str]:
    return [_NAMES.get(phase, phase) for phase in phases]


def convergence(runs: Sequence[Run]) -> list[str]:
    """Objective and metric of all runs against iterations and against seconds."""
    pictures = []
    places: list[tuple[str, Get]] = [
        ("iterations", lambda line: line.iteration),
        ("seconds of training", lambda line: line.training_seconds),
    ]
    for x_label, x in places:
        curves = [
            Curve(run.name if len(runs) > 1 else "", [x(line) for line in run.lines], _objective(run), colour)
            for colour, run in enumerate(runs)
        ]
        pictures.append(chart(f"objective against {x_label}", x_label, curves, log=True))
    for metric in dict.fromkeys(run.metric for run in runs):
        shown = [(colour, run) for colour, run in enumerate(runs) if run.metric == metric]
        for x_label, x in places:
            curves = [curve for colour, run in shown for curve in _metric_curves(run, metric, x, colour, len(runs))]
            which = f"{metric} against {x_label}"
            title = which if len(runs) == 1 else f"{_set_title(shown)} {which}"
            pictures.append(chart(title, x_label, curves))
    return pictures


def _objective(run: Run) -> list[float | None]:
    return [line.objective for line in run.lines]


def _has_test(run: Run) -> bool:
    return any(line.test for line in run.lines)


def _set_title(shown: Sequence[tuple[int, Run]]) -> str:
    kinds = {_has_test(run) for _, run in shown}
    return "test (where there is one)" if len(kinds) > 1 else "test" if kinds == {True} else "training"


def _metric_curves(run: Run, metric: str, x: Get, colour: int, n_runs: int) -> list[Curve]:
    """The test metric of each of several runs; of a single one those of training and validation, too."""
    xs = [x(line) for line in run.lines]
    train, test = ([getattr(line, which).get(metric) for line in run.lines] for which in ("train", "test"))
    if n_runs > 1:
        return [Curve(run.name, xs, test if _has_test(run) else train, colour)]
    curves = [Curve("training", xs, train, 5)]
    validation = [line.validation.get(metric) for line in run.lines]
    curves += [Curve("validation", xs, validation, 2)] if any(line.validation for line in run.lines) else []
    return [*curves, Curve("test", xs, test, 1)] if _has_test(run) else curves


def times(runs: Sequence[Run]) -> str:
    """Where the seconds went, by run."""
    names = [run.name for run in runs]
    values = [[sum(line.seconds.get(phase, 0.0) for line in run.lines) for phase in _PHASES] for run in runs]
    return bars("seconds by phase, on its slowest rank, waiting included", names, _names(_PHASES), values, "s")


def waits(runs: Sequence[Run]) -> str:
    """Where ranks waited in MPI, by run."""
    values = [[sum(line.phase_wait_seconds.get(phase, 0.0) for line in run.lines) for phase in _PHASES] for run in runs]
    if not any(map(any, values)):
        return ""
    title = "seconds in MPI by phase, mean of the ranks"
    return bars(title, [run.name for run in runs], _names(_PHASES), values, "s")


def rank_times(run: Run) -> str:
    """Computing and waiting of each rank."""
    n = max((len(line.compute_seconds) for line in run.lines), default=0)
    if n < 2 or n > _MAX_ROWS:
        return ""
    rows = [line for line in run.lines if len(line.compute_seconds) == len(line.wait_seconds) == n]
    values = [[sum(r.compute_seconds[i] for r in rows), sum(r.wait_seconds[i] for r in rows)] for i in range(n)]
    names = [f"rank {i}" for i in range(n)]
    return bars("seconds by rank: computing, and waiting in MPI", names, ["computing", "waiting in MPI"], values, "s")


def traffic(runs: Sequence[Run]) -> str:
    """Megabytes sent by phase."""
    values = [
        [sum(line.sent_bytes.get(phase, 0.0) for line in run.lines) / _MEGABYTE for phase in _PHASES]
        for run in runs
    ]
    if not any(map(any, values)):
        return ""
    title = "megabytes sent by all ranks, by phase"
    return bars(title, [run.name for run in runs], _names(_PHASES), values, "MB")


def cg_steps(run: Run) -> str:
    """CG steps by rank and iteration, with a dot where a rank was stopped."""
    lines = [line for line in run.lines if line.direction is not None]
    found = [line.direction for line in lines if line.direction is not None]
    n_ranks = max((len(direction.inner_iterations) for direction in found), default=0)
    if not n_ranks or not any(max(direction.inner_iterations, default=0) for direction in found):
        return ""
    columns, rows = _bins(len(found), _MAX_COLUMNS), _bins(n_ranks, _MAX_ROWS)
    values, marks = [], []
    for ranks in rows:
        cells = [[(found[k], rank) for k in group for rank in ranks] for group in columns]
        values.append([max((_item(d.inner_iterations, r) for d, r in cell), default=0.0) for cell in cells])
        marks.append([any(d.stopped_early and r not in d.finished_ranks for d, r in cell) for cell in cells])
    return heat_map(
        "CG steps by rank and iteration; a dot: the rank was stopped early",
        values,
        [_span(ranks[0], ranks[-1]) for ranks in rows],
        [_span(lines[group[0]].iteration, lines[group[-1]].iteration) for group in columns],
        row_label="rank",
        column_label="iteration" if len(columns) == len(found) else "iterations (the most steps of each group)",
        marks=marks,
    )


def _item(values: Sequence[int], i: int) -> float:
    return float(values[i]) if i < len(values) else 0.0


def _bins(n: int, most: int) -> list[list[int]]:
    """Numbers below n in at most so many groups of the same size."""
    size = max(1, math.ceil(n / most))
    return [list(range(i, min(i + size, n))) for i in range(0, n, size)]


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def damping_and_steps(runs: Sequence[Run]) -> list[str]:
    """Gradient norm, damping, step sizes and reduction ratio against iterations; of a single run those of groups."""
    getters: list[tuple[str, Get, bool]] = [
        ("gradient norm", lambda line: line.gradient_norm, True),
        ("damping lambda", lambda line: line.damping if line.direction else None, True),
        ("step size alpha", lambda line: line.step_size if line.direction else None, False),
        ("actual over predicted decrease", lambda line: line.reduction_ratio, False),
    ]
    pictures = []
    for title, get, log in getters:
        curves = [
            Curve(run.name if len(runs) > 1 else "", [r.iteration for r in run.lines], [get(r) for r in run.lines], k)
            for k, run in enumerate(runs)
        ]
        pictures.append(chart(title, "iteration", curves, log=log, zero=not log))
    if len(runs) == 1:
        pictures.append(_group_steps(runs[0]))
    return [picture for picture in pictures if picture]


def _group_steps(run: Run) -> str:
    """Step sizes of the groups of ``grouped_newton``."""
    lines = [line for line in run.lines if line.direction is not None and line.direction.step_sizes]
    sizes = [line.direction.step_sizes for line in lines if line.direction is not None]
    n = max(map(len, sizes), default=0)
    xs = [line.iteration for line in lines]
    shown = range(min(n, 24))
    curves = [Curve(f"group {i}", xs, [row[i] if i < len(row) else None for row in sizes], i) for i in shown]
    return chart("step sizes of the groups", "iteration", curves, zero=True) if curves else ""


def grid(run: Run) -> str:
    """Who owned which block."""
    partition = run.partition
    if partition is None:
        return ""
    hosts = run.environment.hosts
    about = [f"host {hosts[rank]}" if rank < len(hosts) else "" for rank in range(partition.n_ranks)]
    title = "blocks of the weight matrices: inputs downwards, outputs across"
    if (n := run.environment.replicas) > 1:
        title += f" (the first of {n} replicas, which differ in their samples)"
    return process_grid(title, partition, about)


def predictions(found: Predictions) -> list[str]:
    """A confusion matrix, or predictions and residuals against targets."""
    name = "training" if found.set == "train" else found.set
    if found.targets:
        pairs = [(a, b) for a, b in zip(found.targets, found.predictions, strict=True) if b is not None]
        truth, predicted = [a for a, _ in pairs], [b for _, b in pairs]
        residuals = [b - a for a, b in pairs]
        some = "" if len(pairs) >= found.n_samples else f", {len(pairs):,} of {found.n_samples:,}"
        return [
            scatter(f"prediction against target ({name} set{some})", "target", truth, predicted, "diagonal"),
            scatter(f"residual against prediction ({name} set{some})", "prediction", predicted, residuals, "zero"),
        ]
    if not found.confusion:
        return []
    shares: list[list[float | None]] = []
    tips = []
    for i, row in enumerate(found.confusion):
        total = max(1, sum(row))
        shares.append([100.0 * count / total for count in row])
        tips.append([f"{found.classes[i]} taken for {found.classes[j]}: {count:,} of {total:,} samples"
                     for j, count in enumerate(row)])  # fmt: skip
    title = f"confusion matrix: per cent of each true class ({name} set)"
    return [
        heat_map(
            title, shares, found.classes, found.classes, row_label="true class", column_label="predicted class",
            number="{:.0f}", tips=tips, square=True, root=True,
        )
    ]  # fmt: skip
