"""Make the stages of a run from their configuration."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from distnewton.config import Config
from distnewton.config.method import AUTO, MethodConfig, StageConfig, StageOptions, regularization
from distnewton.curvature.sketch import auto_sketch
from distnewton.directions.composition import make_direction
from distnewton.directions.direction import Direction
from distnewton.directions.options import (
    BatchNewtonOptions,
    ClipOptions,
    DampingOptions,
    EarlyTerminationOptions,
    FullBatchOptions,
    MomentumOptions,
    SketchOptions,
)
from distnewton.errors import ConfigError
from distnewton.method.batches import Batches
from distnewton.method.newton import NewtonStep, StepOptions
from distnewton.method.objective import Objective, subsample_size
from distnewton.method.stages import BatchNewton, FullBatch, RateOptions, RateSteps, Stage
from distnewton.network.shapes import NetworkShape
from distnewton.parallel.early_stop import FinishBoard, stop_threshold
from distnewton.parallel.grid import ProcessGrid
from distnewton.parallel.partition import Partition
from distnewton.parallel.termination import NEVER, EarlyTermination, RecordedTermination
from distnewton.solvers.damping import LevenbergMarquardt


class Schedule:
    """The stages of a run, and the MPI resources that they hold.

    Parameters
    ----------
    method : MethodConfig
        The stages of the schedule, and the last stage.
    objective : Objective
        Objective that is minimised.
    n_iterations : int
        Number of iterations of the whole run.
    seed : int
        Seed of the run.
    deterministic : bool
        Whether early termination is off.
    recorded : iterator of int or None
        For a replay, CG steps of this rank in each direction; they replace early termination.

    Attributes
    ----------
    stages : list of (Stage, int)
        Each stage with its number of iterations; a trainer removes those that have ended.
    notes : list of str
        Notes to the user.

    Notes
    -----
    Construction is collective if a direction may end early: the ranks then share a finish board.
    """

    def __init__(
        self,
        method: MethodConfig,
        objective: Objective,
        n_iterations: int,
        seed: int,
        *,
        deterministic: bool,
        recorded: Iterator[int] | None = None,
    ) -> None:
        self._objective, self._seed, self._deterministic = objective, seed, deterministic
        self._recorded = recorded
        self._boards: list[FinishBoard] = []
        self.notes: list[str] = []
        self.stages: list[tuple[Stage, int]] = []
        remaining = n_iterations
        for options in method.schedule:
            n = remaining if isinstance(options.iterations, str) else min(options.iterations, remaining)
            self.stages.append((self._stage(options, n), n))
            remaining -= n
        self.stages.append((self._stage(method, remaining), remaining))

    @property
    def transport(self) -> str:
        """How ranks announce that they have finished a direction; empty without early termination."""
        return self._boards[0].transport if self._boards else ""

    def free(self) -> None:
        """Free the boards (collective)."""
        for board in self._boards:
            board.free()

    def _stage(self, options: StageOptions, n_iterations: int) -> Stage:
        """Make a stage from its options."""
        objective, direction = self._objective, make_direction(options)
        if isinstance(options, StageConfig) and options.C != AUTO:
            objective = objective.regularized(regularization(options.C, objective.n_counted))
        if options.has(FullBatchOptions):
            newton = self._newton(options, direction)
            # steps on parts are for points far from a minimum, which no point after an earlier stage is
            parts = 1 if self.stages else options.parts
            return FullBatch(objective, newton, options.subsample, options.subsample_min, self._seed, parts)
        batches = Batches(objective.n_samples, options.batch, self._seed)
        if options.has(BatchNewtonOptions):
            return BatchNewton(objective, self._newton(options, direction), batches, options.steps)
        rates = RateOptions(
            options.learning_rate,
            options.rate_decay,
            n_iterations * (options.steps or batches.per_pass),
            options.momentum if options.has(MomentumOptions) else 0.0,
            options.average,
            options.kl_clip if options.has(ClipOptions) else math.inf,
            options.damping if options.has(DampingOptions) else 0.0,
            self._seed,
            len(self.stages),
            self._sketch(options, direction),
        )
        return RateSteps(objective, direction, batches, options.steps, rates)

    def _newton(self, options: StageOptions, direction: Direction) -> NewtonStep:
        """Make the Newton steps of a direction."""
        finish_fraction = options.finish_fraction if options.has(EarlyTerminationOptions) else 1.0
        return NewtonStep(
            direction,
            _damping(options),
            StepOptions(
                options.combine,
                options.sufficient_decrease,
                options.line_search_max,
                self._sketch(options, direction),
                self._seed,
                len(self.stages),
            ),
            self._termination(direction, finish_fraction),
        )

    def _sketch(self, options: StageOptions, direction: Direction) -> int:
        """Return the number of random cotangents of a sample; 0 uses all outputs."""
        objective, network = self._objective, self._objective.network
        n = -(-_n_curvature(options, objective.n_samples) // network.grid.n_replicas)
        sizes = n, network.backend.dtype.itemsize, objective.memory_bytes
        k = _sketch(options, direction, network.shape, network.grid.partition.logical, sizes)
        if 0 < k < network.n_out and options.sketch == "auto":
            self.notes.append(
                f"{options.inner_direction}: {k} random cotangents a sample replace {network.n_out} outputs "
                "(method.sketch = 0 uses all)"
            )
        return k

    def _termination(self, direction: Direction, finish_fraction: float) -> EarlyTermination:
        """Make the early termination of a direction, among the blocks that have variables."""
        grid: ProcessGrid = self._objective.network.grid
        blocks = grid.partition.logical
        n_blocks = blocks.n_ranks * grid.n_replicas
        if self._deterministic or n_blocks == 1 or not direction.stops_early:
            return NEVER
        if self._recorded is not None:
            return RecordedTermination(self._recorded)
        # blocks without variables finish at once: they announce it, but must not count towards the threshold
        n_idle = len(blocks.idle_ranks()) * grid.n_replicas
        weights = [len(grid.partition.numbers(rank)) for rank in range(grid.size)] * grid.n_replicas
        self._boards.append(FinishBoard(grid.world.mpi, ledger=grid.ledger, weights=weights))
        return EarlyTermination(self._boards[-1], n_idle + stop_threshold(n_blocks - n_idle, finish_fraction))


def _damping(options: StageOptions) -> LevenbergMarquardt:
    """Make the damping of a Newton stage."""
    nielsen, first = options.drop == "nielsen", options.damping
    if first == "auto":
        first = math.nan if nielsen else 1.0
    drop = 2.0 / 3.0 if nielsen else options.drop
    return LevenbergMarquardt(
        first, drop, options.boost, options.damping_threshold, minimum=options.damping_min, nielsen=nielsen
    )


def check_memory(config: Config, n_samples: int, n_out: int, n_ranks: int, n_params: int) -> None:
    """Refuse stages whose linear systems do not fit the memory, before any data is read.

    Parameters
    ----------
    config : Config
        The stages, the dtype, and the memory that a rank may use.
    n_samples, n_out : int
        Number of training samples and of outputs.
    n_ranks, n_params : int
        Number of ranks of all replicas, and of variables of the network.

    Raises
    ------
    ConfigError
        If a dual direction's matrix is too large; the message says by how much, and what would fit.
    """
    itemsize = np.dtype(config.run.array_dtype).itemsize
    for options in (*config.method.schedule, config.method):
        n = _n_curvature(options, n_samples)
        make_direction(options).check_memory(n, n_out, itemsize, config.run.memory_mb, n_ranks, n_params)


def check_samples(method: MethodConfig, n_samples: int, n_replicas: int) -> None:
    """Refuse a run in which a replica of the grid would have no sample for a direction."""
    fewest = n_samples, "samples"
    for options in (*method.schedule, method):
        if make_direction(options).apart:
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
    """Return the number of curvature samples of a replica in a stage, and of Jacobian rows it stores for each (or 0).

    Parameters
    ----------
    options : StageOptions
        The stage.
    shape : NetworkShape
        The layers.
    partition : Partition
        Blocks of the ranks.
    n_samples, itemsize : int
        Number of training samples, and bytes of a number.
    memory : float
        Bytes that a rank may use.
    n_replicas : int
        Number of copies of the grid that share the samples.

    Returns
    -------
    tuple of int
    """
    n = -(-_n_curvature(options, n_samples) // n_replicas)
    direction = make_direction(options)
    if direction.curvature not in {"jacobian", "roots"}:
        return n, 0
    n_out, sketch = shape.widths[-1], _sketch(options, direction, shape, partition.logical, (n, itemsize, memory))
    return n, sketch if 0 < sketch < n_out else n_out


def _sketch(
    options: StageOptions,
    direction: Direction,
    shape: NetworkShape,
    partition: Partition,
    sizes: tuple[int, int, float],
) -> int:
    """Count the random cotangents of a sample, 0 for all; ``sizes``: samples, bytes of a number, bytes of a rank."""
    if not options.has(SketchOptions):
        return 0
    if options.sketch != "auto":
        return int(options.sketch)
    return auto_sketch(shape, partition, *sizes) if direction.random_rows else 0


def _n_curvature(options: StageOptions, n_samples: int) -> int:
    """Return the number of samples whose curvature a step uses: the subsample or the mini-batch."""
    if options.has(FullBatchOptions):
        return subsample_size(n_samples, options.subsample, options.subsample_min)
    return min(n_samples, int(options.batch))
