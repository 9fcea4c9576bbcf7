r"""Grouped Newton ([GN3], arXiv 2312.03885): any direction, with a step size of its own for each group of variables.

.. math:: d = \sum_s \eta_s d_s, \qquad \eta = \Big(\bar H + \frac{\lambda}{2} \|D \eta\| D^2\Big)^{-1} \bar g

from second and third derivatives along the groups d_s of a proposed direction. Step sizes are renewed now and then and
averaged; in between they multiply every fresh proposal. Hbar knows how layers act on each other, which a
block-diagonal proposal does not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from distnewton.backend import Array
from distnewton.checkpoint.state import State
from distnewton.curvature.group_summaries import ParameterGroups
from distnewton.curvature.linearization import Linearization
from distnewton.directions.direction import Curvature, Direction, DirectionResult, SharedDirection
from distnewton.network.layout import ParameterLayout
from distnewton.parallel.termination import EarlyTermination
from distnewton.solvers.anisotropic import step_sizes

NO_STEP_SIZES = "no step sizes for the groups"
"""Note of a direction whose cubic model has no solution."""


@dataclass(frozen=True)
class GroupOptions:
    """How step sizes are found and kept.

    Attributes
    ----------
    groups : str
        What shares a step size, as of :class:`~distnewton.curvature.group_summaries.ParameterGroups`.
    internal_damping : float
        lambda of the cubic model.
    period : int
        Calls from one set of step sizes to the next.
    momentum : float
        Share of the last step sizes kept.
    negative : bool
        Whether negative step sizes are used; else 0 in their place, but the true values are averaged.
    """

    groups: str = "tensor"
    internal_damping: float = 10.0
    period: int = 10
    momentum: float = 0.5
    negative: bool = False


class GroupedNewton(SharedDirection):
    """A proposal scaled by group; where no step sizes are found, the last ones stay.

    Parameters
    ----------
    proposal : Direction
        Whose direction is scaled.
    options : GroupOptions
        Of the step sizes.
    averages_gradient : bool
        Whether the proposal is made from an average of gradients: heavy-ball momentum after the scaling would lengthen
        steps whose length has just been found.
    """

    stops_early = False

    def __init__(self, proposal: Direction, options: GroupOptions, *, averages_gradient: bool) -> None:
        self._proposal, self._options = proposal, options
        self.averages_gradient = averages_gradient
        self.curvature: Curvature = proposal.curvature
        self._groups: ParameterGroups | None = None
        self._average: Array | None = None
        self._n_calls = 0

    @property
    def step_sizes(self) -> Array | None:
        """Those in use, of shape (n_groups,), replicated; None before any have been found."""
        if self._average is None or self._options.negative:
            return self._average
        return np.maximum(self._average, 0.0)

    def solve(self, problem: Linearization, termination: EarlyTermination) -> DirectionResult:
        """Ask for the proposal, renew the step sizes where it is time, and scale; no step before any are found."""
        found = self._proposal.solve(problem, termination)
        if self._proposal.apart and problem.grid.n_replicas > 1:
            found = replace(found, direction=problem.grid.mean_over_replicas(found.direction))
            self._proposal.set_mean_direction(found.direction)
        if self._groups is None:
            self._groups = ParameterGroups(self._options.groups, problem.grid.partition, problem.grid.rank)
        note = ""
        # as long as there are no step sizes, each call looks for them
        if self._average is None or self._n_calls % self._options.period == 0:
            note = self._renew(problem, self._groups, found.direction)
        self._n_calls += 1
        sizes = self.step_sizes
        factors = np.zeros(self._groups.n_groups) if sizes is None else sizes
        direction = self._groups.scaled(problem.layout, factors, found.direction)
        return replace(found, direction=direction, note=note, step_sizes=tuple(factors.tolist()))

    def state(self) -> State:
        """The averaged step sizes, and the proposal's state."""
        sizes = None if self._average is None else self._average.tolist()
        return State({"n_calls": self._n_calls, "step_sizes": sizes}, parts={"proposal": self._proposal.state()})

    def restore(self, state: State, layout: ParameterLayout) -> None:
        """Take over the step sizes, unless a group is a rank and the ranks are others: they are then found anew."""
        self._proposal.restore(state.parts["proposal"], layout)
        sizes = state.numbers["step_sizes"]
        if sizes is None or (self._options.groups == "rank" and not state.same_blocks):
            return
        self._n_calls, self._average = state.numbers["n_calls"], np.array(sizes)

    def _renew(self, problem: Linearization, groups: ParameterGroups, direction: Array) -> str:
        """Move the average towards the step sizes of this sample; returns a note where there are none."""
        # the step is against u = -d, whose gradient of the sample, not the one averaged over batches, counts
        summary = problem.sample.summarise(-direction, groups, problem.regularization)
        eta = step_sizes(summary.hessian, summary.gradient, summary.third, self._options.internal_damping)
        message = np.zeros(1 + groups.n_groups)
        if problem.grid.world.rank == 0 and eta is not None:
            message[0], message[1:] = 1.0, eta
        # processors of different kinds round differently, even whether there is a solution: rank 0's are everyone's
        problem.grid.world.sum_inplace(message)
        if not message[0]:
            return NO_STEP_SIZES
        if self._average is None:
            self._average = message[1:]
        else:
            self._average *= self._options.momentum
            self._average += (1.0 - self._options.momentum) * message[1:]
        return ""
