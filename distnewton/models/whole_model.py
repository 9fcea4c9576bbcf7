"""Models that one process holds whole: made of given weights, or gathered from the ranks that trained them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from distnewton.backend import Array, Backend
from distnewton.data.partitioned import gather_scaling
from distnewton.data.scaling import ColumnScaling
from distnewton.models.model import Architecture, Model, load_model
from distnewton.models.model_file import fill_block
from distnewton.network.network import PartitionedNetwork
from distnewton.parallel.collectives import Communicator
from distnewton.parallel.grid import ProcessGrid
from distnewton.planning.splits import auto_splits


def model_of_weights(
    architecture: Architecture,
    weights: Mapping[str, Array],
    scaling: ColumnScaling,
    comm: Communicator | None = None,
) -> Model:
    """Lay out a model from weights that every rank holds whole.

    Parameters
    ----------
    architecture : Architecture
        What it is.
    weights : mapping of str to Array
        Under the names, and in the shapes, of the equal torch.nn.Sequential.
    scaling : ColumnScaling
        Scaling of all features.
    comm : Communicator or None
        The ranks that share the model; None is this process alone.

    Returns
    -------
    Model

    Notes
    -----
    Collective over ``comm``.
    """
    shape, comm = architecture.shape, comm or Communicator()
    grid = ProcessGrid(comm, shape.partition(auto_splits(shape, comm.size)))
    network = PartitionedNetwork(grid, architecture.activation, Backend.of(architecture.dtype), shape)
    params = network.backend.zeros(network.layout.n_params)
    for m, view in network.layout.views(params).items():
        number = shape.modules[m - 1]
        weight, bias = weights[f"{number}.weight"], weights[f"{number}.bias"]
        fill_block(shape.layers[m - 1], network.layout.blocks[m], view, weight, bias)
    return Model(architecture, network, params, scaling.columns(*grid.feature_range()))


def whole_model(model: Model) -> Model:
    """The same model on each rank alone, which then needs no other rank to predict.

    Parameters
    ----------
    model : Model
        On any grid.

    Returns
    -------
    Model

    Notes
    -----
    Collective over the model's grid: the weights go through rank 0 to all ranks, each of which must hold them.
    """
    comm, weights = model.grid.comm, model.weights()
    names = comm.broadcast_json(None if weights is None else list(weights))
    whole = {name: comm.broadcast_array(None if weights is None else weights[name]) for name in names}
    return model_of_weights(model.architecture, whole, gather_scaling(model.grid, model.scaling))


def load_serial_model(model: Model | str | Path) -> Model:
    """A model that each rank holds alone, from one in memory or a file.

    Parameters
    ----------
    model : Model or path
        A model, a model file, or a run folder.

    Returns
    -------
    Model
        The given one where it is on one rank already.

    Notes
    -----
    Collective over the grid of a model in memory; a file is read by each process for itself.
    """
    if not isinstance(model, Model):
        return load_model(model)
    return whole_model(model) if model.grid.size > 1 else model
