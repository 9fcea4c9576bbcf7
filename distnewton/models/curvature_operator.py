"""Curvature of a model, or of a torch module, on data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from distnewton.backend import Array, Backend
from distnewton.curvature.point import Point
from distnewton.data.description import Description
from distnewton.data.in_memory import ArraySource
from distnewton.data.partitioned import Task
from distnewton.errors import ConfigError, DataError
from distnewton.launch.startup import ensure_guarded
from distnewton.models.loading import load_serial_model, model_of_weights
from distnewton.models.model import Model
from distnewton.network.losses import LOSSES
from distnewton.parallel.collectives import Communicator

if TYPE_CHECKING:
    from distnewton.models.linear_operators import CurvatureOperator


def curvature_operator(
    model: Any, loss: Any, X: Any, y: Any, kind: Literal["ggn", "block", "fisher"] = "ggn", *, comm: Any = None
) -> CurvatureOperator:
    r"""Make an operator for products and solutions with a model's curvature matrix on data, which is never formed.

    Parameters
    ----------
    model : torch.nn.Module, Model or path
        A chain of layers that :func:`distnewton.torch.from_torch` accepts, also without biases; or a model of this
        package, a model file or a run folder.
    loss : str or torch.nn.Module
        ``cross_entropy``, ``logistic`` or ``squared``, averaged over the samples; or
        ``nn.CrossEntropyLoss()``, ``nn.BCEWithLogitsLoss()`` or ``nn.MSELoss()`` with its own reduction, mean or sum.
    X : array-like or torch.Tensor of shape (n_samples, n_features) or (n_samples, channels, height, width)
        Features.
    y : array-like or torch.Tensor of shape (n_samples,) or (n_samples, n_out)
        Class indices, labels 0 and 1, or numbers; for a model of this package its own labels. Numbers are scaled as in
        the model's training: the matrix belongs to its own objective.
    kind : {"ggn", "block", "fisher"}
        ``ggn``: the generalised Gauss-Newton matrix, with B the Hessian of the loss in the outputs. ``block``: its
        diagonal blocks, one for each rank's part of each layer; on one process one per layer. ``fisher``: the empirical
        Fisher matrix, with B = g g^T and g the gradient of a sample's loss in its outputs.
    comm : mpi4py.MPI.Intracomm, Communicator or None
        Ranks that share the network; None means this process alone.

    Returns
    -------
    CurvatureOperator
        A :class:`scipy.sparse.linalg.LinearOperator` of shape (n_params, n_params), with ``jacobian`` and ``solve``.
        Entries have the order of ``torch.nn.utils.parameters_to_vector(module.parameters())``.

    Raises
    ------
    ConfigError
        If the module or the loss has no equivalent here; lists all reasons.
    DataError
        If the data does not fit the model.

    Notes
    -----
    Collective over ``comm``; all ranks pass the same arguments. Activations of all samples are kept; ``block`` and the
    dual method also store the factors of J.

    Examples
    --------
    ::

        G = distnewton.curvature_operator(module, nn.CrossEntropyLoss(), X, y)
        largest = scipy.sparse.linalg.eigsh(G, k=3, return_eigenvectors=False)
        step = G.solve(-gradient, damping=0.1)
    """
    # scipy.sparse takes a while to import
    from distnewton.models.linear_operators import CurvatureOperator, TorchOrder

    ranks = comm if isinstance(comm, Communicator) else Communicator(comm)
    ensure_guarded(ranks)
    if kind not in ("ggn", "block", "fisher"):
        raise ConfigError(f"kind must be ggn, block or fisher, got {kind!r}", collective=True)
    X, y = (array.detach().cpu().numpy() if hasattr(array, "detach") else array for array in (X, y))
    whole, name, reduction, lacking = _read(model, loss, np.shape(X))
    task, function = whole.architecture.task, LOSSES.find(name)
    if task.name not in function.tasks:
        raise ConfigError(f"loss = {name} does not suit the task of the model, {task.name}", collective=True)
    placed = model_of_weights(whole.architecture, whole.weights() or {}, whole.scaling, ranks)
    network = placed.network
    source = ArraySource(X, np.ravel(y) if task.classes is not None else y, name="X, y")
    description = source.describe()
    placed.check_data(source, description)
    targets = _targets(task, source, description, network.backend)
    activations = network.forward(placed.params, placed.features(source, description))
    point = Point(network, placed.params, activations, function, targets)
    divisors = {"sum": 1, "mean": description.n_samples, "mean of elements": description.n_samples * network.n_out}
    order = TorchOrder(network, lacking)
    return CurvatureOperator(placed, point, 1.0 / divisors[reduction], order, kind)


def _read(model: Any, loss: Any, shape: tuple[int, ...]) -> tuple[Model, str, str, list[str]]:
    """Return the model on this process, the loss's name and reduction, and missing biases, from torch or not."""
    is_module, is_loss_module = (hasattr(thing, "named_modules") for thing in (model, loss))
    if not (is_module or is_loss_module):
        return load_serial_model(model), loss, "mean", []
    from distnewton.torch import read_loss, read_module

    name, reduction, problems = read_loss(loss)
    if is_module:
        model, lacking = read_module(model, name, shape, problems)
        return model, name, reduction, lacking
    if problems:
        raise ConfigError("; ".join(problems), collective=True)
    return load_serial_model(model), name, reduction, []


def _targets(task: Task, source: ArraySource, description: Description, backend: Backend) -> Array:
    """Return the targets in the loss's form, on this rank's device."""
    targets = task.to_network(task.targets(description, source))
    if task.classes is not None and (targets < 0).any():
        unseen = ", ".join(task.classes.unseen(description.labels))
        raise DataError(f"y holds labels that the model does not know: {unseen}", collective=True)
    if targets.dtype.kind != "i":
        targets = np.asarray(targets, backend.dtype)
    moved: Array = backend.library.to_device(targets)
    return moved
