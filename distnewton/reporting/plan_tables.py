"""Plans as tables and as JSON-able values."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from distnewton.guards.ledger import PHASES
from distnewton.planning.plan import Plan

_SHOWN = 24
"""Splits in a table; the fastest come first."""


def as_dict(plan: Plan) -> dict[str, Any]:
    """A plan as plain, JSON-able values: seconds and bytes of the rank with most to do."""
    return {
        "splits": list(plan.splits),
        "replicas": plan.n_replicas,
        "n_ranks": plan.n_ranks,
        "widths": list(plan.partition.widths),
        "n_params": plan.problem.shape.n_params,
        "seconds": plan.seconds,
        "memory_bytes": plan.memory,
        "phases": {name: {"seconds": phase.seconds} | asdict(phase) for name, phase in plan.phases.items()},
        "n_idle_ranks": plan.n_idle,
        "limits": plan.limits(),
    }


def print_plans(plans: Sequence[Plan], n_ranks: int, memory_gb: float | None, widest: Plan | None) -> None:
    """Print plans, the first as the recommended one.

    Parameters
    ----------
    plans : sequence of Plan
        The fastest first.
    n_ranks : int
        Ranks.
    memory_gb : float or None
        Of a rank, where it is known.
    widest : Plan or None
        Of the widest network that fits it.
    """
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 150)
    best = plans[0]
    problem, n_replicas = best.problem, best.n_replicas

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, emoji=False)

    rows = f"{problem.n_rows} random rows" if problem.sketched else f"{problem.n_rows} rows"
    each = f" in each of {n_replicas} replicas" if n_replicas > 1 else ""
    say(
        f"{problem.shape}: {problem.shape.n_params:,} variables, {problem.n_samples:,} samples{each}, "
        f"{problem.n_curvature:,} of curvature ({rows} each), {problem.direction} with {problem.n_steps} CG steps, "
        f"{problem.n_trials} trial{'s' * (problem.n_trials > 1)}, on {n_ranks:,} rank{'s' * (n_ranks > 1)}"
    )
    parts = list(best.memory)
    table = _table(f"Memory of a rank by part, MB{'' if memory_gb is None else f' (of {1000 * memory_gb:,.0f})'}")
    _fill(table, plans, [*parts, "sum"], lambda plan: [*plan.memory.values(), plan.memory_bytes], 1e-6)
    console.print(table)
    phases = [phase for phase in PHASES if any(plan.phases[phase].seconds > 0 for plan in plans)]
    table = _table("Predicted seconds of an iteration by phase")
    _fill(table, plans, [*phases, "sum"], lambda plan: [*(plan.phases[p].seconds for p in phases), plan.seconds], 1.0)
    console.print(table)
    if n_ranks > 1:
        table = _table("MB that a rank sends in an iteration by phase, and its messages")

        def sent(plan: Plan) -> list[float]:
            return [*(plan.phases[phase].sent_bytes for phase in phases), plan.sent_bytes]

        _fill(table, plans, [*phases, "sum"], sent, 1e-6, ("messages", lambda plan: f"{plan.n_messages:,}"))
        console.print(table)
    if len(plans) > _SHOWN:
        say(f"{len(plans) - _SHOWN} slower splits are not shown; --json has all")
    say(f"recommended: --partition.splits {'-'.join(map(str, best.splits))} ({best.seconds:.3g} s an iteration)")
    say(f"what limits: {best.limits()}")
    if memory_gb is not None and widest is None:
        say(f"no network of this kind fits {memory_gb:g} GB a rank: fewer samples of curvature, or more ranks")
    elif widest is not None:
        say(
            f"largest network of this kind that fits {memory_gb:g} GB a rank: {widest.problem.shape} "
            f"({widest.problem.shape.n_params:,} variables, {widest.seconds:.3g} s an iteration)"
        )
    if memory_gb is not None and best.memory_bytes > memory_gb * 1e9:
        say(f"this network does not fit {memory_gb:g} GB a rank")


def _table(title: str) -> Any:
    from rich import box
    from rich.table import Table

    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, title_style="bold")


def _fill(
    table: Any,
    plans: Sequence[Plan],
    names: Sequence[str],
    values: Callable[[Plan], list[float]],
    factor: float,
    more: tuple[str, Callable[[Plan], str]] | None = None,
) -> None:
    """Columns of a table, and a row for each plan."""
    table.add_column("splits", no_wrap=True)
    for name in [*names, *([more[0]] if more else [])]:
        table.add_column(name, justify="right")
    for plan in plans[:_SHOWN]:
        cells = [_number(factor * value) for value in values(plan)]
        table.add_row(plan.title, *cells, *([more[1](plan)] if more else []))


def _number(value: float) -> str:
    """Three digits, without an exponent where it is short."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 1e-3 else f"{value:.1e}"
