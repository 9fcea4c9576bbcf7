"""The sizes of a configured problem, for plans and studies."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from distnewton.config import Config, MethodConfig
from distnewton.config.method import AUTO
from distnewton.directions.acceleration import longest_acceleration
from distnewton.directions.options import BatchOptions, CGOptions
from distnewton.directions.registry import DIRECTIONS
from distnewton.errors import ConfigError
from distnewton.launch.speeds import speeds_of_grid
from distnewton.method.objective import subsample_size
from distnewton.network.shapes import NetworkShape
from distnewton.parallel.cuts import FileOwners
from distnewton.parallel.partition import check_rank_count
from distnewton.parallel.replicas import ranks_of_a_grid
from distnewton.planning.problem import MODELLED, PlannedMethod, Problem
from distnewton.runs.automatic import TrainingFacts, settle

if TYPE_CHECKING:
    from distnewton.runs.data_size import DataSize

_STEPS = 11
"""CG steps that reduce the residual by a factor of ten."""


def planned_problem(
    config: Config,
    shape: NetworkShape,
    data: DataSize,
    *,
    n_steps: float | None = None,
    n_trials: float = 1,
    owners: FileOwners | None = None,
) -> Problem:
    """Describe the work of an iteration of a run.

    Parameters
    ----------
    config : Config
        The run; stages before its last one are left out.
    shape : NetworkShape
        Layers, resolved.
    data : DataSize
        Sizes of the data; the own functions of a residual problem take no time in the model.
    n_steps : float or None
        CG steps of a direction, rounded to at least 1; None for :func:`expected_steps`.
    n_trials : float
        Number of points that the line search tries, rounded to at least 1.
    owners : FileOwners or None
        Ranks that own each file by columns.

    Returns
    -------
    Problem

    Raises
    ------
    ConfigError
        For a direction without a model. ``block_diagonal`` stands in for the choice of ``auto``.
    """
    chosen, n_samples = config.method.direction, data.n_samples
    config = settle(config, TrainingFacts(n_samples, data.n_test > 0, residual=data.jet is not None))
    method = config.method
    shape = shape if data.jet is None else shape.with_jet(data.jet)
    if data.jet is None and chosen == AUTO and DIRECTIONS[method.direction].planned_as != "gauss_newton":
        method = MethodConfig.model_validate({"direction": MODELLED[-1]})
    modelled = DIRECTIONS[method.direction].planned_as
    if not modelled:
        raise ConfigError(
            f"there is no model of {method.direction} yet; plan with --set method.direction={' or '.join(MODELLED)}",
            collective=True,
        )
    planned = PlannedMethod(
        modelled,
        expected_steps(method) if n_steps is None else max(1, round(n_steps)),
        max(1, round(n_trials)),
        2 if method.combine == "previous" else 1,
        getattr(method, "warm_start", 0.0) > 0.0,
        getattr(method, "jacobian", "stored") == "recomputed",
        config.run.overlap,
        getattr(method, "preconditioner", "none"),
        longest_acceleration(method) > 0.0,
        config.run.compress == "bfloat16",
    )
    return Problem(
        shape,
        n_samples,
        subsample_size(n_samples, method.subsample, method.subsample_min),
        data.n_rows or shape.widths[-1],
        np.dtype(config.run.array_dtype).itemsize,
        config.run.memory_mb * 2.0**20,
        data.n_test,
        planned,
        data.nonzeros,
        config.network.activation,
        reading_bytes=data.reading_bytes,
        packed=data.packed,
        blocks=config.partition.logical(shape),
        owners=owners,
    )


def expected_steps(method: MethodConfig) -> int:
    """Estimate the CG steps that a run takes for a direction.

    Parameters
    ----------
    method : MethodConfig
        Method of the run.

    Returns
    -------
    int
        At least 1; 1 for directions without CG.

    Notes
    -----
    Runs on digits, letter, usps, pendigits, abalone and mnist with two ranks took 8 to 15 steps, on average over their
    first 15 iterations, with a tolerance of 0.1 and at most 30 steps; block-diagonal or full, with Kronecker factors or
    without.
    """
    if not method.has(CGOptions):
        return 1
    steps = _STEPS * -math.log10(method.cg_tolerance) if method.cg_tolerance else math.inf
    one = int(min(method.cg_max, max(method.cg_min, round(steps) if steps < math.inf else steps)))
    return one * (1 + (longest_acceleration(method) > 0.0))


def problem_of_replica(
    config: Config, shape: NetworkShape, data: DataSize, owners: FileOwners | None = None
) -> Problem:
    """Describe the work of an iteration on the samples of one replica, with any direction.

    Parameters
    ----------
    config, shape, data, owners
        Arguments of :func:`planned_problem`. Steps on mini-batches are modelled as a Newton step with few products on a
        batch.

    Returns
    -------
    Problem
    """
    method = config.method
    if DIRECTIONS[method.direction].planned_as:
        problem = planned_problem(config, shape, data, owners=owners)
    else:
        size = min(data.n_samples, method.batch) if method.has(BatchOptions) else data.n_samples
        problem = Problem(
            shape, size, size, shape.widths[-1], np.dtype(config.run.array_dtype).itemsize,
            config.run.memory_mb * 2.0**20, method=PlannedMethod("block_diagonal", 2), nonzeros=data.nonzeros,
            blocks=config.partition.logical(shape), owners=owners,
        )  # fmt: skip
    return problem.shared(config.partition.replicas)


def planned_sketch(method: MethodConfig) -> int | None:
    """Return the random cotangents of a sample, 0 for all; None where the plan chooses them."""
    sketch = getattr(method, "sketch", 0)
    return None if sketch == "auto" else int(sketch)


def planned_grid(config: Config, problem: Problem, n_ranks: int) -> dict[str, Any]:
    """Collect what a plan needs to know about the grid and the method.

    Parameters
    ----------
    config : Config
        The run.
    problem : Problem
        Work of one of its iterations.
    n_ranks : int
        Number of ranks of all replicas.

    Returns
    -------
    dict
        Arguments of :func:`~distnewton.planning.plan.make_plans`: ``sketch``, ``n_replicas`` and ``speeds``.

    Raises
    ------
    ConfigError
        If given splits or speeds do not fit the ranks, or speeds are to be measured.
    """
    return {
        "sketch": planned_sketch(config.method),
        "n_replicas": config.partition.replicas,
        "speeds": _speeds(config, problem, n_ranks),
    }


def _speeds(config: Config, problem: Problem, n_ranks: int) -> list[float]:
    """Return the given speeds of the ranks of a grid; check that given splits fit the ranks."""
    partition = config.partition
    n_of_grid = ranks_of_a_grid(n_ranks, partition.replicas)
    if partition.speeds == "measured":
        raise ConfigError(
            "a plan cannot measure speeds: give partition.speeds as a list with one for each rank", collective=True
        )
    if partition.splits != "auto":
        check_rank_count(
            problem.shape.partition(partition.splits, (), problem.blocks, problem.owners), n_of_grid,
            partition.replicas,
        )  # fmt: skip
    given = partition.speeds
    return [] if isinstance(given, str) else speeds_of_grid(given, n_of_grid, partition.replicas)
