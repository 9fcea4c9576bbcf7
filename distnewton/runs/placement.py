"""The network of a run, placed on its ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from distnewton.config import Config
from distnewton.data.partitioned import keep_dense
from distnewton.errors import ConfigError, DataError
from distnewton.frozen import frozen
from distnewton.launch.devices import Device, choose_device
from distnewton.launch.speeds import measured_speeds, speeds_of_grid
from distnewton.method.schedule import check_memory, check_samples
from distnewton.models.architecture import Architecture, image_problem
from distnewton.network.network import PartitionedNetwork
from distnewton.network.shapes import NetworkShape
from distnewton.parallel.collectives import Communicator
from distnewton.parallel.grid import ProcessGrid
from distnewton.parallel.partition import Partition, as_splits
from distnewton.parallel.replicas import SampleShare, ranks_of_a_grid
from distnewton.planning.plan import make_plans
from distnewton.planning.rates import Rates
from distnewton.planning.shares import suitable_shares
from distnewton.runs.data_sets import DataSets
from distnewton.runs.data_size import DataSize, nonzeros_of
from distnewton.runs.memory_check import PlannedRun, check_device_memory, check_memory_fits
from distnewton.runs.planned import problem_of_replica


@frozen
class Placement:
    """The network of a run on its ranks and devices."""

    device: Device  # device of this rank
    grid: ProcessGrid  # ranks and their blocks
    share: SampleShare  # training samples of this rank's replica
    network: PartitionedNetwork  # the network on the grid
    architecture: Architecture  # layers, task and dtype, resolved


def place_network(comm: Communicator, config: Config, data: DataSets) -> Placement:
    """Partition the network of a configuration over the ranks.

    Parameters
    ----------
    comm : Communicator
        All ranks.
    config : Config
        Layers, splits, replicas and device.
    data : DataSets
        Data sets whose sizes decide the widths of input and output, and whether the run fits.

    Returns
    -------
    Placement

    Raises
    ------
    ConfigError
        If the network cannot be partitioned as configured, or does not fit the memory.
    DataError
        If images have another shape than the network takes.

    Notes
    -----
    Collective.
    """
    shape = _resolve_shape(config, data)
    # patches are gathered from dense images
    dense = keep_dense(data.train) or shape.image_shape is not None
    n_replicas = config.partition.replicas
    n_ranks = ranks_of_a_grid(comm.size, n_replicas)
    speeds = _choose_speeds(comm, config, n_ranks)
    splits = _choose_splits(comm, config, shape, data, speeds, _size_of(data, dense=dense))
    run = config.run
    device = choose_device(comm, _device_name(config, data), run.array_dtype, run.comm, tf32=run.dtype == "tf32")
    check_memory(config, data.n_train, data.task.n_out, comm.size, shape.n_params)
    check_samples(config.method, data.n_train, n_replicas)
    partition = shape.partition(splits, speeds, config.partition.logical(shape), data.owners)
    grid = ProcessGrid(comm, partition, n_replicas, rounded=run.compress == "bfloat16")
    if "memory" in run.checks:
        sizes = _planned_run(config, data, shape, dense=dense)
        check_memory_fits(comm, sizes, grid.partition)
        check_device_memory(comm, sizes, grid.partition, device.backend.memory_limit)
    network = config.network
    return Placement(
        device,
        grid,
        SampleShare(data.n_train, n_replicas, grid.replica),
        PartitionedNetwork(grid, network.activation, device.backend, shape, run.overlap),
        Architecture(
            shape, network.activation, data.task, dense, run.array_dtype, network.loss, data.train.names,
            config.data.reading,
        ),
    )  # fmt: skip


def choose_partition(
    placement: Placement, config: Config, data: DataSets, speeds: Sequence[float], *, with_direction: bool
) -> tuple[Partition, list[float]]:
    """Choose another partition of a placed network, for other speeds of its ranks.

    Parameters
    ----------
    placement : Placement
        The network as it is placed.
    config : Config
        The run.
    data : DataSets
        The data of the run.
    speeds : sequence of float
        Relative speed of each rank of a grid, of which the fastest is 1.
    with_direction : bool
        Whether ranks wait for each other in the direction, too.

    Returns
    -------
    partition : Partition
        The one on which the slowest rank should end soonest.
    work : list of float
        Seconds that each rank would work on it at the speed of the fastest; alike on all ranks.

    Raises
    ------
    ConfigError
        If no partition fits.

    Notes
    -----
    Collective.
    """
    shape, world = placement.network.shape, placement.grid.world
    size = _size_of(data, dense=placement.architecture.dense)
    splits = _choose_splits(world, config, shape, data, speeds, size)
    problem = problem_of_replica(config, shape, size)
    shares, work = world.on_first(lambda: suitable_shares(problem, splits, speeds, with_direction=with_direction))
    return shape.partition(splits, shares, config.partition.logical(shape)), work


def replace_grid(placement: Placement, config: Config, comm: Communicator, partition: Partition) -> Placement:
    """Place the network on another partition of the same ranks; collective."""
    old = placement.network
    grid = ProcessGrid(comm, partition, placement.grid.n_replicas, rounded=config.run.compress == "bfloat16")
    network = PartitionedNetwork(grid, old.activation.name, old.backend, old.shape, config.run.overlap)
    return replace(placement, grid=grid, network=network)


def memory_problem(comm: Communicator, config: Config, data: DataSets, placement: Placement, after: Partition) -> str:
    """Say why a second partition does not fit the hosts' memory; empty if it fits or is not checked."""
    if "memory" not in config.run.checks:
        return ""
    sizes = _planned_run(config, data, placement.network.shape, dense=placement.architecture.dense)
    try:
        check_memory_fits(comm, sizes, after)
    except ConfigError as error:
        return str(error).partition("\n")[0].removesuffix(":")
    return ""


