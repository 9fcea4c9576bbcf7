r"""Grouped Newton ([GN3], arXiv 2312.03885): any direction, with a separate step size for each group of variables.

.. math:: d = \sum_s \eta_s d_s, \qquad \eta = \Big(\bar H + \frac{\lambda}{2} \|D \eta\| D^2\Big)^{-1} \bar g

from second and third derivatives along the groups d_s of a proposed direction. The step sizes are renewed periodically
and averaged; in between they scale every new proposal. Hbar includes the interaction of layers, which a block-diagonal
proposal neglects.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
from pydantic import Field

from distnewton.backend import Array
from distnewton.checkpoint.state import State
from distnewton.curvature.group_summaries import ParameterGroups
from distnewton.curvature.linearization import Linearization
from distnewton.directions.delegating import DelegatingDirection
from distnewton.directions.direction import LEARNING_RATE, Direction, DirectionResult
from distnewton.network.layout import ParameterLayout
from distnewton.options import Options
from distnewton.parallel.termination import EarlyTermination
from distnewton.solvers.anisotropic import step_sizes

NO_STEP_SIZES = "no step sizes for the groups"
"""Note of a direction whose cubic model has no solution."""


class GroupOptions(Options):
    """Options for the groups, and for computing and keeping their step sizes."""

    groups: Literal["tensor", "kind", "rank", "all"] = Field("tensor", description="what shares a step length")
    proposal: str = Field("sgd", description="direction whose groups are scaled")
    internal_damping: float = Field(10.0, ge=0.0, allow_inf_nan=False, description="damping of the cubic model")
    rate_period: int = Field(10, ge=1, description="steps from one set of step lengths to the next")
    rate_momentum: float = Field(0.5, ge=0.0, lt=1.0, description="share of the last step lengths that is kept")
    negative_rates: bool = Field(False, description="keep negative step lengths instead of 0")


class GroupedNewton(DelegatingDirection):
    """A proposal scaled by group; if no step sizes can be computed, the last ones stay.

    Negative step sizes enter the average unchanged, whether or not the step replaces them by 0. Momentum of plain
    gradients is part of the proposal, as in [GN3]: heavy-ball momentum after the scaling would lengthen steps whose
    length has just been computed.

    Parameters
    ----------
    options : GroupOptions
        Options of the step sizes.
    proposal : Direction
        Direction to be scaled.
    """

    name = "grouped_newton"
    help = "another direction with a step size for each group of variables, from second and third derivatives"
    family = LEARNING_RATE
    own_options = GroupOptions
    slots = ("proposal",)

    def __init__(self, options: Any, proposal: Direction) -> None:
        super().__init__(options, proposal)
        self.averages_gradient = proposal.name == "sgd"
        self._groups: ParameterGroups | None = None
        self._average: Array | None = None
        self._n_calls = 0

    @property
    def step_sizes(self) -> Array | None:
        """Current step sizes, of shape (n_groups,), replicated; None before the first ones."""
        if self._average is None or self.options.negative_rates:
            return self._average
        return np.maximum(self._average, 0.0)

    def solve(self, problem: Linearization, termination: EarlyTermination) -> DirectionResult:
        """Compute the proposal, renew the step sizes if due, and scale; takes no step before the first ones."""
        proposed = self._inner.solve(problem, termination)
        if self._inner.apart and problem.grid.n_replicas > 1:
            proposed = replace(proposed, direction=problem.grid.mean_over_replicas(proposed.direction))
            self._inner.set_mean_direction(proposed.direction)
        if self._groups is None:
            self._groups = ParameterGroups(self.options.groups, problem.grid.partition, problem.grid.rank)
        note = ""
        # until there are step sizes, each call tries to compute them
        if self._average is None or self._n_calls % self.options.rate_period == 0:
            note = self._renew(problem, self._groups, proposed.direction)
        self._n_calls += 1
        sizes = self.step_sizes
        factors = np.zeros(self._groups.n_groups) if sizes is None else sizes
        direction = self._groups.scaled(problem.layout, factors, proposed.direction)
        return replace(proposed, direction=direction, note=note, step_sizes=tuple(factors.tolist()))

    def state(self) -> State:
        """Return the averaged step sizes, and the proposal's state."""
        sizes = None if self._average is None else self._average.tolist()
        return State({"n_calls": self._n_calls, "step_sizes": sizes}, parts={"proposal": self._inner.state()})

    def restore(self, state: State, layout: ParameterLayout) -> None:
        """Restore the step sizes, unless groups are blocks and the blocks differ: then they are computed anew."""
        self._inner.restore(state.parts["proposal"], layout)
        sizes = state.numbers["step_sizes"]
        if sizes is None or (self.options.groups == "rank" and not state.same_blocks):
            return
        self._n_calls, self._average = state.numbers["n_calls"], np.array(sizes)

    def _renew(self, problem: Linearization, groups: ParameterGroups, direction: Array) -> str:
        """Move the average towards the step sizes of this sample; returns a note if there are none."""
        # the step is against u = -d; u pairs with the gradient of the sample, not with the average over batches
        summary = problem.sample.summarise(-direction, groups, problem.regularization, problem.penalised)
        eta = step_sizes(summary.hessian, summary.gradient, summary.third, self.options.internal_damping)
        message = np.zeros(1 + groups.n_groups)
        if problem.grid.world.rank == 0 and eta is not None:
            message[0], message[1:] = 1.0, eta
        # different processors round differently, even on whether a solution exists: all ranks use rank 0's result
        problem.grid.world.sum_inplace(message)
        if not message[0]:
            return NO_STEP_SIZES
        if self._average is None:
            self._average = message[1:]
        else:
            self._average *= self.options.rate_momentum
            self._average += (1.0 - self.options.rate_momentum) * message[1:]
        return ""
