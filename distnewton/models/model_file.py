"""The model file: weights under the keys of the equal torch.nn.Sequential, everything else as JSON in its metadata."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from distnewton.backend import Array
from distnewton.data.columns import ColumnNames
from distnewton.errors import DataError, MissingInputError, WriteError
from distnewton.network.activations import ACTIVATIONS
from distnewton.network.layer_tables import convolutional_shape
from distnewton.network.layout import BlockView
from distnewton.network.network import PartitionedNetwork
from distnewton.network.shapes import LayerShape, NetworkShape, dense_shape
from distnewton.outputs import whole
from distnewton.parallel.partition import Block

FORMAT_VERSION = 3
"""1: fully connected networks, by their widths. 2: networks on images, by layer tables. 3: of scaled targets. Each is
written as the first that holds it, so that older versions read what they can."""
MODEL_FILE = "model.safetensors"
_KEY = "distnewton"
_TENSOR_SUMS = "tensors_crc32"
_HEADER_SUM = ', "header_crc32": '
"""What ends the header: the checksum of the text before it. It has no entry of its own in the file's metadata, since
safetensors writes entries in random order, and two files of one model are to be equal. Older files have neither this
nor the tensors' checksums; where only one is missing, the file is damaged."""
_PIECE = 1 << 22
"""Numbers of a tensor that are checked at a time."""
_HEADER_KEYS = {"activation", "task", "classes", "scaling", "dense", "dtype"}


def write_model(path: Path, tensors: dict[str, Array], header: dict[str, Any]) -> None:
    """Write a model file, whole or not at all.

    Parameters
    ----------
    path : Path
        The file.
    tensors : dict of str to Array
        Weights.
    header : dict
        What else a model is.

    Raises
    ------
    CreateError, WriteError
        If there is no folder for it, or it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save, save_file

    sums = {name: zlib.crc32(tensor.data) for name, tensor in tensors.items()}
    text = json.dumps(header | {_TENSOR_SUMS: sums}).removesuffix("}")
    metadata = {_KEY: f"{text}{_HEADER_SUM}{zlib.crc32(text.encode())}}}"}
    try:
        with whole(path) as part:
            if part.is_file():
                save_file(tensors, part, metadata)
            else:
                # a device, in whose place safetensors would put a file
                part.write_bytes(save(tensors, metadata))
    except SafetensorError as error:
        raise WriteError(f"cannot write {path}: {error}") from None


def read_header(file: Path) -> dict[str, Any]:
    """Architecture and scaling from a model file's metadata.

    Parameters
    ----------
    file : Path
        A model file.

    Returns
    -------
    dict

    Raises
    ------
    MissingInputError
        If there is no such file.
    DataError
        If it is not a model of this package, from a newer version, or changed since it was written.
    """
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise MissingInputError(
            f"there is no model file {file}; train first, or name a run folder that holds {MODEL_FILE}"
        )
    try:
        with safe_open(file, framework="numpy") as tensors:
            metadata = tensors.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise DataError(f"{file} is not a readable safetensors file{_look(file)}: {error}") from None
    text = metadata.get(_KEY)
    if text is None:
        raise DataError(f"{file} is a safetensors file, but not a model that distnewton wrote")
    try:
        header: dict[str, Any] = json.loads(text)
        version = int(header["format_version"])
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{file} has a damaged header: it names no format version") from None
    if version > FORMAT_VERSION:
        raise DataError(f"{file} has format {version}, this version reads up to {FORMAT_VERSION}: update distnewton")
    keys = _HEADER_KEYS | ({"input", "layers"} if version == 2 or "layers" in header else {"widths"})
    if missing := sorted(keys - header.keys()):
        raise DataError(f"{file} has a damaged header: {', '.join(missing)} missing")
    if header["activation"] not in ACTIVATIONS:
        raise DataError(f"{file} has an unknown activation: {header['activation']!r}")
    summed, has_sum, told = text.rpartition(_HEADER_SUM)
    if (has_sum or _TENSOR_SUMS in header) and (
        told != f"{zlib.crc32(summed.encode())}}}" or not isinstance(header.get(_TENSOR_SUMS), dict)
    ):
        raise DataError(f"{file} has a damaged header: its checksum is another; copy the file again")
    return header


def _look(file: Path) -> str:
    """What a file that is no model looks like."""
    with file.open("rb") as content:
        head = content.read(8)
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return ", but a pickle, which is never loaded since it can run any code"
    if head.startswith(b"PK\x03\x04"):
        return ", but a torch file or another zip archive, which is never loaded since it can run any code"
    return ""


def shape_header(shape: NetworkShape) -> dict[str, Any]:
    """Version and layers, as a model file's header holds them."""
    if shape.image_shape is None:
        return {"format_version": 1, "widths": shape.widths}
    return {"format_version": 2, "input": shape.image_shape, "layers": shape.listed}


