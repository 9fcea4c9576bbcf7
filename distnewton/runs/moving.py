"""Change the partition during a run: a rank that stays slow gets fewer neurons and features.

A checkpoint moves a run to another grid through files. Here the ranks exchange the same data by messages: variables,
the state of directions and steps, and features. Weights and samples are functions of global indices, so the run
continues as it would have, up to rounding; only blocks that follow the ranks change.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from distnewton.checkpoint.moving import move_state
from distnewton.checkpoint.state import State
from distnewton.config import Config
from distnewton.data.moving import move_columns
from distnewton.data.scaled import gather_scaling
from distnewton.directions.composition import make_direction
from distnewton.errors import ConfigError
from distnewton.launch.speeds import SpeedWatch
from distnewton.method.best_model import BestModel
from distnewton.method.records import IterationRecord
from distnewton.parallel.partition import Block, Partition, splits_title
from distnewton.runs.engine import Engine, make_engine
from distnewton.runs.placement import choose_partition, memory_problem, replace_grid
from distnewton.runs.setup import Setup

_SHOWN = 4
"""Most ranks that a note lists."""


class MovingPartition:
    """Watches the speeds of the ranks, and moves a run to a partition that suits them.

    Parameters
    ----------
    setup : Setup
        Data, network and ranks; a move replaces its grid and features.
    config : Config
        Settled configuration of the run.
    replay : bool
        Whether the run repeats another one.

    Raises
    ------
    ConfigError
        If the run cannot be moved: a residual problem, arrays on GPUs, files by columns, genotypes, or a replay.

    Notes
    -----
    All methods are collective; decisions come from records, which are the same on all ranks.
    """

    def __init__(self, setup: Setup, config: Config, *, replay: bool = False) -> None:
        refused = {
            "residual problems": setup.data.residuals is not None,
            "runs on GPUs": setup.placement.network.backend.memory_limit is not None,
            "files by columns, which other ranks do not see": setup.data.owners is not None,
            "genotypes": setup.data.train.packed,
            "replays, which repeat a run as it was": replay,
        }
        if any(refused.values()):
            named = ", ".join(name for name, applies in refused.items() if applies)
            raise ConfigError(f"partition.speeds = auto is not for {named}: use equal or measured", collective=True)
        self._setup, self._config = setup, config
        partition = setup.placement.grid.partition
        self._watch = SpeedWatch(partition.speeds or (1.0,) * partition.n_ranks)
        self._elapsed, self._speeds, self._note = 0.0, list[float](), ""
        # seconds that each rank should work beside the others, at the speeds by which the network was cut
        self._expected = np.ones(partition.n_ranks)
        method = config.method
        self._solves_apart = any(make_direction(options).stops_early for options in (*method.schedule, method))

    def is_due(self, record: IterationRecord) -> bool:
        """Decide whether the partition moves after an iteration.

        Parameters
        ----------
        record : IterationRecord
            Record of the iteration; the method is called once for each, in order.

        Returns
        -------
        bool
        """
        seconds, self._elapsed = record.training_seconds - self._elapsed, record.training_seconds
        if record.direction is None or not record.common_seconds:
            return False
        n = self._setup.placement.grid.size
        # where all ranks find the direction together, each does its work equally often
        worked = record.common_seconds if self._solves_apart else record.compute_seconds
        slowest = [max(worked[rank::n]) / self._expected[rank] for rank in range(n)]
        self._speeds = self._watch.look(slowest, seconds, self._config.run.n_iterations - record.iteration)
        return bool(self._speeds)

    def move(self, engine: Engine, best: BestModel | None) -> Engine:
        """Move a run to the partition that is due.

        Parameters
        ----------
        engine : Engine
            The engine that has trained the run; it must not be used afterwards unless it is returned.
        best : BestModel or None
            Follows the validation metric.

        Returns
        -------
        Engine
            The engine to continue with; `engine` itself where the partition stays, for want of memory or otherwise.
        """
        placement = self._setup.placement
        try:
            after, work = choose_partition(
                placement, self._config, self._setup.data, self._speeds, with_direction=not self._solves_apart
            )
        except ConfigError as error:
            self._note = f"the partition stays: {error}"
            return engine
        if _ownership(after) == _ownership(placement.grid.partition):
            # there is nothing more to take from a slow rank, however slow it is now
            after = placement.grid.partition
        moved = engine if after == placement.grid.partition else self.move_to(after, engine, best)
        if self._setup.placement.grid.partition == after:
            # a slow rank may be expected to work longer than the others, since part of the work cannot be shared
            seconds = np.array(work) / self._speeds
            self._expected = seconds / np.median(seconds)
        return moved

    def move_to(self, after: Partition, engine: Engine, best: BestModel | None) -> Engine:
        """Move a run to another partition of the same ranks."""
        start, setup, placement = time.perf_counter(), self._setup, self._setup.placement
        before = placement.grid.partition
        if problem := memory_problem(setup.comm, self._config, setup.data, placement, after):
            self._note = f"the partition stays: a second copy of the run does not fit ({problem})"
            return engine
        state = _move_setup(setup, self._config, after, engine.trainer.state())
        engine.schedule.free()
        network = setup.training.objective.network
        moved = make_engine(setup, self._config, network.backend.zeros(network.layout.n_params), best)
        moved.trainer.restore(state)
        placement.grid.free()
        seconds = float(setup.comm.allgather(np.array([time.perf_counter() - start])).max())
        moved.trainer.pass_time(seconds)
        self._note = f"partition moved in {seconds:.2g} s: {_shares(before, after)}"
        if before.cut_of_blocks != after.cut_of_blocks and self._solves_apart:
            self._note += "; this changes the blocks that are solved separately (partition.blocks would keep them)"
        return moved

    def announce(self, record: IterationRecord) -> None:
        """Add a note about a move to the first record after it."""
        record.note = "; ".join(filter(None, [self._note, record.note]))
        self._note = ""


def _move_setup(setup: Setup, config: Config, after: Partition, state: State) -> State:
    """Replace the partition of a setup; exchange features and state between the ranks."""
    old, training = setup.placement, setup.training
    objective, before, scaling = training.objective, old.grid.partition, gather_scaling(old.grid, training.scaling)
    setup.placement = replace_grid(old, config, setup.comm, after)
    grid = setup.placement.grid
    # variables and training features may cover only the features that occur in some sample
    network = objective.network.on(setup.placement.network)
    own = objective.network.grid.partition, network.grid.partition, grid.comm
    masks = {} if objective.penalised is None else {"penalised": objective.penalised}
    moved = move_state(State(vectors=masks, parts={"trainer": state}), *own)
    objective = objective.on(network, move_columns(objective.X, *own), moved.vectors.get("penalised"))
    setup.training = replace(training, objective=objective, scaling=scaling.columns(*grid.feature_range()))
    for held in setup.data.held_out.values():
        held.X = move_columns(held.X, before, after, grid.comm)
    return moved.parts["trainer"]


def _ownership(partition: Partition) -> list[list[Block]]:
    """List the blocks of each rank."""
    return [partition.blocks(rank) for rank in range(partition.n_ranks)]


def _shares(before: Partition, after: Partition) -> str:
    """Describe what ranks own of the variables before and after: each slow rank, and the mean of the others."""
    owned = np.array([[p.n_params(rank) for rank in range(p.n_ranks)] for p in (before, after)], dtype=float)
    percent = 100.0 * owned / owned.sum(axis=1, keepdims=True)
    slow = np.any([np.array(p.speeds or (1.0,) * p.n_ranks) < 1.0 for p in (before, after)], axis=0)
    ranks = np.flatnonzero(slow).tolist()
    shown = [f"rank {r} owns {percent[1, r]:.3g} % of the variables ({percent[0, r]:.3g} % before)" for r in ranks]
    shown = [*shown[:_SHOWN], *([f"{len(shown) - _SHOWN} more slow ranks"] if len(shown) > _SHOWN else [])]
    if not slow.all():
        old, new = percent[:, ~slow].mean(axis=1)
        shown.append(f"the others {new:.3g} % each ({old:.3g} %)")
    cut = "" if before.splits == after.splits else f"splits {splits_title(after.splits)}, "
    return cut + ", ".join(shown)
