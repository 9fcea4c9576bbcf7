"""Between a rank's arrays and the tensors of a part: stored by global units, read by whoever owns them now."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from distnewton.backend import Array
from distnewton.checkpoint.state import State
from distnewton.network.layout import ParameterLayout
from distnewton.parallel.partition import Block

BlockRow = Sequence[int]
"""A row of the block table: layer, first and past the last input unit, first and past the last output unit."""
GetSlice = Callable[[str], Any]
"""Name of a tensor to what gives its shape and its slices, as safetensors has it."""


def block_table(layout: ParameterLayout) -> list[list[int]]:
    """Own blocks with variables, as rows of the block table."""
    blocks = layout.blocks.values()
    return [[block.layer, *block.inputs, *block.outputs] for block in blocks if block.n_params]


def tensors_of(state: State, layout: ParameterLayout) -> dict[str, Array]:
    """Tensors of this rank's part.

    Parameters
    ----------
    state : State
        This rank's.
    layout : ParameterLayout
        Its blocks.

    Returns
    -------
    dict of str to Array
        ``NAME/LAYER/W`` of shape (rows_per_unit, n_input_units, n_output_units), ``NAME/LAYER/b``; of factors
        ``NAME/LAYER``, or ``NAME/LAYER.T`` for one whose columns lie together.
    """
    made: dict[str, Array] = {}
    for prefix, part in state.walk():
        for name, flat in part.vectors.items():
            for m, view in layout.views(flat).items():
                if view.W.size:
                    made[f"{prefix}{name}/{m}/W"] = np.ascontiguousarray(_by_unit(view.W, layout.blocks[m]))
                if view.b is not None and view.b.size:
                    made[f"{prefix}{name}/{m}/b"] = np.ascontiguousarray(view.b)
        for name, by_layer in part.factors.items():
            for m, array in by_layer.items():
                # the order in memory decides how products round, and a run is to go on bit for bit
                columns = array.flags.f_contiguous and not array.flags.c_contiguous
                made[f"{prefix}{name}/{m}" + ".T" * columns] = np.ascontiguousarray(array.T if columns else array)
    return made


def _by_unit(W: Array, block: Block) -> Array:
    """View of a block by position of the kernel, input unit and output unit."""
    return W.reshape(block.rows_per_unit, block.inputs[1] - block.inputs[0], W.shape[1])


class VectorReader:
    """Collects this rank's blocks of vectors from the parts that overlap them.

    Parameters
    ----------
    layout : ParameterLayout
        Own blocks.
    dtype : numpy.dtype
        Of the vectors.
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
        """This rank's part of a vector.

        Parameters
        ----------
        name : str
            With its prefix.
        get_slice : callable
            Number of a part to its tensors; asked only for parts that overlap.

        Returns
        -------
        Array of shape (n_params_local,)

        Raises
        ------
        ValueError
            If the parts do not hold all of it.
        """
        flat = np.zeros(self._layout.n_params, self._dtype)
        for m, view in self._layout.views(flat).items():
            block = self._layout.blocks[m]
            if not block.n_params:
                continue
            W, n_found, n_biases = _by_unit(view.W, block), 0, 0
            for i_part, (_, first_in, end_in, first_out, end_out) in self._sources.get(m, []):
                inputs = _overlap(block.inputs, (first_in, end_in))
                outputs = _overlap(block.outputs, (first_out, end_out))
                if outputs is None:
                    continue
                if inputs is not None:
                    stored = get_slice(i_part)(f"{name}/{m}/W")
                    _check_shape(stored, [block.rows_per_unit, end_in - first_in, end_out - first_out])
                    into, out_of = _shifted(inputs, block.inputs[0]), _shifted(inputs, first_in)
                    own, theirs = _shifted(outputs, block.outputs[0]), _shifted(outputs, first_out)
                    W[:, into, own] = stored[:, out_of, theirs]
                    n_found += (inputs[1] - inputs[0]) * (outputs[1] - outputs[0])
                # the first input group owns the bias
                if view.b is not None and first_in == 0:
                    stored = get_slice(i_part)(f"{name}/{m}/b")
                    _check_shape(stored, [end_out - first_out])
                    view.b[_shifted(outputs, block.outputs[0])] = stored[_shifted(outputs, first_out)]
                    n_biases += outputs[1] - outputs[0]
            if n_found != W.shape[1] * W.shape[2] or (view.b is not None and n_biases != len(view.b)):
                raise ValueError(f"the parts do not hold all of {name} in layer {m}")
        return flat


def read_factors(name: str, names: Mapping[str, str], get_tensor: Callable[[str], Array]) -> dict[int, Array]:
    """Factors of this rank's own part, by layer.

    Parameters
    ----------
    name : str
        With its prefix.
    names : mapping of str to str
        Names of the tensors without the mark of their order, to their names in the part.
    get_tensor : callable
        Name of a tensor of the part to it, whole: slices of tensors without elements are errors.

    Returns
    -------
    dict of int to Array
    """
    found = {}
    for short, full in names.items():
        prefix, _, layer = short.rpartition("/")
        if prefix == name and layer.isdigit():
            array = get_tensor(full)
            found[int(layer)] = array.T if full.endswith(".T") else array
    return dict(sorted(found.items()))


def _overlap(a: Sequence[int], b: Sequence[int]) -> tuple[int, int] | None:
    first, end = max(a[0], b[0]), min(a[1], b[1])
    return (first, end) if first < end else None


def _shifted(interval: tuple[int, int], by: int) -> slice:
    return slice(interval[0] - by, interval[1] - by)


def _check_shape(stored: Any, shape: list[int]) -> None:
    if stored.get_shape() != shape:
        raise ValueError(f"a tensor has shape {stored.get_shape()}, not {shape} as the block table says")


def walk_tree(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A tree of a manifest and those inside, with the prefix of their names."""
    yield prefix, tree
    for name, part in tree.parts.items():
        yield from walk_tree(part, f"{prefix}{name}/")
