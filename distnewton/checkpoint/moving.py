"""Moving a state to another partition of the same ranks, by messages; a checkpoint does this through files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import numpy as np

from distnewton.backend import Array
from distnewton.checkpoint.blocks import by_unit, overlap, read_factors, shifted
from distnewton.checkpoint.state import BlockKey, State
from distnewton.network.layout import ParameterLayout, layout_of
from distnewton.parallel.collectives import Communicator
from distnewton.parallel.partition import Block, Partition

Arrays = Mapping[str, Array]


def move_state(state: State, before: Partition, after: Partition, comm: Communicator) -> State:
    """Move a state to another partition.

    Parameters
    ----------
    state : State
        This rank's state on the old partition, on the host; names are the same on all ranks.
    before, after : Partition
        Old and new partition.
    comm : Communicator
        The ranks of the grid.

    Returns
    -------
    State
        This rank's new state; without factors if the logical blocks differ, as with checkpoints.

    Notes
    -----
    Collective: one exchange of the pieces that change owner.
    """
    same_blocks = before.cut_of_blocks == after.cut_of_blocks
    own = layout_of(before, comm.rank)
    parts: list[dict[str, Array]] = [{} for _ in range(comm.size)]
    for prefix, part in state.walk():
        for name, vector in part.vectors.items():
            for rank, piece, array in _pieces(vector, own, after, comm.size):
                parts[rank][f"{prefix}{name}/{piece}"] = array
        for name, by_block in part.factors.items() if same_blocks else ():
            for (number, m), array in by_block.items():
                parts[after.holder(number)][f"{prefix}{name}/{number}/{m}"] = array
    received = comm.exchange(parts)
    sources = [{block.layer: block for block in before.blocks(rank)} for rank in range(comm.size)]
    return _build(state, "", layout_of(after, comm.rank), list(zip(sources, received, strict=True)), same_blocks)


def _common(source: Block, target: Block | None) -> Iterator[tuple[str, tuple[int, int], tuple[int, int]]]:
    """Yield what two blocks of a layer share: ``W`` with inputs and outputs, ``b`` with no inputs and its outputs."""
    outputs = None if target is None else overlap(source.outputs, target.outputs)
    if target is None or outputs is None:
        return
    if (inputs := overlap(source.inputs, target.inputs)) is not None:
        yield "W", inputs, outputs
    if source.owns_bias and target.owns_bias:
        yield "b", (0, 0), outputs


def _view(layout: ParameterLayout, vector: Array, m: int, piece: str, ranges: Sequence[tuple[int, int]]) -> Array:
    """View a piece of a vector in the block of a layer."""
    block, views = layout.blocks[m], layout.views(vector)[m]
    inputs, outputs = ranges
    columns = shifted(outputs, block.outputs[0])
    if piece == "W":
        return by_unit(views.W, block)[:, shifted(inputs, block.inputs[0]), columns]
    assert views.b is not None  # noqa: S101 - both blocks own it
    return views.b[columns]


def _pieces(
    vector: Array, own: ParameterLayout, after: Partition, n_ranks: int
) -> Iterator[tuple[int, str, Array]]:
    """Yield the ranks that will own parts of this rank's blocks, with names and values of the parts."""
    for m, block in own.blocks.items():
        for rank in range(n_ranks):
            for piece, *ranges in _common(block, after.block(m, rank)):
                yield rank, f"{m}/{piece}", np.ascontiguousarray(_view(own, vector, m, piece, ranges))


def _build(
    state: State, prefix: str, layout: ParameterLayout, sources: Sequence[tuple[dict[int, Block], Arrays]],
    same_blocks: bool,
) -> State:  # fmt: skip
    """Build a state and its parts from the messages of the ranks, given the blocks that each owned."""
    vectors = {}
    for name, old in state.vectors.items():
        vector = vectors[name] = np.zeros(layout.n_params, old.dtype)
        for blocks, arrays in sources:
            for m in layout.blocks.keys() & blocks.keys():
                for piece, *ranges in _common(blocks[m], layout.blocks[m]):
                    _view(layout, vector, m, piece, ranges)[...] = arrays[f"{prefix}{name}/{m}/{piece}"]
    numbers = [part.number for part in layout.parts]
    factors: dict[str, dict[BlockKey, Array]] = {name: {} for name in state.factors}
    for name, (_, arrays) in product(factors, sources):
        names = {key: key for key in arrays}
        factors[name] |= read_factors(f"{prefix}{name}", numbers, names, arrays.__getitem__)
    inside = {
        name: _build(part, f"{prefix}{name}/", layout, sources, same_blocks) for name, part in state.parts.items()
    }
    return State(state.numbers, vectors, factors, inside, same_blocks=same_blocks)
