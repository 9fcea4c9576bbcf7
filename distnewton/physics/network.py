"""Requirements of residual problems on networks: smooth activations, unknown constants, derivatives of a model."""

from __future__ import annotations

from typing import Any

import numpy as np

from distnewton.backend import Array
from distnewton.errors import ConfigError
from distnewton.models.model import Model
from distnewton.network.jets import Jet
from distnewton.network.network import PartitionedNetwork
from distnewton.physics.problem import Problem
from distnewton.physics.residuals import ResidualLoss

_N_CHECKED = 16


def check_residuals(residuals: ResidualLoss, network: PartitionedNetwork, params: Array) -> None:
    """Refuse terms that cannot be trained on, on all ranks alike.

    Parameters
    ----------
    residuals : ResidualLoss
        The terms.
    network : PartitionedNetwork
        The network, which passes derivatives with the values.
    params : Array of shape (n_params_local,)
        The point where training starts.

    Raises
    ------
    ConfigError
        With the name of the term.

    Notes
    -----
    Collective: a forward pass of a few points of each term.
    """
    if residuals.jet.seconds and not network.activation.analytic:
        names = [term.name for term in residuals.terms if {"d2u", "laplacian"} & {*term.term.arguments}]
        raise ConfigError(
            f"term {', '.join(names)}: the residual needs second derivatives, which {network.activation.name} does not "
            "have; use network.activation = tanh",
            collective=True,
        )
    first, last = network.grid.feature_range()
    for term in residuals.terms:
        numbers = np.arange(term.rows.start, term.rows.stop)[:_N_CHECKED]
        X = residuals.points[numbers]
        outputs = network.forward(params, residuals.jet.seed(X[:, first:last].copy(), first)).output
        with network.grid.world.collective_errors():
            term.check(outputs.astype(np.float64), X, numbers - term.rows.start)


def set_unknowns(problem: Problem, network: PartitionedNetwork, params: Array) -> None:
    """Set unknown constants to the problem's values; they are biases of the last outputs, whose weights are 0."""
    block = network.grid.blocks.get(network.n_layers)
    if block is None:
        return
    view = network.layout.views(params)[network.n_layers]
    for j, value in enumerate(problem.unknowns.values()):
        column = problem.n_outputs + j - block.outputs[0]
        if 0 <= column < block.shape[1]:
            view.W[:, column] = 0
            if view.b is not None:
                view.b[column] = value


def derivatives(model: Model, X: Any) -> dict[str, Array]:
    """Compute a model's values and its derivatives in the inputs.

    Parameters
    ----------
    model : Model
        Model of dense layers without scaling of features and targets, such as one of a residual problem.
    X : array-like of shape (n, n_features)
        Points; under MPI the same on all ranks.

    Returns
    -------
    dict of str to Array
        ``u`` of shape (n_out, n), ``du`` and ``d2u`` of shape (n_out, n_features, n), replicated.

    Notes
    -----
    Collective: a forward pass.
    """
    points, network = np.asarray(X, dtype=model.network.backend.dtype), model.network
    if network.shape.image_shape is not None or model.architecture.task.scaling is not None:
        raise ConfigError("derivatives need a network of dense layers whose targets are not scaled", collective=True)
    d = network.shape.widths[0]
    axes = tuple(tuple(row) for row in np.eye(d).tolist())
    jet = Jet(axes, axes)
    first, last = network.grid.feature_range()
    outputs = network.with_jet(jet).forward(model.params, jet.seed(points[:, first:last].copy(), first)).output
    channels = outputs.reshape(len(points), jet.size, -1).transpose(2, 1, 0)
    return {"u": channels[:, 0], "du": channels[:, 1 : 1 + d], "d2u": channels[:, 1 + d :]}
