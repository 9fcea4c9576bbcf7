"""Metrics of a residual problem: root mean squares of its terms, and the error against a known solution."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distnewton.backend import Array, to_host
from distnewton.network.network import PartitionedNetwork
from distnewton.parallel.grid import ProcessGrid
from distnewton.physics.problem import Problem
from distnewton.physics.residuals import ResidualLoss

_DRAWN = {1: 200, 2: 40}
"""Number of points along each axis at which a network is drawn, by number of dimensions."""


def residual_metrics(residuals: ResidualLoss, grid: ProcessGrid, outputs: Array, targets: Array) -> dict[str, float]:
    """Compute root mean squares of the residuals.

    Parameters
    ----------
    residuals : ResidualLoss
        The terms.
    grid : ProcessGrid
        The ranks.
    outputs : Array of shape (n_own, n_out)
        Channels at this replica's points.
    targets : Array of int of shape (n_own,)
        Numbers of these points.

    Returns
    -------
    dict of str to float
        ``rmse``, the root of the weighted sum of the mean squares, then that of each term by name.

    Notes
    -----
    Collective: a sum of one number for each term.
    """
    squares = grid.sum_of_samples(residuals.mean_squares(outputs, targets))
    weighted = sum(term.term.weight * square for term, square in zip(residuals.terms, squares, strict=True))
    by_term = {term.name: math.sqrt(square) for term, square in zip(residuals.terms, squares, strict=True)}
    return {"rmse": math.sqrt(weighted), **by_term}


def solution_metrics(problem: Problem, outputs: Array, targets: Array) -> dict[str, float]:
    """Compute the error against a known solution.

    Parameters
    ----------
    problem : Problem
        Problem, which has the number of components.
    outputs, targets : Array of shape (n, n_all_outputs)
        Values of the network and of the solution.

    Returns
    -------
    dict of str to float
        ``relative_l2``, the norm of the error over that of the solution; ``rmse``; and the unknown constants by name.
    """
    u = outputs[:, : problem.n_outputs]
    error, size = (float(np.linalg.norm(values)) for values in (u - targets[:, : problem.n_outputs], targets))
    found = {"relative_l2": error / size if size else math.nan, "rmse": error / math.sqrt(u.size)}
    return found | {name: float(outputs[0, problem.n_outputs + j]) for j, name in enumerate(problem.unknowns)}


def drawn_field(residuals: ResidualLoss, network: PartitionedNetwork, params: Array) -> dict[str, Any]:
    """Evaluate the network and its error on a regular grid, for the picture of a problem in one or two dimensions.

    Parameters
    ----------
    residuals : ResidualLoss
        The problem; the grid fills the smallest box around its points.
    network : PartitionedNetwork
        The network, which passes values only, without derivatives.
    params : Array of shape (n_params_local,)
        The point.

    Returns
    -------
    dict of str to list
        ``axes``: coordinates along each axis; ``values`` and ``errors`` of each component, the last axis fastest;
        ``errors`` only if a solution is known. Empty in more than two dimensions.

    Notes
    -----
    Collective: a forward pass.
    """
    problem = residuals.problem
    if problem.dimension not in _DRAWN:
        return {}
    ends = residuals.points.min(axis=0), residuals.points.max(axis=0)
    axes = np.linspace(*ends, _DRAWN[problem.dimension]).T
    X = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, problem.dimension)
    first, last = network.grid.feature_range()
    outputs = network.forward(params, network.backend.features(X[:, first:last])).output
    u = to_host(outputs)[:, : problem.n_outputs].astype(np.float64)
    errors: Any = [] if problem.solution is None else (u - problem.solved(X)[:, : problem.n_outputs]).T
    return {"axes": _rounded(axes), "values": _rounded(u.T), "errors": _rounded(errors)}


def _rounded(rows: Any) -> list[list[float]]:
    """Round numbers to the digits that pictures show."""
    return [[float(f"{value:.6g}") for value in row] for row in rows]
