"""The layout of a rank's blocks of variables in its flat vector."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from distnewton.backend import Array, namespace
from distnewton.parallel.partition import Block, Partition


class BlockView(NamedTuple):
    """A block's part of a flat vector.

    Attributes
    ----------
    W : Array of shape (n_in_local, n_out_local)
    b : Array of shape (n_out_local,), or None where another rank owns the bias
    """

    W: Array
    b: Array | None


class ParameterLayout:
    """The flat vector of a rank's variables: block by block, the rows of W followed by b if the rank owns it.

    Parameters
    ----------
    blocks : mapping of int to Block
        This rank's blocks by layer, ascending.

    Attributes
    ----------
    n_params : int
        Length of the flat vector; directions, gradients and CG work on it as a whole.
    parts : list of LogicalBlock
        Logical blocks that consist of these variables.
    """

    def __init__(self, blocks: Mapping[int, Block]) -> None:
        self.blocks = dict(blocks)
        self.parts: list[LogicalBlock] = []
        self.slices: dict[int, slice] = {}
        start = 0
        for layer, block in self.blocks.items():
            self.slices[layer] = slice(start, start + block.n_params)
            start += block.n_params
        self.n_params = start
        # views are made several times per CG step, so their shapes are precomputed
        self._shapes = [
            (m, self.slices[m], (block.shape[0] + block.owns_bias, block.shape[1]), block.shape[0], block.owns_bias)
            for m, block in self.blocks.items()
        ]

    def views(self, flat: Array) -> dict[int, BlockView]:
        """View a flat vector by layer.

        Parameters
        ----------
        flat : Array of shape (n_params,)
            A vector of this rank's variables.

        Returns
        -------
        dict of int to BlockView
            Writing to a view writes to ``flat``.

        Raises
        ------
        ValueError
            If ``flat`` has another shape.
        """
        if flat.shape != (self.n_params,):
            raise ValueError(f"expected a vector of this rank's {self.n_params} variables, got shape {flat.shape}")
        views = {}
        for layer, part, shape, n_in, owns_bias in self._shapes:
            rows = flat[part].reshape(shape)
            views[layer] = BlockView(rows[:n_in], rows[n_in]) if owns_bias else BlockView(rows, None)
        return views

    def matrices(self, flat: Array) -> dict[int, Array]:
        """View a flat vector like :meth:`views`, with b, if owned, as last row of W: (n_in_local + owns_bias, ...)."""
        return {layer: flat[part].reshape(shape) for layer, part, shape, _, _ in self._shapes}


class LogicalBlock:
    """A logical block among the variables of the rank that owns it.

    Parameters
    ----------
    number : int
        Number of the block, the same on every grid.
    blocks : list of Block
        The block's part of each layer.
    whole : ParameterLayout
        Layout of the rank's variables.

    Attributes
    ----------
    number : int
        Number of the block.
    layout : ParameterLayout
        Layout of the block's variables; that of the rank if the rank owns nothing else.
    """

    def __init__(self, number: int, blocks: list[Block], whole: ParameterLayout) -> None:
        self.number, self._whole = number, whole
        own = {block.layer: block for block in blocks}
        self.layout = whole if own == whole.blocks else ParameterLayout(own)

    @property
    def is_whole(self) -> bool:
        """Whether the rank owns no other block."""
        return self.layout is self._whole

    def units(self, m: int) -> tuple[slice, slice]:
        """Return the input and output units of its part of a layer, counted within the rank's block."""
        own, of_rank = self.layout.blocks[m], self._whole.blocks[m]
        first_in, first_out = of_rank.inputs[0], of_rank.outputs[0]
        return (
            slice(own.inputs[0] - first_in, own.inputs[1] - first_in),
            slice(own.outputs[0] - first_out, own.outputs[1] - first_out),
        )

    def part(self, m: int, array: Array) -> Array:
        """View its part of the rank's weights or biases of a layer.

        Parameters
        ----------
        m : int
            A layer of the block.
        array : Array of shape (n_in_local, n_out_local), or (n_out_local,)
            Array of the rank.

        Returns
        -------
        Array of shape (rows_per_unit, n_input_units, n_output_units), or (n_output_units,)
        """
        inputs, outputs = self.units(m)
        if array.ndim == 1:
            return array[outputs]
        r = self._whole.blocks[m].rows_per_unit
        return array.reshape(r, array.shape[0] // r, array.shape[1])[:, inputs, outputs]

    def gather(self, flat: Array) -> Array:
        """Extract its variables from a vector of the rank's; the vector itself if the rank owns nothing else."""
        if self.is_whole:
            return flat
        part: Array = namespace(flat).empty(self.layout.n_params, flat.dtype)
        for own, of_rank in self._pairs(part, flat):
            own[...] = of_rank
        return part

    def like_whole(self, part: Array) -> Array:
        """Return zeros for all of the rank's variables, with the dtype of a vector of the block."""
        zeros: Array = namespace(part).zeros(self._whole.n_params, part.dtype)
        return zeros

    def scatter(self, part: Array, out: Array) -> None:
        """Write its variables into a vector of the rank's."""
        if self.is_whole:
            out[...] = part
            return
        for own, of_rank in self._pairs(part, out):
            of_rank[...] = own

    def _pairs(self, part: Array, flat: Array) -> Iterator[tuple[Array, Array]]:
        """Views of the same variables in both vectors."""
        views = self._whole.views(flat)
        for m, own in self.layout.views(part).items():
            of_rank = self.part(m, views[m].W)
            yield own.W.reshape(of_rank.shape), of_rank
            bias = views[m].b
            if own.b is not None and bias is not None:
                yield own.b, self.part(m, bias)


def layout_of(partition: Partition, rank: int) -> ParameterLayout:
    """Layout of a rank's variables with its logical blocks, or one without variables, so that all ranks act alike."""
    layout = ParameterLayout({block.layer: block for block in partition.blocks(rank)})
    numbers = partition.numbers(rank)
    layout.parts = [LogicalBlock(n, partition.logical.blocks(n), layout) for n in numbers]
    layout.parts = layout.parts or [LogicalBlock(-1, [], layout)]
    return layout
