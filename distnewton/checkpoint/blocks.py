"""Conversion between a rank's arrays and the tensors of a part, stored by global units and read by their new owners."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from distnewton.backend import Array
from distnewton.checkpoint.state import BlockKey, State
from distnewton.network.layout import ParameterLayout
from distnewton.parallel.partition import Block

BlockRow = Sequence[int]
"""A row of the block table: layer, half-open range of input units, half-open range of output units."""
GetSlice = Callable[[str], Any]
"""Maps the name of a tensor to safetensors' object for its shape and slices."""


def block_table(layout: ParameterLayout) -> list[list[int]]:
    """List own blocks with variables, as rows of the block table."""
    blocks = layout.blocks.values()
    return [[block.layer, *block.inputs, *block.outputs] for block in blocks if block.n_params]


def tensors_of(state: State, layout: ParameterLayout) -> dict[str, Array]:
    """Make the tensors of this rank's part.

    Parameters
    ----------
    state : State
        This rank's state.
    layout : ParameterLayout
        This rank's blocks.

    Returns
    -------
    dict of str to Array
        ``NAME/LAYER/W`` of shape (rows_per_unit, n_input_units, n_output_units), ``NAME/LAYER/b``; factors are
        ``NAME/BLOCK/LAYER``, or ``NAME/BLOCK/LAYER.T`` in column-major order.
    """
    tensors: dict[str, Array] = {}
    for prefix, part in state.walk():
        for name, flat in part.vectors.items():
            tensors.update(_vector_tensors(f"{prefix}{name}", flat, layout))
        for name, by_block in part.factors.items():
            for (number, m), array in by_block.items():
                # memory order determines how products round, and a resumed run repeats them bit for bit
                columns = array.flags.f_contiguous and not array.flags.c_contiguous
                key = f"{prefix}{name}/{number}/{m}" + ".T" * columns
                tensors[key] = np.ascontiguousarray(array.T if columns else array)
    return tensors


def _vector_tensors(name: str, flat: Array, layout: ParameterLayout) -> Iterator[tuple[str, Array]]:
    """Yield names and values of weights and bias of each own block of a vector."""
    for m, view in layout.views(flat).items():
        if view.W.size:
            yield f"{name}/{m}/W", np.ascontiguousarray(by_unit(view.W, layout.blocks[m]))
        if view.b is not None and view.b.size:
            yield f"{name}/{m}/b", np.ascontiguousarray(view.b)


def by_unit(W: Array, block: Block) -> Array:
    """View a block by kernel position, input unit and output unit."""
    return W.reshape(block.rows_per_unit, block.inputs[1] - block.inputs[0], W.shape[1])


class VectorReader:
    """Reader of this rank's blocks of vectors from the parts that overlap them.

    Parameters
    ----------
    layout : ParameterLayout
        Own blocks.
    dtype : numpy.dtype
        Type of the vectors.
    tables : sequence of sequence of BlockRow
        Block table of each part.
    """

    def __init__(self, layout: ParameterLayout, dtype: np.dtype[Any], tables: Sequence[Sequence[BlockRow]]) -> None:
        self._layout, self._dtype = layout, dtype
        self._sources: dict[int, list[tuple[int, BlockRow]]] = {}
        for i_part, table in enumerate(tables):
            for row in table:
                self._sources.setdefault(row[0], []).append((i_part, row))

    def read(self, name: str, get_slice: Callable[[int], GetSlice]) -> Array:
        """Read this rank's part of a vector.

        Parameters
        ----------
        name : str
            Name with its prefix.
        get_slice : callable
            Maps the number of a part to its tensors; called only for parts that overlap.

        Returns
        -------
        Array of shape (n_params_local,)

        Raises
        ------
        ValueError
            If the parts lack some of it.
        """
        flat = np.zeros(self._layout.n_params, self._dtype)
        for m, view in self._layout.views(flat).items():
            block = self._layout.blocks[m]
            if not block.n_params:
                continue
            W = by_unit(view.W, block)
            n_weights, biases = 0, set()
            for i_part, row in self._sources.get(m, []):
                outputs = overlap(block.outputs, row[3:])
                if outputs is None:
                    continue
                n_weights += _copy_weights(W, block, outputs, row, get_slice(i_part), f"{name}/{m}/W")
                # the first input group owns the bias; if it has no unit, the next one starts at 0 too
                if view.b is not None and row[1] == 0 and outputs not in biases:
                    biases.add(outputs)
                    _copy_bias(view.b, block, outputs, row, get_slice(i_part), f"{name}/{m}/b")
            n_biases = sum(end - first for first, end in biases)
            if n_weights != W.shape[1] * W.shape[2] or (view.b is not None and n_biases != len(view.b)):
                raise ValueError(f"the parts do not hold all of {name} in layer {m}")
        return flat


def _copy_weights(
    W: Array, block: Block, outputs: tuple[int, int], row: BlockRow, get_slice: GetSlice, name: str
) -> int:
    """Copy the overlap of a stored block and an own one; returns the number of pairs of units copied."""
    _, first_in, end_in, first_out, end_out = row
    inputs = overlap(block.inputs, (first_in, end_in))
    if inputs is None:
        return 0
    stored = get_slice(name)
    _check_shape(stored, [block.rows_per_unit, end_in - first_in, end_out - first_out])
    own = slice(None), shifted(inputs, block.inputs[0]), shifted(outputs, block.outputs[0])
    W[own] = stored[:, shifted(inputs, first_in), shifted(outputs, first_out)]
    return (inputs[1] - inputs[0]) * (outputs[1] - outputs[0])


def _copy_bias(b: Array, block: Block, outputs: tuple[int, int], row: BlockRow, get_slice: GetSlice, name: str) -> None:
    """Copy the overlap of a stored bias and an own one."""
    _, _, _, first_out, end_out = row
    stored = get_slice(name)
    _check_shape(stored, [end_out - first_out])
    b[shifted(outputs, block.outputs[0])] = stored[shifted(outputs, first_out)]


def read_factors(
    name: str, numbers: Collection[int], names: Mapping[str, str], get_tensor: Callable[[str], Array]
) -> dict[BlockKey, Array]:
    """Read factors of some logical blocks from a part.

    Parameters
    ----------
    name : str
        Name with its prefix.
    numbers : collection of int
        Numbers of the blocks.
    names : mapping of str to str
        Names of the tensors without the suffix for their order, to their names in the part.
    get_tensor : callable
        Maps a name to the whole tensor of the part: slices of empty tensors are errors.

    Returns
    -------
    dict of (int, int) to Array
        Factors by block and layer.
    """
    tensors: dict[BlockKey, Array] = {}
    for short, full in names.items():
        prefix, *key = short.rsplit("/", 2)
        if prefix == name and len(key) == 2 and all(number.isdigit() for number in key) and int(key[0]) in numbers:
            array = get_tensor(full)
            tensors[int(key[0]), int(key[1])] = array.T if full.endswith(".T") else array
    return dict(sorted(tensors.items()))


def overlap(a: Sequence[int], b: Sequence[int]) -> tuple[int, int] | None:
    """Return the intersection of two half-open ranges, or None."""
    first, end = max(a[0], b[0]), min(a[1], b[1])
    return (first, end) if first < end else None


def shifted(interval: tuple[int, int], by: int) -> slice:
    """Shift a range to count from another origin."""
    return slice(interval[0] - by, interval[1] - by)


def _check_shape(stored: Any, shape: list[int]) -> None:
    if stored.get_shape() != shape:
        raise ValueError(f"a tensor has shape {stored.get_shape()}, not {shape} as the block table says")
