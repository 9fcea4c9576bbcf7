"""Gathering the weights of a network from a grid on rank 0, and writing them to a model file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from distnewton.backend import Array, to_host
from distnewton.data.scaled import gather_scaling
from distnewton.data.scaling import ColumnScaling
from distnewton.errors import NumericalError
from distnewton.guards.watchdog import watchdog
from distnewton.models.architecture import Architecture
from distnewton.models.header import ModelHeader
from distnewton.models.model_file import assemble, write_model
from distnewton.network.network import PartitionedNetwork
from distnewton.outputs import writing
from distnewton.parallel.partition import Block


def gather_weights(network: PartitionedNetwork, params: Array) -> dict[str, Array] | None:
    """Gather all weights on rank 0, with the keys and shapes of the equivalent torch.nn.Sequential.

    Parameters
    ----------
    network : PartitionedNetwork
        Network on a grid.
    params : Array of shape (n_params_local,)
        This rank's variables.

    Returns
    -------
    dict of str to Array, or None on other ranks
        ``0.weight`` of shape (n_out, n_in) or (n_out, n_in, height, width), ``0.bias``, ``2.weight``, ...; missing
        numbers are activations, pooling and Flatten.

    Notes
    -----
    Collective: each block is sent once, to rank 0, which must hold the whole network.
    """
    grid = network.grid
    if grid.replica:
        return None  # the first replica has all of them
    tensors: dict[str, Array] = {}
    for m in range(1, grid.partition.n_layers + 1):
        blocks, parts = gather_layer(network, params, m)
        if parts is not None:
            tensors |= assemble(network, m, blocks, parts)
    return tensors if grid.rank == 0 else None


def gather_layer(
    network: PartitionedNetwork, params: Array, m: int
) -> tuple[list[Block | None], list[Array] | None]:
    """Return a layer's blocks by rank, and on rank 0 their rows of W and, if owned, of b (collective)."""
    grid, layout = network.grid, network.layout
    blocks = [grid.partition.block(m, rank) for rank in range(grid.size)]
    shapes = [(0, 0) if b is None else (b.shape[0] + b.owns_bias, b.shape[1]) for b in blocks]
    own = to_host(params[layout.slices.get(m, slice(0))]).reshape(shapes[grid.rank])
    return blocks, grid.comm.gather_array(own, shapes)


def save_model(
    path: Path, architecture: Architecture, network: PartitionedNetwork, params: Array, scaling: ColumnScaling
) -> None:
    """Write a model file from rank 0, completely or not at all.

    Parameters
    ----------
    path : Path
        The file, in a folder that exists.
    architecture, network, params, scaling : Architecture, PartitionedNetwork, Array, ColumnScaling
        Attributes of a :class:`~distnewton.models.model.Model`.

    Raises
    ------
    CreateError, WriteError
        If its folder does not exist, or it cannot be written.
    NumericalError
        If a weight or a scaling is not finite: the file would look like a valid model.

    Notes
    -----
    Collective: on return the file exists for all ranks.
    """
    world, tensors = network.grid.world, gather_weights(network, params)
    whole = gather_scaling(network.grid, scaling)
    with world.collective_errors():
        numbers = to_host(params), scaling.offset, scaling.factor
        if not all(np.isfinite(part).all() for part in numbers):
            raise NumericalError(f"the model holds numbers that are not finite, so it is not saved to {path}")
    # a fault injected in this phase is reported as an error of the file
    with watchdog.patient(), world.collective_errors(), writing(path), network.grid.ledger.phase("finalise"):
        if tensors is not None:
            write_model(path, tensors, ModelHeader.of(architecture, whole))
