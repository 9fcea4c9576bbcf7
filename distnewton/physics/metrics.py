"""How well a residual problem is solved: root mean squares of its terms, and the error against a known solution."""

from __future__ import annotations

import math

import numpy as np

from distnewton.backend import Array
from distnewton.parallel.grid import ProcessGrid
from distnewton.physics.problem import Problem
from distnewton.physics.residuals import ResidualLoss


def residual_metrics(residuals: ResidualLoss, grid: ProcessGrid, outputs: Array, targets: Array) -> dict[str, float]:
    """Root mean squares of the residuals.

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
        ``rmse``, the root of the weighted sum of the mean squares, then each term's by its name.

    Notes
    -----
    Collective: a sum of a number a term.
    """
    squares = grid.sum_of_samples(residuals.mean_squares(outputs, targets))
    weighted = sum(term.term.weight * square for term, square in zip(residuals.terms, squares, strict=True))
    by_term = {term.name: math.sqrt(square) for term, square in zip(residuals.terms, squares, strict=True)}
    return {"rmse": math.sqrt(weighted), **by_term}


def solution_metrics(problem: Problem, outputs: Array, targets: Array) -> dict[str, float]:
    """The error against a known solution.

    Parameters
    ----------
    problem : Problem
        Of how many components.
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
