"""The problem of a configuration in numbers, for plans and studies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from distnewton.config import Config, MethodConfig
from distnewton.config.method import AUTO
from distnewton.config.opening import opener
from distnewton.data.description import Description
from distnewton.data.folds import BY_CLASS, split_off
from distnewton.data.partitioned import Task, keep_dense
from distnewton.directions.acceleration import longest_acceleration
from distnewton.directions.options import BatchOptions, CGOptions
from distnewton.directions.registry import DIRECTIONS
from distnewton.errors import ConfigError
from distnewton.method.objective import subsample_size
from distnewton.network.jets import Jet
from distnewton.network.shapes import NetworkShape
from distnewton.parallel.cuts import FileOwners
from distnewton.physics.problem import Problem as ResidualProblem
from distnewton.physics.residuals import ResidualLoss
from distnewton.physics.sources import problem_of
from distnewton.planning.plan import make_plans
from distnewton.planning.problem import MODELLED, PlannedMethod, Problem
from distnewton.planning.rates import Rates
from distnewton.runs.automatic import settle

_STEPS = 11
"""CG steps for each decade of the residual."""


class DataSize(NamedTuple):
    """What the data of a run says.

    Attributes
    ----------
    n_samples, n_test : int
        Samples of training, and of validation and test together.
    n_features, n_out : int
        Features, and outputs that the task needs.
    nonzeros : float or None
        Of a sample with sparse features; None for dense.
    image_shape : tuple of int or None
        Channels, height and width of images.
    reading_bytes : float
        Memory, about, that reading them takes on a rank beside the features.
    files : tuple of int
        Features of each file, of files by columns.
    packed : bool
        Whether they are genotypes, two bits each.
    jet : Jet or None
        Derivatives that ride along, of a residual problem.
    n_rows : int
        Most equations of a term, of a residual problem.
    """

    n_samples: int
    n_features: int
    n_out: int
    n_test: int
    nonzeros: float | None
    image_shape: tuple[int, ...] | None
    reading_bytes: float = 0.0
    files: tuple[int, ...] = ()
    packed: bool = False
    jet: Jet | None = None
    n_rows: int = 0


def nonzeros_of(description: Description, *, dense: bool) -> float | None:
    """Nonzeros of a sample on average; None where features are held as a dense array, or packed."""
    return None if dense or description.packed else description.n_nonzeros / description.n_samples


def describe_data(config: Config) -> DataSize:
    """Read the data for its size, on one process; refuses a configuration without data."""
    data = config.data
    if not data.train:
        raise ConfigError(
            "a plan needs to know the data: samples, features and outputs in --sizes, or data.train, whose file is "
            "read",
            collective=True,
        )
    if (problem := problem_of(None, data.train)) is not None:
        return _size_of_problem(problem, config.run.seed)
    source = opener(data, None, data.train)()
    train = source.describe()
    data = settle(config, train.n_samples, validated=bool(data.validation), packed=train.packed).data
    n_out = Task.fit(config.task, train, source).n_out
    names = [name for name in (data.validation, data.test) if name]
    others = (opener(data, None, name, train.n_features, train.names)() for name in names)
    n_test = sum(other.describe().n_samples for other in others)
    nonzeros = nonzeros_of(train, dense=keep_dense(train))
    n_left = train.n_samples
    if data.validation_fraction:
        by_class = config.task in BY_CLASS
        rows, aside = split_off(train.labels, float(data.validation_fraction), config.run.seed, by_class=by_class)
        n_left, n_test = len(rows), n_test + len(aside)
    n_samples = data.n_train or n_left
    reading_bytes = getattr(source, "reading_bytes", 0.0)
    files = () if train.names is None else train.names.inputs_of_files
    return DataSize(
        n_samples, train.n_features, n_out, n_test, nonzeros, train.image_shape, reading_bytes, files, train.packed
    )


def _size_of_problem(problem: ResidualProblem, seed: int) -> DataSize:
    """The size of a residual problem, whose samples are its points."""
    residuals = ResidualLoss(problem, seed)
    n_test = 0 if problem.solution is None else len(problem.test_points(seed))
    return DataSize(
        problem.n_points, problem.dimension, problem.n_all_outputs, n_test, None, None, jet=residuals.jet,
        n_rows=residuals.count_equations(),
    )  # fmt: skip


def planned_problem(
    config: Config,
    shape: NetworkShape,
    n_samples: int,
    *,
    n_test: int = 0,
    nonzeros: float | None = None,
    n_steps: float | None = None,
    n_trials: float = 1,
    reading_bytes: float = 0.0,
    owners: FileOwners | None = None,
    packed: bool = False,
    jet: Jet | None = None,
    n_rows: int = 0,
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
    n_steps : float or None
        CG steps of a direction, counted as whole ones, one at least; None for :func:`expected_steps`.
    n_trials : float
        Points that the line search tries, likewise.
    reading_bytes : float
        Memory of reading the data.
    owners : FileOwners or None
        Of files by columns.
    packed : bool
        Whether features are genotypes, two bits each.
    jet : Jet or None
        Derivatives that ride along, of a residual problem, whose own functions take no time here.
    n_rows : int
        Most equations of a term, of a residual problem.

    Returns
    -------
    Problem

    Raises
    ------
    ConfigError
        For directions without a model; ``block_diagonal`` stands for what ``auto`` chooses.
    """
    chosen = config.method.direction
    config = settle(config, n_samples, validated=n_test > 0, residual=jet is not None)
    method = config.method
    shape = shape if jet is None else shape.with_jet(jet)
    if jet is None and chosen == AUTO and DIRECTIONS[method.direction].planned_as != "gauss_newton":
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
    )
    return Problem(
        shape,
        n_samples,
        subsample_size(n_samples, method.subsample, method.subsample_min),
        n_rows or shape.widths[-1],
        np.dtype(config.run.array_dtype).itemsize,
        config.run.memory_mb * 2.0**20,
        n_test,
        planned,
        nonzeros,
        config.network.activation,
        reading_bytes=reading_bytes,
        packed=packed,
        blocks=config.partition.logical(shape),
        owners=owners,
    )