def _planned_run(config: Config, data: DataSets, shape: NetworkShape, *, dense: bool) -> PlannedRun:
    """Collect what the memory of a run depends on, besides its partition."""
    n_held_out = sum(description.n_samples for description in data.descriptions.values())
    carried = shape if data.residuals is None else shape.with_jet(data.residuals.jet)
    return PlannedRun(config, carried, data.train, n_held_out, dense, "validation" in data.held_out)


def _resolve_shape(config: Config, data: DataSets) -> NetworkShape:
    """Resolve the sizes of the layers, which all data sets must fit."""
    shape = config.network.shape(data.train.n_features, data.train.image_shape, data.task.n_out)
    for description in (data.train, *data.descriptions.values()):
        if (problem := image_problem(shape, description)) is not None:
            raise DataError(problem, collective=True)
    return shape


def _device_name(config: Config, data: DataSets) -> str:
    """Return the configured device, or the CPU for genotypes: they stay packed, and only the CPU decodes them."""
    if not data.train.packed:
        return config.run.device
    if config.run.device == "gpu":
        raise ConfigError(f"{data.train.name} has genotypes, which need run.device = cpu", collective=True)
    return "cpu"


def _choose_speeds(comm: Communicator, config: Config, n_ranks: int) -> list[float]:
    """Return the relative speeds of the ranks of a grid, given or measured; empty for equal ones."""
    given = config.partition.speeds
    if given == "measured":
        given = measured_speeds(comm)
    # auto begins with equal speeds
    return [] if isinstance(given, str) else speeds_of_grid(given, n_ranks, config.partition.replicas)


def _size_of(data: DataSets, *, dense: bool) -> DataSize:
    """Return the sizes of the training data that decide how the network is partitioned."""
    nonzeros = nonzeros_of(data.train, dense=dense)
    return DataSize(data.n_train, data.train.n_features, data.task.n_out, nonzeros=nonzeros)


def _choose_splits(
    comm: Communicator,
    config: Config,
    shape: NetworkShape,
    data: DataSets,
    speeds: Sequence[float],
    size: DataSize,
) -> tuple[int, ...]:
    """Return the configured splits, or those that the plan predicts to be fastest."""
    if config.partition.splits != "auto":
        return as_splits(config.partition.splits)
    n_ranks = ranks_of_a_grid(comm.size, config.partition.replicas)
    uneven = speeds if len(set(speeds)) > 1 else []

    def fastest() -> tuple[int, ...]:
        problem = problem_of_replica(config, shape, size, data.owners)
        return make_plans(problem, n_ranks, Rates(), speeds=uneven)[0].splits

    # different processors round differently, and could choose differently
    return tuple(comm.on_first(fastest))
