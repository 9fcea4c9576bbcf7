"""The sentence at the top of a report: what runs reached, in what time, and what limited them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from distnewton.reporting.scale import Scale
from distnewton.reporting.totals import Totals

if TYPE_CHECKING:
    from distnewton.reporting.run_data import Run

_MUCH = 0.3
"""Share of the seconds above which waiting limits a run."""


def headline(runs: Sequence[Run]) -> str:
    """Summarise the results of runs.

    Parameters
    ----------
    runs : sequence of Run
        At least one.

    Returns
    -------
    str
        A sentence or two; empty if nothing was recorded, or if several runs have different metrics.
    """
    if not all(run.lines for run in runs):
        return ""
    return _of_one(runs[0]) if len(runs) == 1 else _of_several(runs)


def share_of_cores(n_ranks: int, n_cores: int) -> str:
    """Say that ranks share cores, and what to do; empty if each has its own, or if the number is unknown."""
    if not 0 < n_cores < n_ranks:
        return ""
    return f"{n_ranks} ranks share {n_cores} core{'s' if n_cores > 1 else ''}; try {n_cores}"


def _of_one(run: Run) -> str:
    scale = run.scale
    if not scale.which:
        return ""
    totals, n = Totals.of(run.lines), run.environment.ranks
    ranks = "1 rank" if n == 1 else f"{n} ranks"
    reached = _words(scale, scale.of(run.model_line))
    return f"{reached} after {totals.seconds:.1f} s of training on {ranks}{_limit(run, totals)}."


def _limit(run: Run, totals: Totals) -> str:
    """Say what took most of the time."""
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
    """Say which run is the best, and which one reached the level of the worst first."""
    scale, *others = {run.scale for run in runs}
    if others or not scale.which:
        return ""
    best = {run.name: scale.best(run.lines) for run in runs}
    order = sorted(best, key=lambda name: scale.cost(best[name]))
    level = best[order[-1]]
    times = {run.name: scale.seconds_to(run.lines, level) for run in runs}
    first, *later = sorted(times, key=times.__getitem__)
    shown = ", ".join(f"{name} {scale.text(best[name])}" for name in order)
    rest = ", ".join(f"{name} after {times[name]:.1f} s" for name in later)
    return (
        f"Best {scale.title} of any iteration: {shown}. "
        f"{first} reaches {scale.text(level)} first, after {times[first]:.1f} s; {rest}."
    )


def _words(scale: Scale, value: float) -> str:
    """Write a metric in words."""
    samples = "training" if scale.which == "train" else scale.which
    if scale.metric == "accuracy":
        return f"{100 * value:.1f} % of the {samples} samples are right"
    name = scale.metric.upper() if scale.metric == "auc" else scale.metric
    return f"{samples.capitalize()} {name} {scale.text(value)}"