def expected_steps(method: MethodConfig) -> int:
    """CG steps of a direction that a run takes, about.

    Parameters
    ----------
    method : MethodConfig
        Of the run.

    Returns
    -------
    int
        At least 1, which stands for directions without CG.

    Notes
    -----
    Runs of digits, letter, usps, pendigits, abalone and mnist on two ranks took 8 to 15 in the mean of their first 15
    iterations, with a tolerance of 0.1 and at most 30, of one block or of all, and with Kronecker factors or without.
    """
    if not method.has(CGOptions):
        return 1
    steps = _STEPS * -math.log10(method.cg_tolerance) if method.cg_tolerance else math.inf
    one = int(min(method.cg_max, max(method.cg_min, round(steps) if steps < math.inf else steps)))
    return one * (1 + (longest_acceleration(method) > 0.0))


def planned_splits(
    config: Config,
    shape: NetworkShape,
    n_samples: int,
    n_ranks: int,
    speeds: Sequence[float] = (),
    *,
    nonzeros: float | None = None,
    owners: FileOwners | None = None,
) -> tuple[int, ...]:
    """The splits with which an iteration takes the least time by the model, with round rates.

    Parameters
    ----------
    config : Config
        The run. Steps on mini-batches count as a Newton step with few products on a batch.
    shape : NetworkShape
        Layers, resolved.
    n_samples : int
        Of training.
    n_ranks : int
        Ranks of a grid.
    speeds : sequence of float
        Of the ranks of a grid; empty where all are alike.
    nonzeros : float or None
        Of a sample with sparse features; None for dense.
    owners : FileOwners or None
        Of files by columns, which splits must suit.

    Returns
    -------
    tuple of int
    """
    method = config.method
    if DIRECTIONS[method.direction].planned_as:
        problem = planned_problem(config, shape, n_samples, nonzeros=nonzeros, owners=owners)
    else:
        size = min(n_samples, method.batch) if method.has(BatchOptions) else n_samples
        problem = Problem(
            shape, size, size, shape.widths[-1], np.dtype(config.run.array_dtype).itemsize,
            config.run.memory_mb * 2.0**20, method=PlannedMethod("block_diagonal", 2), nonzeros=nonzeros,
            blocks=config.partition.logical(shape), owners=owners,
        )  # fmt: skip
    return make_plans(problem.shared(config.partition.replicas), n_ranks, Rates(), speeds=speeds)[0].splits
