"""The model file: weights with the keys of the equivalent torch.nn.Sequential, the rest as JSON in its metadata."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from distnewton.backend import Array
from distnewton.checksums import page_sums
from distnewton.errors import DataError, MissingInputError, WriteError
from distnewton.models.header import ModelHeader, parse_header
from distnewton.network.layout import BlockView
from distnewton.network.network import PartitionedNetwork
from distnewton.network.shapes import LayerShape
from distnewton.outputs import whole
from distnewton.parallel.collectives import Communicator
from distnewton.parallel.partition import Block

MODEL_FILE = "model.safetensors"
_KEY = "distnewton"
_HEADER_SUM = ', "header_crc32": '
"""End of the header, before the checksum of the preceding text. The checksum has no metadata entry of its own, since
safetensors writes entries in random order, and two files of one model must be equal. Older files have neither this
nor the tensors' checksums; if only one is missing, the file is damaged."""
_DTYPES = {"float32": "F32", "float64": "F64"}
"""safetensors' names of number types."""
_SECTION = 1 << 22
"""Bytes of a tensor that one checksum covers; ranks share the sections."""


def write_model(path: Path, tensors: dict[str, Array], header: ModelHeader) -> None:
    """Write a model file completely or not at all.

    Parameters
    ----------
    path : Path
        The file.
    tensors : dict of str to Array
        Weights by name.
    header : ModelHeader
        Header without checksums.

    Raises
    ------
    CreateError, WriteError
        If its folder does not exist, or it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save, save_file

    sums = {}
    for name, tensor in tensors.items():
        data = np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)
        sums[name] = [_section_sum(data, k) for k in range(_n_sections(len(data)))]
    text = header.model_copy(update={"tensor_sums": sums}).text().removesuffix("}")
    metadata = {_KEY: f"{text}{_HEADER_SUM}{zlib.crc32(text.encode())}}}"}
    try:
        with whole(path) as part:
            if part.is_file():
                save_file(tensors, part, metadata)
            else:
                # a device, which safetensors would replace by a file
                part.write_bytes(save(tensors, metadata))
    except SafetensorError as error:
        raise WriteError(f"cannot write {path}: {error}") from None


def read_header(file: Path) -> ModelHeader:
    """Read the header of a model file, and check it and the shapes of the weights.

    Parameters
    ----------
    file : Path
        A model file.

    Returns
    -------
    ModelHeader

    Raises
    ------
    MissingInputError
        If there is no such file.
    DataError
        If it is not a model of this package, a newer version wrote it, or it has changed since.
    """
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise MissingInputError(
            f"there is no model file {file}; train first, or name a run folder that holds {MODEL_FILE}"
        )
    try:
        with safe_open(file, framework="numpy") as tensors:
            metadata = tensors.metadata() or {}
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118  (no mapping)
            found = {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise DataError(f"{file} is not a readable safetensors file{_look(file)}: {error}") from None
    text = metadata.get(_KEY)
    if text is None:
        raise DataError(f"{file} is a safetensors file, but not a model that distnewton wrote")
    other = f"{file} has a damaged header: its checksum does not match; copy the file again"
    summed, has_sum, told = text.rpartition(_HEADER_SUM)
    if has_sum and told != f"{zlib.crc32(summed.encode())}}}":
        raise DataError(other)
    header = parse_header(text, str(file))
    if len({bool(has_sum), header.header_crc32 is not None, header.tensor_sums is not None}) > 1:
        raise DataError(other)
    _check_tensors(str(file), header, found)
    return header


def find_model(path: str | Path) -> Path:
    """Return the model file of a path: the path itself, or the file in a run folder."""
    return Path(path) / MODEL_FILE if Path(path).is_dir() else Path(path)


def _check_tensors(name: str, header: ModelHeader, found: dict[str, tuple[str, list[int]]]) -> None:
    """Refuse a file whose tensors differ from its header in type or shape."""
    shape, dtype = header.shape, _DTYPES[header.dtype]
    expected: dict[str, tuple[str, list[int]]] = {}
    for number, layer in zip(shape.modules, shape.layers, strict=True):
        expected |= {f"{number}.weight": (dtype, weight_shape(layer)), f"{number}.bias": (dtype, [layer.n_out])}
    for key in sorted(expected.keys() | found.keys()):
        if found.get(key) != expected.get(key):
            raise DataError(
                f"{name} does not match its header: {key} is {_titled(found.get(key))}, expected "
                f"{_titled(expected.get(key))}"
            )
    itemsize = np.dtype(header.dtype).itemsize
    lengths = {key: _n_sections(itemsize * math.prod(dimensions)) for key, (_, dimensions) in expected.items()}
    if header.tensor_sums is not None and {key: len(s) for key, s in header.tensor_sums.items()} != lengths:
        raise DataError(f"{name} has a damaged header: tensor_sums does not fit its weights")


def _titled(kind: tuple[str, list[int]] | None) -> str:
    return "missing" if kind is None else f"{kind[0]} {kind[1]}"


def _look(file: Path) -> str:
    """Describe a file that is no model, by its first bytes."""
    with file.open("rb") as content:
        head = content.read(8)
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return ", but a pickle, which is never loaded since it can run any code"
    if head.startswith(b"PK\x03\x04"):
        return ", but a torch file or another zip archive, which is never loaded since it can run any code"
    if head == b"solver_t":
        return ", but a model of LIBLINEAR, for LIBLINEAR's predict; distnewton-train makes one from the same data"
    return ""


def assemble(network: PartitionedNetwork, m: int, blocks: list[Block | None], parts: list[Array]) -> dict[str, Array]:
    """Join the blocks of a layer to its weight and bias, in torch's shapes.

    Parameters
    ----------
    network : PartitionedNetwork
        Network with the layer.
    m : int
        Number of the layer.
    blocks : list of Block or None
        Block of each rank.
    parts : list of Array
        Rows of W and, if owned, of b of each block.

    Returns
    -------
    dict of str to Array
        By the names of the equivalent torch.nn.Sequential.
    """
    layer, number = network.shape.layers[m - 1], network.shape.modules[m - 1]
    W, b = join_blocks(network, m, blocks, parts)
    weight = np.ascontiguousarray(W.T).reshape(weight_shape(layer))
    return {f"{number}.weight": weight, f"{number}.bias": b}


def join_blocks(
    network: PartitionedNetwork, m: int, blocks: list[Block | None], parts: list[Array]
) -> tuple[Array, Array]:
    """Return W of shape (n_rows, n_out) and b of a whole layer; for parameters see :func:`assemble`."""
    layer, dtype = network.shape.layers[m - 1], network.backend.dtype
    # a layer without biases has zeros
    W, b = np.empty((layer.n_in * layer.rows_per_unit, layer.n_out), dtype), np.zeros(layer.n_out, dtype)
    for block, part in zip(blocks, parts, strict=True):
        if block is not None:
            W[block.rows, slice(*block.outputs)] = part[: block.shape[0]]
            if block.owns_bias:
                b[slice(*block.outputs)] = part[-1]
    return W, b


def weight_shape(layer: LayerShape) -> list[int]:
    """Return torch's shape of a weight."""
    if layer.kernel is None:
        return [layer.n_out, layer.n_in * layer.rows_per_unit]
    return [layer.n_out, layer.n_in, *layer.kernel.size]


