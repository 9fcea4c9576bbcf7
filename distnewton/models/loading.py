"""Loading models from files and given weights, shared by ranks or whole in one process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from distnewton.backend import Array, Backend
from distnewton.data.scaled import gather_scaling
from distnewton.data.scaling import ColumnScaling
from distnewton.files import possible_path
from distnewton.launch.devices import choose_device
from distnewton.launch.startup import ensure_guarded
from distnewton.models.architecture import Architecture
from distnewton.models.model import Model
from distnewton.models.model_file import fill_block, find_model, read_blocks, read_header
from distnewton.network.network import PartitionedNetwork
from distnewton.parallel.collectives import Communicator
from distnewton.parallel.cuts import FileOwners, files_of_ranks
from distnewton.parallel.grid import ProcessGrid
from distnewton.planning.splits import auto_splits


def load_model(
    path: str | Path, comm: Communicator | None = None, device: str = "cpu", files: Sequence[int] = ()
) -> Model:
    """Load a model file, or that of a run folder, onto any number of ranks.

    Parameters
    ----------
    path : path
        Run folder or file.
    comm : Communicator or None
        The ranks; None means this process alone.
    device : str
        Device that computes: ``cpu``, ``gpu``, or ``auto``, which is a GPU if every rank has one.
    files : sequence of int
        Number of ranks for each of the model's files by columns; as equal as possible by default.

    Returns
    -------
    Model

    Raises
    ------
    ConfigError
        If a GPU is requested and a rank has none.
    MissingInputError
        If there is no such file.
    DataError
        If it is not a model of this package, or a newer version wrote it.

    Notes
    -----
    Collective. Each rank reads only the slices of its own blocks.
    """
    comm = comm or Communicator()
    ensure_guarded(comm)
    file = find_model(possible_path(path))
    with comm.collective_errors():
        header = read_header(file)
        architecture, scaling = header.architecture, header.column_scaling
    # before the grid: its groups of ranks inherit how these ranks sum
    chosen = choose_device(comm, device, architecture.dtype)
    network = _network(architecture, comm, chosen.backend, files)
    params = np.zeros(network.layout.n_params, architecture.dtype)
    with comm.collective_errors():
        read_blocks(file, header, network, params)
    own = scaling.columns(*network.grid.feature_range())
    return Model(architecture, network, network.backend.asarray(params), own, chosen.notes)


def model_of_weights(
    architecture: Architecture,
    weights: Mapping[str, Array],
    scaling: ColumnScaling,
    comm: Communicator | None = None,
) -> Model:
    """Distribute a model from weights that every rank holds whole.

    Parameters
    ----------
    architecture : Architecture
        Definition of the model.
    weights : mapping of str to Array
        Weights with the names and shapes of the equivalent torch.nn.Sequential.
    scaling : ColumnScaling
        Scaling of all features.
    comm : Communicator or None
        The ranks that share the model; None means this process alone.

    Returns
    -------
    Model

    Notes
    -----
    Collective over ``comm``.
    """
    shape, network = architecture.shape, _network(architecture, comm or Communicator(), Backend.of(architecture.dtype))
    params = network.backend.zeros(network.layout.n_params)
    for m, view in network.layout.views(params).items():
        number = shape.modules[m - 1]
        weight, bias = weights[f"{number}.weight"], weights[f"{number}.bias"]
        fill_block(shape.layers[m - 1], network.layout.blocks[m], view, weight, bias)
    return Model(architecture, network, params, scaling.columns(*network.grid.feature_range()))


def _network(
    architecture: Architecture, comm: Communicator, backend: Backend, counts: Sequence[int] = ()
) -> PartitionedNetwork:
    """Make the network on a new grid of all ranks (collective)."""
    shape, files = architecture.shape, () if architecture.names is None else architecture.names.inputs_of_files
    owners = FileOwners(files, files_of_ranks(len(files), comm.size, (), counts)) if files else None
    grid = ProcessGrid(comm, shape.partition(auto_splits(shape, comm.size, owners=owners), owners=owners))
    return PartitionedNetwork(grid, architecture.activation, backend, shape)


def whole_model(model: Model) -> Model:
    """Copy a model whole to each rank, which can then predict without the others.

    Parameters
    ----------
    model : Model
        Model on any grid.

    Returns
    -------
    Model

    Notes
    -----
    Collective over the model's grid: rank 0 sends the weights to all ranks, and each must hold them all.
    """
    comm, weights = model.grid.comm, model.weights()
    names = comm.broadcast_json(None if weights is None else list(weights))
    whole = {name: comm.broadcast_array(None if weights is None else weights[name]) for name in names}
    return model_of_weights(model.architecture, whole, gather_scaling(model.grid, model.scaling))


def load_serial_model(model: Model | str | Path) -> Model:
    """Make a model that each rank holds whole, from a model in memory or a file.

    Parameters
    ----------
    model : Model or path
        A model, a model file, or a run folder.

    Returns
    -------
    Model
        The given one if it is already on one rank.

    Notes
    -----
    Collective over the grid of a model in memory; each process reads a file independently.
    """
    if not isinstance(model, Model):
        return load_model(model)
    return whole_model(model) if model.grid.size > 1 else model
