"""A single preconditioner for a rank's direction, composed of one for each of the rank's logical blocks."""

from __future__ import annotations

from copy import deepcopy

from distnewton.backend import Array, namespace
from distnewton.checkpoint.state import State
from distnewton.curvature.linearization import Linearization
from distnewton.directions.preconditioner import Preconditioner
from distnewton.network.layout import LogicalBlock, ParameterLayout
from distnewton.network.shapes import NetworkShape
from distnewton.parallel.partition import Block


class Blockwise:
    """The preconditioners of the logical blocks that a rank owns.

    Parameters
    ----------
    preconditioner : Preconditioner
        Unused preconditioner; each block gets a copy.
    """

    def __init__(self, preconditioner: Preconditioner) -> None:
        self._pattern = preconditioner
        self._of: dict[int, Preconditioner] = {}
        self._blocks: list[LogicalBlock] = []

    def of(self, block: LogicalBlock) -> Preconditioner:
        """Return the preconditioner of a block."""
        if block.number not in self._of:
            self._of[block.number] = deepcopy(self._pattern)
        return self._of[block.number]

    def update(self, problem: Linearization) -> None:
        """Update all blocks for a new point; collective like :meth:`Preconditioner.update`."""
        self._blocks = problem.layout.parts
        for block, model in problem.by_block:
            self.of(block).update(model)

    def apply(self, v: Array) -> Array:
        """Apply the inverses of the last update to a vector of the rank's variables; returns a new array."""
        if len(self._blocks) == 1:
            return self.of(self._blocks[0]).apply(v)
        out: Array = namespace(v).empty_like(v)
        for block in self._blocks:
            block.scatter(self.of(block).apply(block.gather(v)), out)
        return out

    @property
    def n_vectors(self) -> int:
        """Number of vectors of its variables that a rank keeps."""
        return self._pattern.n_vectors

    def factor_size(self, shape: NetworkShape, block: Block) -> float:
        """Count the numbers in its factors of a block and in their inverses."""
        return self._pattern.factor_size(shape, block)

    def state(self) -> State:
        """Return the states of all blocks as one state of the rank."""
        if not self._blocks:
            return self._pattern.state()
        return _joined([(block, self.of(block).state()) for block in self._blocks])

    def restore(self, state: State, layout: ParameterLayout) -> None:
        """Restore a state; factors that belong to other blocks are recomputed at the next update."""
        self._blocks = layout.parts
        for block in self._blocks:
            self.of(block).restore(_part(state, block), block.layout)


def _joined(states: list[tuple[LogicalBlock, State]]) -> State:
    """States of logical blocks as one of their rank."""
    first = states[0][1]
    vectors = {name: states[0][0].like_whole(vector) for name, vector in first.vectors.items()}
    for block, state in states:
        for name, vector in state.vectors.items():
            block.scatter(vector, vectors[name])
    factors = {
        name: {(block.number, m): A for block, state in states for (_, m), A in state.factors[name].items()}
        for name in first.factors
    }
    parts = {name: _joined([(block, state.parts[name]) for block, state in states]) for name in first.parts}
    return State(first.numbers, vectors, factors, parts)


def _part(state: State, block: LogicalBlock) -> State:
    """A logical block's state from that of its rank."""
    return State(
        state.numbers,
        {name: block.gather(vector) for name, vector in state.vectors.items()},
        {
            name: {(0, m): A for (number, m), A in by_block.items() if number == block.number}
            for name, by_block in state.factors.items()
        },
        {name: _part(part, block) for name, part in state.parts.items()},
        same_blocks=state.same_blocks,
    )