def fill_block(layer: LayerShape, block: Block, view: BlockView, weight: Any, bias: Any) -> None:
    """Copy a block out of a layer's weight and bias.

    Parameters
    ----------
    layer : LayerShape
        The layer.
    block : Block
        Block of the layer.
    view : BlockView
        Result, overwritten.
    weight, bias : Array, or slice of a safetensors file
        Values of the whole layer, in torch's shapes.
    """
    if view.W.size:
        # the pixels of a channel of a flattened image are contiguous, too
        n_rows = layer.rows_per_unit
        first, last = block.inputs if layer.kernel else (n_rows * k for k in block.inputs)
        part = weight[slice(*block.outputs), first:last].reshape(block.shape[1], -1, n_rows)
        view.W[...] = part.transpose(2, 1, 0).reshape(block.shape)
    if view.b is not None:
        view.b[...] = bias[slice(*block.outputs)]


def read_blocks(file: Path, header: ModelHeader, network: PartitionedNetwork, params: Array) -> None:
    """Fill this rank's variables from the slices of a model file.

    Parameters
    ----------
    file : Path
        A model file of this network.
    header : ModelHeader
        Header of the file.
    network : PartitionedNetwork
        Network on a grid.
    params : Array of shape (n_params_local,)
        Result, overwritten.

    Raises
    ------
    DataError
        If the weights are not finite, or have changed since they were written.

    Notes
    -----
    The ranks share the work of comparing checksums of the file's sections.
    """
    from safetensors import SafetensorError, safe_open

    try:
        _check_sums(file, header.tensor_sums or {}, network.grid.world)
        with safe_open(file, framework="numpy") as tensors:
            for m, view in network.layout.views(params).items():
                block, layer, name = network.layout.blocks[m], network.shape.layers[m - 1], network.shape.modules[m - 1]
                weight, bias = tensors.get_slice(f"{name}.weight"), tensors.get_slice(f"{name}.bias")
                if block.n_params == 0:
                    continue
                fill_block(layer, block, view, weight, bias)
            if not np.isfinite(params).all():
                raise ValueError("some weights are not finite numbers")
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{file} does not match its header: {error}") from None


def _check_sums(file: Path, sums: dict[str, list[int]], world: Communicator) -> None:
    """Check this rank's share of the sections of all tensors; raises ValueError with the name of a bad tensor."""
    mapped, n_before = np.memmap(file, np.uint8, "r"), 0
    data = 8 + int.from_bytes(mapped[:8].tobytes(), "little")
    places = json.loads(mapped[8:data].tobytes())
    for name, expected in sums.items():
        first, stop = places[name]["data_offsets"]
        found = mapped[data + first : data + stop]
        for k in range((world.rank - n_before) % world.size, _n_sections(len(found)), world.size):
            if _section_sum(found, k) != expected[k]:
                raise ValueError(f"{name} was changed or damaged; copy the file again")
        n_before += len(expected)


def _n_sections(n_bytes: int) -> int:
    return -(-n_bytes // _SECTION)


def _section_sum(data: Any, k: int) -> int:
    """Compute the checksum of a section of a tensor's bytes."""
    return zlib.crc32(page_sums(data[k * _SECTION : (k + 1) * _SECTION]).data)
