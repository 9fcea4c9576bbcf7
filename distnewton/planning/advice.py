"""Advice on the number of ranks: compare a run's plan with those of more ranks and of fewer."""

from __future__ import annotations

from collections.abc import Callable

from distnewton.errors import ConfigError
from distnewton.planning.plan import Plan

_AS_FAST = 1.05
"""A plan counts as equally fast if it takes at most this many times as long."""
_WORTH = 0.75
"""Twice the ranks are worthwhile if an iteration then takes at most this share of its time, an efficiency of 2/3."""


def wasted_ranks(plan: Plan, plan_on: Callable[[int], Plan]) -> str:
    """Say how many ranks would be as fast, if half as many or fewer are enough.

    Parameters
    ----------
    plan : Plan
        The best plan of a run.
    plan_on : callable
        Takes a number of ranks and returns the best plan on them, or raises a ConfigError if there is none.

    Returns
    -------
    str
        Empty if all ranks are useful.
    """
    few = None
    n = plan.n_ranks // 2
    while n >= plan.n_replicas:
        other = _plan_on(plan_on, n)
        if other is not None and other.seconds <= _AS_FAST * plan.seconds:
            few = other
        n //= 2
    if few is None:
        return ""
    return (
        f"{plan.n_ranks - few.n_ranks} of {plan.n_ranks} ranks are wasted: {few.n_ranks} take {few.seconds:.3g} s for "
        f"an iteration, {plan.n_ranks} take {plan.seconds:.3g} s"
    )


def more_ranks(plan: Plan, plan_on: Callable[[int], Plan]) -> str:
    """Say what twice the ranks would gain; empty if that cannot be planned."""
    other = _plan_on(plan_on, 2 * plan.n_ranks)
    if other is None:
        return ""
    change = other.seconds / plan.seconds
    gain = f"take {1 - change:.0%} off an iteration" if change <= _WORTH else "help little"
    text = f"{other.n_ranks} ranks would {gain} ({other.seconds:.3g} s instead of {plan.seconds:.3g} s)"
    if plan.problem.method.direction == "block_diagonal" and not plan.problem.blocks:
        text += "; their blocks are smaller, so an iteration makes less progress (partition.blocks keeps them)"
    return text


def _plan_on(plan_on: Callable[[int], Plan], n_ranks: int) -> Plan | None:
    try:
        return plan_on(n_ranks)
    except ConfigError:
        # these ranks cannot share the logical blocks, or are too many to plan
        return None
