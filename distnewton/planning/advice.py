"""Whether a run is worth its ranks: its plan beside those of more ranks and of fewer."""

from __future__ import annotations

from collections.abc import Callable

from distnewton.errors import ConfigError
from distnewton.planning.plan import Plan

_AS_FAST = 1.05
"""A plan is as fast as another if it takes at most so many times as long."""
_WORTH = 0.75
"""Twice the ranks help if an iteration then takes at most this share of its time: two thirds of them are of use."""


def wasted_ranks(plan: Plan, plan_on: Callable[[int], Plan]) -> str:
    """Say how many ranks do as well, where they are half as many or fewer.

    Parameters
    ----------
    plan : Plan
        The best plan of a run.
    plan_on : callable
        Number of ranks -> the best plan on them; a ConfigError where there is none.

    Returns
    -------
    str
        Empty where all ranks are of use.
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
    """Say what twice the ranks would gain; empty where that cannot be planned."""
    other = _plan_on(plan_on, 2 * plan.n_ranks)
    if other is None:
        return ""
    change = other.seconds / plan.seconds
    gain = f"take {1 - change:.0%} off an iteration" if change <= _WORTH else "help little"
    text = f"{other.n_ranks} ranks would {gain} ({other.seconds:.3g} s instead of {plan.seconds:.3g} s)"
    if plan.problem.method.direction == "block_diagonal" and not plan.problem.blocks:
        text += "; their blocks are smaller, so that an iteration gains less (partition.blocks keeps them)"
    return text


def _plan_on(plan_on: Callable[[int], Plan], n_ranks: int) -> Plan | None:
    try:
        return plan_on(n_ranks)
    except ConfigError:
        # so many ranks cannot share the logical blocks, or are too many to plan
        return None
