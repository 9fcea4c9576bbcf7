"""Plans as tables and as JSON-able values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from distnewton.guards.ledger import PHASES
from distnewton.planning.plan import Plan
from distnewton.reporting.pictures import label
from distnewton.reporting.terminal import make_console

if TYPE_CHECKING:
    from rich.table import Table

_SHOWN = 24
"""Number of splits in a table; the fastest come first."""


def as_dict(plan: Plan) -> dict[str, Any]:
    """Convert a plan to JSON values: seconds and bytes of the rank with the most work."""
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
        Ranks of all replicas.
    memory_gb : float or None
        Memory of a rank, if known.
    widest : Plan or None
        Plan of the widest network that fits the memory.
    """
    console = make_console(150)
    for part in (_about(plans[0], n_ranks), *_tables(plans, memory_gb), *_advice(plans, memory_gb, widest)):
        console.print(part, highlight=False, markup=False, emoji=False)


def _about(plan: Plan, n_ranks: int) -> str:
    """Describe what is planned."""
    problem, method = plan.problem, plan.problem.method
    rows = f"{problem.n_rows} random rows" if problem.sketched else f"{problem.n_rows} rows"
    each = f" in each of {plan.n_replicas} replicas" if plan.n_replicas > 1 else ""
    return (
        f"{problem.shape}: {problem.shape.n_params:,} variables, {problem.n_samples:,} samples{each}, "
        f"{problem.n_curvature:,} of curvature ({rows} each), {method.direction} with {method.n_steps} CG steps, "
        f"{method.n_trials} trial{'s' * (method.n_trials > 1)}, on {n_ranks:,} rank{'s' * (n_ranks > 1)}"
    )


def _tables(plans: Sequence[Plan], memory_gb: float | None) -> Iterator[Table]:
    """Make tables of memory, seconds and messages, with a row for each plan."""
    of = "" if memory_gb is None else f" (of {1000 * memory_gb:,.0f})"
    yield _table(f"Memory of a rank by part, MB{of}", plans, lambda plan: plan.memory, 1e-6)
    # a phase in which nothing happens has no column
    phases = [phase for phase in PHASES if any(plan.phases[phase].seconds > 0 for plan in plans)]

    def by_phase(quantity: str) -> Callable[[Plan], dict[str, float]]:
        return lambda plan: {phase: getattr(plan.phases[phase], quantity) for phase in phases}

    yield _table("Predicted seconds of an iteration by phase", plans, by_phase("seconds"), 1.0)
    if plans[0].n_ranks > 1:
        title = "MB that a rank sends in an iteration by phase, and its messages"
        yield _table(title, plans, by_phase("sent_bytes"), 1e-6, messages=True)


def _advice(plans: Sequence[Plan], memory_gb: float | None, widest: Plan | None) -> Iterator[str]:
    """Say which splits to use, what limits them, and which network would fit the memory."""
    best = plans[0]
    if len(plans) > _SHOWN:
        yield f"{len(plans) - _SHOWN} slower splits are not shown; --json has all"
    yield f"recommended: --partition.splits {'-'.join(map(str, best.splits))} ({best.seconds:.3g} s an iteration)"
    yield f"what limits: {best.limits()}"
    if memory_gb is None:
        return
    if widest is None:
        yield f"no network of this kind fits {memory_gb:g} GB a rank: fewer samples of curvature, or more ranks"
    else:
        yield (
            f"largest network of this kind that fits {memory_gb:g} GB a rank: {widest.problem.shape} "
            f"({widest.problem.shape.n_params:,} variables, {widest.seconds:.3g} s an iteration)"
        )
    if best.memory_bytes > memory_gb * 1e9:
        yield f"this network does not fit {memory_gb:g} GB a rank"


def _table(
    title: str,
    plans: Sequence[Plan],
    values: Callable[[Plan], dict[str, float]],
    factor: float,
    *,
    messages: bool = False,
) -> Table:
    """Make a row for each of the fastest plans: values in the unit of the table, their sum, and messages."""
    from rich import box
    from rich.table import Table

    table = Table("splits", title=title, title_justify="left", box=box.SIMPLE_HEAD, title_style="bold")
    table.columns[0].no_wrap = True
    for name in [*values(plans[0]), "sum", *(["messages"] if messages else [])]:
        table.add_column(name, justify="right")
    for plan in plans[:_SHOWN]:
        numbers = list(values(plan).values())
        cells = [label(factor * number) for number in (*numbers, sum(numbers))]
        table.add_row(plan.title, *cells, *([f"{plan.n_messages:,}"] if messages else []))
    return table
