"""Stages from their configuration."""

from __future__ import annotations

import math
from dataclasses import fields

from distnewton.config.method import FULL_BATCH, MethodConfig, StageOptions
from distnewton.curvature.sketch import auto_sketch
from distnewton.directions.direction import Direction, DirectionOptions
from distnewton.directions.dual import check_dual_memory
from distnewton.directions.registry import DIRECTIONS
from distnewton.errors import ConfigError
from distnewton.method.batches import Batches
from distnewton.method.newton import NewtonStep, StepOptions
from distnewton.method.objective import Objective, subsample_size
from distnewton.method.stages import BatchNewton, FullBatch, RateOptions, RateSteps, Stage
from distnewton.network.shapes import NetworkShape
from distnewton.parallel.early_stop import FinishBoard, stop_threshold
from distnewton.parallel.grid import ProcessGrid
from distnewton.parallel.partition import Partition
from distnewton.parallel.termination import NEVER, EarlyTermination
from distnewton.solvers.damping import LevenbergMarquardt

_DUAL = frozenset({"dual", "block_dual"})
"""Directions that solve in sample space."""


class Schedule:
    """The stages of a run and what they hold open.

    Parameters
    ----------
    method : MethodConfig
        The stages: those of its schedule, then itself.
    objective : Objective
        What is minimised.
    n_iterations : int
        Iterations of the whole run.
    seed : int
        Of the run.
    deterministic : bool
        Whether early termination is off.

    Attributes
    ----------
    stages : list of (Stage, int)
        With the iterations of each.
    notes : list of str
        What the user should know.

    Notes
    -----
    Construction is collective where a direction ends early: ranks then share a board.
    """

    def __init__(
        self, method: MethodConfig, objective: Objective, n_iterations: int, seed: int, *, deterministic: bool
    ) -> None:
        self._objective, self._seed, self._deterministic = objective, seed, deterministic
        self._boards: list[FinishBoard] = []
        self.notes: list[str] = []
        self.stages: list[tuple[Stage, int]] = []
        remaining = n_iterations
        for options in method.schedule:
            n = min(options.iterations, remaining)
            self.stages.append((self._stage(options, n), n))
            remaining -= n
        self.stages.append((self._stage(method, remaining), remaining))

    @property
    def transport(self) -> str:
        """How ranks tell each other that they have finished; empty without early termination."""
        return self._boards[0].transport if self._boards else ""

    def free(self) -> None:
        """Free the boards (collective)."""
        for board in self._boards:
            board.free()

    def _stage(self, options: StageOptions, n_iterations: int) -> Stage:
        """A stage from its options."""
        objective, seed = self._objective, self._seed
        if options.direction in FULL_BATCH:
            return FullBatch(objective, self._newton(options), options.subsample, options.subsample_min, seed)
        batches = Batches(objective.n_samples, options.batch, seed)
        if options.direction == "sgn":
            return BatchNewton(objective, self._newton(options), batches, options.steps)
        rates = RateOptions(
            options.learning_rate,
            options.rate_decay,
            n_iterations * (options.steps or batches.per_pass),
            options.momentum if "momentum" in options.used() else 0.0,
            options.average,
            options.kl_clip if "kl_clip" in options.used() else math.inf,
            options.damping if "damping" in options.used() else 0.0,
            seed,
            len(self.stages),
            self._sketch(options),
        )
        direction = _direction(options, options.direction)
        return RateSteps(objective, direction, options.direction, batches, options.steps, rates)

    def _newton(self, options: StageOptions) -> NewtonStep:
        """Newton steps with a direction."""
        method = options.inner_direction
        direction = _direction(options, method)
        name = method if method == options.direction else f"{options.direction}/{method}"
        return NewtonStep(
            direction,
            name,
            LevenbergMarquardt(options.damping, options.drop, options.boost, minimum=options.damping_min),
            StepOptions(
                options.combine,
                options.sufficient_decrease,
                options.line_search_max,
                self._sketch(options),
                self._seed,
                len(self.stages),
            ),
            self._termination(direction, options.finish_fraction),
        )

    def _sketch(self, options: StageOptions) -> int:
        """Random cotangents a sample, 0 for all outputs."""
        if "sketch" not in options.used():
            return 0
        if options.sketch != "auto":
            return options.sketch
        if options.inner_direction in _DUAL:
            return 0
        objective, network = self._objective, self._objective.network
        n = -(-_n_curvature(options, objective.n_samples) // network.grid.n_replicas)
        itemsize = network.backend.dtype.itemsize
        k = auto_sketch(network.shape, network.grid.partition, n, itemsize, objective.memory_bytes)
        if 0 < k < network.n_out:
            self.notes.append(
                f"{options.inner_direction}: {k} random cotangents a sample stand for {network.n_out} outputs "
                "(method.sketch = 0: all)"
            )
        return k

    def _termination(self, direction: Direction, finish_fraction: float) -> EarlyTermination:
        """Early termination among the ranks that have something to solve."""
        grid: ProcessGrid = self._objective.network.grid
        if self._deterministic or grid.world.size == 1 or not direction.stops_early:
            return NEVER
        # ranks without variables have finished before they start: they announce, but do not count
        n_idle = len(grid.partition.idle_ranks()) * grid.n_replicas
        self._boards.append(FinishBoard(grid.world.mpi))
        return EarlyTermination(self._boards[-1], n_idle + stop_threshold(grid.world.size - n_idle, finish_fraction))


def check_memory(method: MethodConfig, n_samples: int, n_out: int, itemsize: int, memory_mb: float) -> None:
    """Refuse stages whose systems do not fit, before any data is read.

    Parameters
    ----------
    method : MethodConfig
        The stages.
    n_samples, n_out : int
        Of the training data.
    itemsize : int
        Bytes of a number.
    memory_mb : float
        What a rank may use.

    Raises
    ------
    ConfigError
        If a dual direction's matrix is too large; says by how much, and what would fit.
    """
    for options in (*method.schedule, method):
        if options.inner_direction in _DUAL:
            size = _n_curvature(options, n_samples)
            n_rows = 0 if options.sketch == "auto" else options.sketch
            check_dual_memory(size, min(n_rows or n_out, n_out), itemsize, memory_mb)


def check_samples(method: MethodConfig, n_samples: int, n_replicas: int) -> None:
    """Refuse replicas of the grid without a sample to find a direction from.

    Parameters
    ----------
    method : MethodConfig
        The stages.
    n_samples : int
        Of the training data.
    n_replicas : int
        Copies of the grid.

    Raises
    ------
    ConfigError
        If there are fewer samples than replicas, or fewer in the curvature of a direction that each finds apart.
    """
    fewest = n_samples, "samples"
    for options in (*method.schedule, method):
        if _direction(options, options.inner_direction).apart:
            n = _n_curvature(options, n_samples)
            fewest = min(fewest, (n, f"sample{'s' if n > 1 else ''} in the curvature of {options.inner_direction}"))
    if fewest[0] < n_replicas:
        raise ConfigError(
            f"{fewest[0]} {fewest[1]} cannot be shared by {n_replicas} replicas of the grid: lower "
            "partition.replicas, or raise method.subsample, subsample_min or batch",
            collective=True,
        )


def curvature_rows(
    options: StageOptions,
    shape: NetworkShape,
    partition: Partition,
    n_samples: int,
    itemsize: int,
    memory: float,
    n_replicas: int = 1,
) -> tuple[int, int]:
    """Samples whose curvature a replica uses in a stage, and rows of its Jacobian a sample; 0 where it stores none.

    Parameters
    ----------
    options : StageOptions
        The stage.
    shape : NetworkShape
        Layers.
    partition : Partition
        Who owns what.
    n_samples, itemsize : int
        Of the training data, and bytes of a number.
    memory : float
        Bytes a rank may fill.
    n_replicas : int
        Copies of the grid that share the samples.

    Returns
    -------
    tuple of int
    """
    n = -(-_n_curvature(options, n_samples) // n_replicas)
    if _direction(options, options.inner_direction).curvature not in {"jacobian", "roots"}:
        return n, 0
    n_out, sketch = shape.widths[-1], options.sketch if "sketch" in options.used() else 0
    if sketch == "auto":
        sketch = 0
        if options.inner_direction not in _DUAL:
            sketch = auto_sketch(shape, partition, n, itemsize, memory)
    return n, sketch if 0 < sketch < n_out else n_out


def _n_curvature(options: StageOptions, n_samples: int) -> int:
    """Samples whose curvature a step uses, of so many: the subsample, or the mini-batch."""
    if options.direction in FULL_BATCH:
        return subsample_size(n_samples, options.subsample, options.subsample_min)
    return min(n_samples, options.batch)


def _direction(options: StageOptions, method: str) -> Direction:
    """A direction with the options it shares with others."""
    return DIRECTIONS[method](
        DirectionOptions(**{field.name: getattr(options, field.name) for field in fields(DirectionOptions)})
    )
