"""A partition that moves while a run goes on: a rank that stays slow is given less of the network, and its features.

What a checkpoint does through files, from one grid to another, is done by messages between the same ranks: variables,
what directions and steps carry along, and the features. Weights and samples are functions of global indices, so that
the run goes on as it would have, to rounding; only blocks that follow the ranks are other blocks then.
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
from distnewton.parallel.partition import Partition, splits_title
from distnewton.runs.engine import Engine, make_engine
from distnewton.runs.placement import choose_partition, memory_problem, replace_grid
from distnewton.runs.setup import Setup

_SHOWN = 4
"""Ranks in a note."""


class MovingPartition:
    """Watches the speeds of ranks, and moves a run to the partition that suits them.

    Parameters
    ----------
    setup : Setup
        Data, network and ranks, whose grid and features are exchanged.
    config : Config
        Of the run, settled.
    replay : bool
        Whether the run repeats another one.

    Raises
    ------
    ConfigError
        If the run cannot be moved: a residual problem, arrays on GPUs, or a replay.

    Notes
    -----
    All methods are collective; decisions come from records, which are the same on all ranks.
    """

    def __init__(self, setup: Setup, config: Config, *, replay: bool = False) -> None:
        refused = {
            "residual problems": setup.data.residuals is not None,
            "runs on GPUs": setup.placement.network.backend.memory_limit is not None,
            "files by columns, which others do not see": setup.data.owners is not None,
            "genotypes": setup.data.train.packed,
            "replays, which repeat a run as it was": replay,
        }
        if any(refused.values()):
            named = ", ".join(name for name, applies in refused.items() if applies)
            raise ConfigError(f"partition.speeds = auto is not for {named}: take equal or measured", collective=True)
        self._setup, self._config = setup, config
        partition = setup.placement.grid.partition
        self._watch = SpeedWatch(partition.speeds or (1.0,) * partition.n_ranks)
        self._elapsed, self._speeds, self._note = 0.0, list[float](), ""
        method = config.method
        self._solves_apart = any(make_direction(options).stops_early for options in (*method.schedule, method))

    def is_due(self, record: IterationRecord) -> bool:
        """Whether the partition moves after an iteration.

        Parameters
        ----------
        record : IterationRecord
            Of the iteration, each in turn.

        Returns
        -------
        bool
        """
        seconds, self._elapsed = record.training_seconds - self._elapsed, record.training_seconds
        if record.direction is None or not record.common_seconds:
            return False
        n = self._setup.placement.grid.size
        # a direction that ranks find together is work that all do as often
        worked = record.common_seconds if self._solves_apart else record.compute_seconds
        slowest = [max(worked[rank::n]) for rank in range(n)]
        self._speeds = self._watch.look(slowest, seconds, self._config.run.n_iterations - record.iteration)
        return bool(self._speeds)

    def move(self, engine: Engine, best: BestModel | None) -> Engine:
        """Take a run to the partition that is due.

        Parameters
        ----------
        engine : Engine
            What trained it until now; of no use afterwards, unless it is returned, where memory is too short.
        best : BestModel or None
            Follows the validation metric.

        Returns
        -------
        Engine
        """
        placement = self._setup.placement
        try:
            after = choose_partition(placement, self._config, self._setup.data, self._speeds)
        except ConfigError as error:
            self._note = f"the partition stays: {error}"
            return engine
        return engine if after == placement.grid.partition else self.move_to(after, engine, best)

    def move_to(self, after: Partition, engine: Engine, best: BestModel | None) -> Engine:
        """Take a run to a partition of the same ranks."""
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
            self._note += "; the blocks that are solved apart are others now (partition.blocks keeps them)"
        return moved

    def announce(self, record: IterationRecord) -> None:
        """Note in the first record after a move what has moved."""
        record.note = "; ".join(filter(None, [self._note, record.note]))
        self._note = ""


def _move_setup(setup: Setup, config: Config, after: Partition, state: State) -> State:
    """Lay another partition over the ranks of a setup, and exchange features and state."""
    old, training = setup.placement, setup.training
    objective, before, scaling = training.objective, old.grid.partition, gather_scaling(old.grid, training.scaling)
    setup.placement = replace_grid(old, config, setup.comm, after)
    grid = setup.placement.grid
    # variables and training features may be those of the features that some sample has
    network = objective.network.on(setup.placement.network)
    own = objective.network.grid.partition, network.grid.partition, grid.comm
    masks = {} if objective.penalised is None else {"penalised": objective.penalised}
    moved = move_state(State(vectors=masks, parts={"trainer": state}), *own)
    objective = objective.on(network, move_columns(objective.X, *own), moved.vectors.get("penalised"))
    setup.training = replace(training, objective=objective, scaling=scaling.columns(*grid.feature_range()))
    for held in setup.data.held_out.values():
        held.X = move_columns(held.X, before, after, grid.comm)
    return moved.parts["trainer"]


def _shares(before: Partition, after: Partition) -> str:
    """What ranks own of the variables before and after: the slow ones, and the others in the mean."""
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
