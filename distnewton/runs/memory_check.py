"""Refuse, before data is read, a run that does not fit the memory of its hosts, and say how many ranks would fit."""

from __future__ import annotations

import math
import platform
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from distnewton.config import Config
from distnewton.data.description import Description
from distnewton.directions.composition import make_direction
from distnewton.errors import ConfigError
from distnewton.frozen import frozen
from distnewton.launch.host_memory import free_memory
from distnewton.method.schedule import curvature_rows
from distnewton.network.shapes import NetworkShape
from distnewton.parallel.collectives import Communicator
from distnewton.parallel.partition import Partition
from distnewton.planning.memory import iteration_memory
from distnewton.planning.messages import widest_kept
from distnewton.planning.problem import Problem, Share
from distnewton.planning.splits import auto_splits
from distnewton.runs.data_size import nonzeros_of

# share of the free memory that a run may take
SHARE = 0.95
_MOST_RANKS = 4096
_SHOWN = 8
_ADVICE = (
    "reduce run.memory_mb (activations), method.subsample or method.sketch (jacobian), data.n_train, or run.dtype to "
    "float32. --set run.checks= skips this check"
)


@frozen
class PlannedRun:
    """The inputs from which the memory of a run is predicted, besides its partition."""

    config: Config  # settings
    shape: NetworkShape  # layers
    train: Description  # training data
    n_test: int  # number of test samples
    dense: bool  # whether features are held as a dense array
    keeps_best: bool = False  # whether a copy of the best model is kept

    def parts(self, partition: Partition, rank: int) -> dict[str, float]:
        """Predict the bytes that a rank of a grid holds, by part."""
        config, itemsize = self.config, np.dtype(self.config.run.array_dtype).itemsize
        R = config.partition.replicas
        n_samples, memory = config.data.n_train or self.train.n_samples, config.run.memory_mb * 2**20
        nonzeros = nonzeros_of(self.train, dense=self.dense)
        shares = [Share(self.shape, partition, r) for r in range(partition.n_ranks)]
        worst: dict[str, float] = {}
        for options in (*config.method.schedule, config.method):
            n, n_rows = curvature_rows(options, self.shape, partition, n_samples, itemsize, memory, R)
            own, n_test = -(-n_samples // R), -(-self.n_test // R)
            problem = Problem(
                self.shape, own, n, n_rows, itemsize, memory, n_test, nonzeros=nonzeros, packed=self.train.packed
            )
            needed = iteration_memory(problem, shares[rank], widest_kept(problem, shares))
            n_ranks, direction = partition.n_ranks * R, make_direction(options)
            needed["system"] = direction.system_bytes(n * R * n_rows, itemsize, n_ranks, self.shape.n_params)
            blocks = [block for number in partition.numbers(rank) for block in partition.logical.blocks(number)]
            needed["factors"] = itemsize * sum(direction.factor_size(self.shape, block) for block in blocks)
            worst = max(worst, needed, key=lambda parts: sum(parts.values()))
        if self.keeps_best:
            worst = {**worst, "best model": float(partition.n_params(rank) * itemsize)}
        return worst

    def smallest(self, n_ranks: int, limit: float) -> int | None:
        """Find the least number of ranks of a grid, above one that is too few, that need at most `limit` bytes each."""

        def fits(n: int) -> bool:
            partition = self.shape.partition(auto_splits(self.shape, n))
            return sum(self.parts(partition, 0).values()) <= limit

        few, many = n_ranks, 2 * n_ranks
        while many <= _MOST_RANKS and not fits(many):
            few, many = many, 2 * many
        if many > _MOST_RANKS:
            return None
        while many - few > 1:
            middle = (few + many) // 2
            few, many = (few, middle) if fits(middle) else (middle, many)
        return many


def check_device_memory(comm: Communicator, run: PlannedRun, partition: Partition, limit: int | None) -> None:
    """Refuse a run whose predicted arrays exceed the memory of its GPUs."""
    # the limit is in bytes; on the CPU it is None, on all ranks alike. The rest is collective
    if limit is None:
        return
    needed = sum(run.parts(partition, comm.rank % partition.n_ranks).values())
    views = comm.allgather(np.array([needed, float(limit)]))
    rank = int(np.argmax(views[:, 0] / views[:, 1]))
    needed, room = views[rank] / 1e9
    if needed > room:
        raise ConfigError(
            f"rank {rank} needs {needed:.3g} GB on its GPU, of which it may take {room:.3g} GB: use more ranks, each "
            f"with its own GPU, or {_ADVICE}",
            collective=True,
        )


def check_memory_fits(comm: Communicator, run: PlannedRun, partition: Partition) -> None:
    """Refuse a run whose predicted memory exceeds the free memory of its hosts.

    Parameters
    ----------
    comm : Communicator
        All ranks.
    run : PlannedRun
        Sizes of data, network and method.
    partition : Partition
        Of these ranks.

    Raises
    ------
    ConfigError
        On every rank alike, with a table of the ranks and the number of ranks that would fit.

    Notes
    -----
    Collective: one gather of short texts.
    """
    parts = run.parts(partition, comm.rank % partition.n_ranks)
    views = comm.allgather_json([platform.node(), min(free_memory(), 2.0**62), parts])
    needed: dict[str, float] = defaultdict(float)
    free: dict[str, float] = {}
    for host, available, by_part in views:
        needed[host] += sum(by_part.values())
        free[host] = min(available, free.get(host, math.inf))
    tight = [host for host in needed if needed[host] > SHARE * free[host]]
    if not tight:
        return
    host = max(tight, key=lambda name: needed[name] / free[name])
    n_on_host = math.ceil(comm.size / len(free))
    smallest = run.smallest(partition.n_ranks, SHARE * min(free.values()) / n_on_host)
    if smallest is None:
        largest = max(parts, key=lambda name: parts[name])
        way = f"no number of ranks up to {_MOST_RANKS} would fit with {n_on_host} a host; {largest} takes the most"
    else:
        n = smallest * run.config.partition.replicas
        way = (
            f"{n} ranks would fit, {n_on_host} on each of {math.ceil(n / n_on_host)} hosts with as much memory as "
            "these"
        )
    raise ConfigError(
        f"the run needs {needed[host] / 1e9:.2f} GB on {host}, which has {free[host] / 1e9:.2f} GB free:\n"
        + "\n".join(_table([by_part for _, _, by_part in views]))
        + f"\n{way}. To need less, {_ADVICE}",
        collective=True,
    )


def _table(needed: Sequence[dict[str, float]]) -> Iterator[str]:
    """Yield lines on the ranks that need most: rank, total GB, and GB by part."""
    names = list(needed[0])
    yield f"{'rank':>6} {'total':>9} " + " ".join(f"{name:>11}" for name in names)
    order = np.argsort([-sum(by_part.values()) for by_part in needed], kind="stable")
    for rank in sorted(order[:_SHOWN].tolist()):
        by_part = needed[rank]
        numbers = [f"{by_part[name] / 1e9:>11.2f}" for name in names]
        yield f"{rank:>6} {sum(by_part.values()) / 1e9:>9.2f} " + " ".join(numbers)
    if len(needed) > _SHOWN:
        yield f"  ... and {len(needed) - _SHOWN} ranks that need no more"
