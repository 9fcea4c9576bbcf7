"""The sentence at the top of a report: what runs reached, in which time, and what limited them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from distnewton.method.records import IterationRecord
from distnewton.models.metrics import LOWER_IS_BETTER, is_reached, metric_text
from distnewton.reporting.totals import Totals

if TYPE_CHECKING:
    from distnewton.reporting.run_data import Run

_MUCH = 0.3
"""Share of the seconds from which on waiting is what limits a run."""
_SETS = ("test", "validation", "train")


def headline(runs: Sequence[Run]) -> str:
    """Say what runs came to.

    Parameters
    ----------
    runs : sequence of Run
        At least one.

    Returns
    -------
    str
        A sentence or two; empty where nothing was recorded, or where several runs are not judged alike.
    """
    if not all(run.lines for run in runs):
        return ""
    return _of_one(runs[0]) if len(runs) == 1 else _of_several(runs)


def share_of_cores(n_ranks: int, n_cores: int) -> str:
    """That ranks share cores, and what to do; empty where each has one of its own, or nobody knows."""
    if not 0 < n_cores < n_ranks:
        return ""
    return f"{n_ranks} ranks share {n_cores} core{'s' if n_cores > 1 else ''}; try {n_cores}"


def _of_one(run: Run) -> str:
    which = judged_set(run)
    if not which:
        return ""
    totals, n = Totals.of(run.lines), run.environment.ranks
    ranks = "1 rank" if n == 1 else f"{n} ranks"
    reached = _words(run.metric, which, _value(run.model_line, which, run.metric))
    return f"{reached} after {totals.seconds:.1f} s of training on {ranks}{_limit(run, totals)}."


def _limit(run: Run, totals: Totals) -> str:
    """What took the most of the time."""
    facts = run.environment
    if facts.ranks > 1 and totals.share_waited >= _MUCH:
        cause = share_of_cores(facts.ranks, facts.cores)
        if not cause and run.slowest is not None:
            cause = f"for rank {run.slowest.rank}, above all"
        return f"; {100 * totals.share_waited:.0f} % of it waiting" + (f" ({cause})" if cause else "")
    phases: dict[str, float] = {}
    for line in run.lines:
        for phase, seconds in line.seconds.items():
            if phase not in {"wait", "evaluation", "other"}:
                phases[phase] = phases.get(phase, 0.0) + seconds
    if not any(phases.values()):
        return ""
    most = max(phases, key=phases.__getitem__)
    return f"; {100 * phases[most] / sum(phases.values()):.0f} % of it in the phase {most.replace('_', ' ')}"


def _of_several(runs: Sequence[Run]) -> str:
    """Which run is the best, and which reached the level of the worst one soonest."""
    judged = {(judged_set(run), run.metric) for run in runs}
    which, metric = judged.pop()
    if judged or not which:
        return ""
    lower = metric in LOWER_IS_BETTER
    best = {run.name: (min if lower else max)(_values(run, which)) for run in runs}
    order = sorted(best, key=best.__getitem__, reverse=not lower)
    level = best[order[-1]]
    times = {run.name: _seconds_to(run, which, level) for run in runs}
    first, *others = sorted(times, key=times.__getitem__)
    shown = ", ".join(f"{name} {metric_text(metric, best[name])}" for name in order)
    rest = ", ".join(f"{name} after {times[name]:.1f} s" for name in others)
    return (
        f"Best {which} {metric} on the way: {shown}. "
        f"{first} reaches {metric_text(metric, level)} first, after {times[first]:.1f} s; {rest}."
    )


def judged_set(run: Run) -> str:
    """The set that says most of a run: the first of test, validation and training that was measured, or none."""
    return next((which for which in _SETS if _values(run, which)), "")


def _values(run: Run, which: str) -> list[float]:
    values = (_value(line, which, run.metric) for line in run.lines)
    return [value for value in values if not math.isnan(value)]


def _value(line: IterationRecord, which: str, metric: str) -> float:
    return float(getattr(line, which).get(metric, math.nan))


def _seconds_to(run: Run, which: str, level: float) -> float:
    """Seconds of training to a level."""
    reached = (line for line in run.lines if is_reached(run.metric, _value(line, which, run.metric), level))
    return next((line.training_seconds for line in reached), math.inf)


def _words(metric: str, which: str, value: float) -> str:
    """A metric in words."""
    samples = "training" if which == "train" else which
    if metric == "accuracy":
        return f"{100 * value:.1f} % of the {samples} samples are right"
    return f"{samples.capitalize()} {metric.upper() if metric == 'auc' else metric} {metric_text(metric, value)}"
