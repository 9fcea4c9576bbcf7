"""Predict an iteration on a number of ranks for each way to split the network, and find the best one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from distnewton.curvature.sketch import auto_sketch
from distnewton.errors import ConfigError
from distnewton.frozen import frozen
from distnewton.network.shapes import LayerShape, NetworkShape, dense_shape
from distnewton.parallel.cuts import FileOwners
from distnewton.parallel.partition import Partition, regular_splits, splits_title
from distnewton.parallel.replicas import ranks_of_a_grid
from distnewton.planning.memory import iteration_memory
from distnewton.planning.messages import Message, Messages, widest_kept
from distnewton.planning.problem import Problem, Share
from distnewton.planning.rates import Rates
from distnewton.planning.splits import auto_splits
from distnewton.planning.work import Work

_MOST_BLOCKS = 1_000_000
"""Largest number of blocks (ranks x layers x plans) to examine, which takes some ten seconds."""


@frozen
class Forecast:
    """A phase of an iteration on the rank with the most work.

    Attributes
    ----------
    compute, latency, transfer : float
        Seconds of its own work, of the latencies of its messages, and of transferring their bytes.
    sent_bytes : float
        Bytes that it sends.
    n_messages : int
        Number of sums that it takes part in.
    """

    compute: float
    latency: float
    transfer: float
    sent_bytes: float
    n_messages: int

    @classmethod
    def of(cls, compute: float, messages: Sequence[Message], rates: Rates) -> Forecast:
        """Make the forecast of a phase from its seconds of work and its messages."""
        times = [rates.transfer(message) for message in messages]
        return cls(
            compute,
            sum(latency for latency, _ in times),
            sum(transfer for _, transfer in times),
            sum(message.sent_bytes for message in messages),
            sum(message.n_calls for message in messages),
        )

    @property
    def seconds(self) -> float:
        """Total seconds, since nothing overlaps."""
        return self.compute + self.latency + self.transfer


@frozen
class Plan:
    """The predicted cost of an iteration with given splits.

    Attributes
    ----------
    problem : Problem
        Problem of the iteration.
    partition : Partition
        Partition of each replica of the grid.
    phases : dict of str to Forecast
        Forecast of each phase.
    memory : dict of str to float
        Bytes on a rank, by part.
    n_idle : int
        Number of ranks without variables, over all replicas.
    """

    problem: Problem
    partition: Partition
    phases: dict[str, Forecast]
    memory: dict[str, float]
    n_idle: int

    @property
    def splits(self) -> tuple[int, ...]:
        """Groups of each layer."""
        return self.partition.splits

    @property
    def n_replicas(self) -> int:
        """Number of copies of the grid."""
        return self.problem.n_replicas

    @property
    def n_ranks(self) -> int:
        """Number of ranks of all replicas."""
        return self.n_replicas * self.partition.n_ranks

    @property
    def title(self) -> str:
        """Splits, with the number of replicas if there are several: ``2 x 4-1-4``."""
        return splits_title(self.splits, self.n_replicas, self.partition.block_splits)

    @property
    def seconds(self) -> float:
        """Seconds of an iteration, including evaluation."""
        return sum(phase.seconds for phase in self.phases.values())

    @property
    def memory_bytes(self) -> float:
        """Bytes that a rank holds."""
        return sum(self.memory.values())

    @property
    def sent_bytes(self) -> float:
        """Bytes that a rank sends in an iteration."""
        return sum(phase.sent_bytes for phase in self.phases.values())

    @property
    def n_messages(self) -> int:
        """Number of sums in an iteration."""
        return sum(phase.n_messages for phase in self.phases.values())

    def total(self, part: str) -> float:
        """Add up the seconds of an iteration in ``compute``, ``latency`` or ``transfer``."""
        return float(sum(getattr(phase, part) for phase in self.phases.values()))

    def limits(self) -> str:
        """Say what limits the iteration, in a sentence."""
        totals = {part: self.total(part) for part in ("compute", "latency", "transfer")}
        part = max(totals, key=lambda name: totals[name])
        phase = max(self.phases, key=lambda name: getattr(self.phases[name], part))
        named = {
            "compute": "computing",
            "latency": "latency: blocks are small, so messages mostly wait; fewer ranks would be almost as fast",
            "transfer": "bytes between ranks: wider layers, fewer ranks or a faster network would help",
        }[part]
        within = getattr(self.phases[phase], part) / max(1e-300, totals[part])
        share = totals[part] / max(1e-300, self.seconds)
        text = f"{share:.0%} of an iteration is {named} ({within:.0%} of it in the phase {phase})"
        if self.n_idle:
            text += f"; {self.n_idle} of {self.n_ranks} ranks own nothing: the layers are too narrow for them"
        return text


def make_plan(
    problem: Problem,
    splits: Sequence[int],
    rates: Rates,
    *,
    sketch: int | None = None,
    n_replicas: int = 1,
    speeds: Sequence[float] = (),
) -> Plan:
    """Predict an iteration with given splits.

    Parameters
    ----------
    problem : Problem
        Problem of the iteration, with all samples.
    splits : sequence of int
        Groups of layers 0..L, of each replica of the grid.
    rates : Rates
        Rates of the ranks.
    sketch : int or None
        Number of random cotangents of a sample, 0 for all outputs; None chooses as a run does.
    n_replicas : int
        Number of copies of the grid, each with its share of the samples.
    speeds : sequence of float
        Relative speed of each rank of a grid, to which block sizes are proportional; empty if all have the rates.

    Returns
    -------
    Plan
    """
    partition = problem.shape.partition(splits, speeds, problem.blocks, problem.owners)
    problem = problem.shared(n_replicas)
    check_size(partition.n_ranks, problem.shape)
    if sketch is None:
        sizes = problem.n_curvature, problem.itemsize, problem.memory_bytes
        sketch = auto_sketch(problem.shape, partition.logical, *sizes)
    problem = replace(problem, n_rows=min(sketch or problem.n_out, problem.n_out))
    shares = [Share(problem.shape, partition, rank) for rank in range(partition.n_ranks)]
    width = widest_kept(problem, shares)
    busiest = max(shares, key=lambda share: (share.n_kept(problem.itemsize), share.n_params))
    messages = Messages(problem, busiest, width)
    compute = _slowest_work(problem, shares, busiest, rates, messages)
    phases = {phase: Forecast.of(compute[phase], sent, rates) for phase, sent in messages.by_phase().items()}
    n_idle = n_replicas * sum(share.n_params == 0 for share in shares)
    return Plan(problem, partition, phases, iteration_memory(problem, busiest, width), n_idle)


def check_size(n_ranks: int, shape: NetworkShape, n_plans: int = 1) -> None:
    """Refuse plans that would take minutes, since each plan examines the blocks of all ranks and layers.

    Parameters
    ----------
    n_ranks : int
        Ranks of a grid.
    shape : NetworkShape
        Layers.
    n_plans : int
        Number of plans.

    Raises
    ------
    ConfigError
        If there are too many blocks.
    """
    n_layers = len(shape.layers)
    if n_ranks * n_layers * n_plans > _MOST_BLOCKS:
        several = f" and {n_plans} ways to split" if n_plans > 1 else ""
        raise ConfigError(
            f"{n_ranks:,} ranks of a grid, {n_layers:,} layers{several} are too many to plan: their product may be "
            f"at most {_MOST_BLOCKS:,}; plan fewer ranks, more replicas (partition.replicas), or given splits",
            collective=True,
        )


def _slowest_work(
    problem: Problem, shares: list[Share], busiest: Share, rates: Rates, messages: Messages
) -> dict[str, float]:
    """Return the seconds of own work by phase, of the rank for which the others wait."""
    speeds = shares[0].partition.speeds
    if not speeds:
        return Work(problem, busiest, rates, messages.chunks).by_phase()
    slowest: dict[str, float] = {}
    for share in shares:
        for phase, seconds in Work(problem, share, rates, messages.chunks).by_phase().items():
            slowest[phase] = max(slowest.get(phase, 0.0), seconds / speeds[share.rank])
    return slowest


def candidates(
    shape: NetworkShape, n_ranks: int, *, density: float | None = None, blocks: tuple[int, ...] = (),
    owners: FileOwners | None = None,
) -> list[tuple[int, ...]]:  # fmt: skip
    """List the splits to compare: all regular grids, and the splits that suit each layer.

    Parameters
    ----------
    shape : NetworkShape
        Layers.
    n_ranks : int
        Ranks.
    density : float or None
        Share of nonzeros in sparse features; None for dense.
    blocks : tuple of int
        Groups of the logical blocks, of which each rank owns whole ones; empty if each rank is a block.
    owners : FileOwners or None
        Ranks that own each file by columns, which the splits of the features must respect.

    Returns
    -------
    list of tuple of int

    Raises
    ------
    ConfigError
        If this number of ranks cannot share the blocks.
    """
    n_layers = len(shape.layers)
    best = auto_splits(shape, n_ranks, density=density, owners=owners)
    listed = list(dict.fromkeys([best, *regular_splits(n_ranks, n_layers)]))
    if owners is not None:
        return [splits for splits in listed if owners.suits(splits)]
    if not blocks:
        return listed
    sharing = [splits for splits in dict.fromkeys([blocks, *listed]) if _can_share(shape, blocks, splits, n_ranks)]
    if not sharing:
        n_blocks = shape.partition(blocks).n_ranks
        numbers = [
            n for n in range(1, n_blocks + 1)
            if any(_can_share(shape, blocks, splits, n) for splits in [blocks, *regular_splits(n, n_layers)])
        ]  # fmt: skip
        raise ConfigError(
            f"{n_ranks} ranks cannot share partition.blocks = {splits_title(blocks)}: each must own whole blocks; "
            f"these numbers can: {', '.join(map(str, numbers))}",
            collective=True,
        )
    return sharing


def _can_share(shape: NetworkShape, blocks: tuple[int, ...], splits: tuple[int, ...], n_ranks: int) -> bool:
    """Whether splits give this number of ranks whole blocks."""
    try:
        return shape.partition(splits, (), blocks).n_ranks == n_ranks
    except ConfigError:
        return False


def make_plans(
    problem: Problem,
    n_ranks: int,
    rates: Rates,
    *,
    sketch: int | None = None,
    n_replicas: int = 1,
    speeds: Sequence[float] = (),
) -> list[Plan]:
    """Plan all candidates, the fastest first; among equals, the one that sends fewer bytes.

    Parameters
    ----------
    problem, rates, sketch, n_replicas, speeds
        See :func:`make_plan`.
    n_ranks : int
        Ranks of all replicas.

    Returns
    -------
    list of Plan
    """
    density = None if problem.nonzeros is None else problem.nonzeros / max(1, problem.shape.widths[0])
    n = ranks_of_a_grid(n_ranks, n_replicas)
    check_size(n, problem.shape)
    splits_to_try = candidates(problem.shape, n, density=density, blocks=problem.blocks, owners=problem.owners)
    check_size(n, problem.shape, len(splits_to_try))
    listed = [
        make_plan(problem, splits, rates, sketch=sketch, n_replicas=n_replicas, speeds=speeds)
        for splits in splits_to_try
    ]
    return sorted(listed, key=lambda plan: (plan.seconds, plan.sent_bytes))


def widened(shape: NetworkShape, factor: float) -> NetworkShape:
    """Scale the number of units of a network's hidden layers.

    Parameters
    ----------
    shape : NetworkShape
        Layers.
    factor : float
        Factor of at least 0; every layer keeps at least one unit.

    Returns
    -------
    NetworkShape
        Network with the same inputs and outputs.
    """
    widths = [shape.widths[0], *(max(1, round(factor * n)) for n in shape.widths[1:-1]), shape.widths[-1]]
    if shape.image_shape is None:
        return dense_shape(widths)
    layers = [
        LayerShape(n_in, n_out, layer.image_in, layer.kernel, layer.pooling)
        for n_in, n_out, layer in zip(widths, widths[1:], shape.layers, strict=False)
    ]
    return NetworkShape(tuple(layers), shape.listed)


def largest(problem: Problem, memory_bytes: float, plans: Callable[[Problem], Sequence[Plan]]) -> Plan | None:
    """Find the plan with the widest hidden layers whose memory fits a rank.

    Parameters
    ----------
    problem : Problem
        Problem, whose hidden layers are all widened or narrowed by the same factor.
    memory_bytes : float
        Memory of a rank.
    plans : callable
        Takes a problem and returns its plans, the fastest first.

    Returns
    -------
    Plan or None
        The fastest plan that fits; None if none fits or there is no hidden layer.
    """
    if len(problem.shape.layers) < 2:
        return None

    def fits(factor: float) -> Plan | None:
        candidates = plans(replace(problem, shape=widened(problem.shape, factor)))
        return next((plan for plan in candidates if plan.memory_bytes <= memory_bytes), None)

    low, high, found = 0.0, 1.0, fits(0.0)
    if found is None:
        return None
    while (plan := fits(high)) is not None and high < _WIDEST:
        low, high, found = high, 2 * high, plan
    while high - low > 0.01 * high:
        middle = 0.5 * (low + high)
        plan = fits(middle)
        if plan is None:
            high = middle
        else:
            low, found = middle, plan
    return found


_WIDEST = 2.0**20
"""Factor at which the search for the widest network ends."""
