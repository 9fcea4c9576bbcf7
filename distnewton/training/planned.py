"""The problem of a configuration in numbers, for plans."""

from __future__ import annotations

import numpy as np

from distnewton.config import Config
from distnewton.errors import ConfigError
from distnewton.network.shapes import NetworkShape
from distnewton.planning.problem import MODELLED, Problem
from distnewton.training.objective import subsample_size


def planned_problem(
    config: Config,
    shape: NetworkShape,
    n_samples: int,
    *,
    n_test: int = 0,
    nonzeros: float | None = None,
    n_steps: int | None = None,
    n_trials: int = 1,
) -> Problem:
    """What an iteration of a run works on.

    Parameters
    ----------
    config : Config
        The run; stages before its direction are left out.
    shape : NetworkShape
        Layers, resolved.
    n_samples, n_test : int
        Samples of training and test.
    nonzeros : float or None
        Of a sample with sparse features; None for dense.
    n_steps : int or None
        CG steps of a direction; None for the most that are allowed.
    n_trials : int
        Points that the line search tries.

    Returns
    -------
    Problem

    Raises
    ------
    ConfigError
        For directions without a model.
    """
    method = config.method
    if method.direction not in MODELLED:
        raise ConfigError(
            f"there is no model of {method.direction} yet; plan with --method.direction {' or '.join(MODELLED)}",
            agreed=True,
        )
    return Problem(
        shape,
        n_samples,
        subsample_size(n_samples, method.subsample, method.subsample_min),
        shape.widths[-1],
        np.dtype(config.run.dtype).itemsize,
        config.run.memory_mb * 2.0**20,
        n_test,
        method.direction,
        n_steps or method.cg_max,
        n_trials,
        2 if method.combine == "previous" else 1,
        method.warm_start > 0.0,
        "jacobian" in method.used() and method.jacobian == "recomputed",
        nonzeros,
        config.network.activation,
    )