def read_shape(header: dict[str, Any]) -> NetworkShape:
    """Layers of a header, as of :func:`read_header`."""
    if "widths" in header:
        return dense_shape(header["widths"])
    return convolutional_shape(header["input"], header["layers"])


def read_names(header: dict[str, Any]) -> ColumnNames | None:
    """Names of columns in a header, as of :func:`read_header`; None where there are none."""
    columns = header.get("columns")
    return (
        None
        if columns is None
        else ColumnNames.from_json((columns["features"], columns["label"], columns.get("encoding")))
    )


def assemble(network: PartitionedNetwork, m: int, blocks: list[Block | None], parts: list[Array]) -> dict[str, Array]:
    """Weight and bias of a layer from its blocks, in torch's shapes.

    Parameters
    ----------
    network : PartitionedNetwork
        Its layers.
    m : int
        Number of the layer.
    blocks : list of Block or None
        Of each rank.
    parts : list of Array
        Each block's rows of W and, where owned, of b.

    Returns
    -------
    dict of str to Array
        By the names of the equal torch.nn.Sequential.
    """
    layer, number = network.shape.layers[m - 1], network.shape.modules[m - 1]
    W, b = join_blocks(network, m, blocks, parts)
    weight = np.ascontiguousarray(W.T).reshape(weight_shape(layer))
    return {f"{number}.weight": weight, f"{number}.bias": b}


def join_blocks(
    network: PartitionedNetwork, m: int, blocks: list[Block | None], parts: list[Array]
) -> tuple[Array, Array]:
    """W of shape (n_rows, n_out) and b of a whole layer; parameters as of :func:`assemble`."""
    layer, dtype = network.shape.layers[m - 1], network.backend.dtype
    W, b = np.empty((layer.n_in * layer.rows_per_unit, layer.n_out), dtype), np.empty(layer.n_out, dtype)
    for block, part in zip(blocks, parts, strict=True):
        if block is not None:
            W[block.rows, slice(*block.outputs)] = part[: block.shape[0]]
            if block.owns_bias:
                b[slice(*block.outputs)] = part[-1]
    return W, b


def weight_shape(layer: LayerShape) -> list[int]:
    """Shape of a weight as torch has it."""
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
        The part of it.
    view : BlockView
        Overwritten.
    weight, bias : Array, or slice of a safetensors file
        Of the whole layer, in torch's shapes.
    """
    if view.W.size:
        # of a flattened image the pixels of a channel lie together, too
        n_rows = layer.rows_per_unit
        first, last = block.inputs if layer.kernel else (n_rows * k for k in block.inputs)
        part = weight[slice(*block.outputs), first:last].reshape(block.shape[1], -1, n_rows)
        view.W[...] = part.transpose(2, 1, 0).reshape(block.shape)
    if view.b is not None:
        view.b[...] = bias[slice(*block.outputs)]


def read_blocks(file: Path, network: PartitionedNetwork, params: Array) -> None:
    """Fill this rank's variables from the slices of a model file.

    Parameters
    ----------
    file : Path
        A model file of this network.
    network : PartitionedNetwork
        Laid out on a grid.
    params : Array of shape (n_params_local,)
        Overwritten.

    Raises
    ------
    DataError
        If the file holds other weights than its header promises, weights that are not finite, or weights that were
        changed since they were written.

    Notes
    -----
    Each layer's checksums are compared by one rank: the ranks share the file among them.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as tensors:
            world = network.grid.world
            sums = json.loads((tensors.metadata() or {})[_KEY]).get(_TENSOR_SUMS, {})
            for m, view in network.layout.views(params).items():
                block, layer, name = network.layout.blocks[m], network.shape.layers[m - 1], network.shape.modules[m - 1]
                weight, bias = tensors.get_slice(f"{name}.weight"), tensors.get_slice(f"{name}.bias")
                if (weight.get_shape(), bias.get_shape()) != (weight_shape(layer), [layer.n_out]):
                    raise ValueError(f"layer {m} has shapes {weight.get_shape()} and {bias.get_shape()}")
                if sums and m % world.size == world.rank:
                    for key, tensor in ((f"{name}.weight", weight), (f"{name}.bias", bias)):
                        if _tensor_sum(tensor) != sums.get(key):
                            raise ValueError(f"{key} was changed or damaged; copy the file again")
                if block.n_params == 0:
                    continue
                fill_block(layer, block, view, weight, bias)
            if not np.isfinite(params).all():
                raise ValueError("some weights are not finite numbers")
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{file} does not hold the weights its header promises: {error}") from None


def _tensor_sum(tensor: Any) -> int:
    """Checksum of a slice of a safetensors file, which passes through memory some rows at a time."""
    shape, total = tensor.get_shape(), 0
    step = max(1, _PIECE // max(1, int(np.prod(shape[1:]))))
    for first in range(0, shape[0], step):
        total = zlib.crc32(np.ascontiguousarray(tensor[first : min(first + step, shape[0])]).data, total)
    return total
