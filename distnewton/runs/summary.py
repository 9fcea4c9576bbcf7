"""Summary, observers and result of a run."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from distnewton.config import Config
from distnewton.data.description import Description
from distnewton.data.partitioned import Task
from distnewton.frozen import frozen
from distnewton.launch.deadline import Stop
from distnewton.launch.startup import mpi_library
from distnewton.launch.threads import n_cores
from distnewton.method.best_model import Best
from distnewton.method.records import IterationRecord
from distnewton.models.architecture import Architecture
from distnewton.models.model import Model
from distnewton.network.shapes import NetworkShape
from distnewton.parallel.partition import Partition
from distnewton.runs.history import History
from distnewton.runs.notes import notes_of_run
from distnewton.runs.setup import Setup


@frozen
class Machine:
    """The ranks of a run and their devices; replicated.

    Attributes
    ----------
    n_ranks, n_threads, n_cores : int
        Number of ranks of all replicas, of BLAS threads of each, and of cores that all of them may use together.
    n_replicas : int
        Copies of the process grid, each with its share of the samples.
    mpi_library : str
        Version text of the MPI library, empty without MPI.
    hosts : list of str
        Host of each rank.
    devices : list of str
        Device of each rank, in words: ``CPU``, or its GPU.
    device_transport : str
        How arrays on GPUs are summed; empty on the CPU.
    """

    n_ranks: int
    n_threads: int
    n_cores: int
    n_replicas: int
    mpi_library: str
    hosts: list[str]
    devices: list[str]
    device_transport: str

    @property
    def crowding(self) -> float:
        """Number of ranks that share a core, at least 1."""
        return max(1.0, self.n_ranks / self.n_cores)


@dataclass
class RunSummary:
    """Facts about a run that are known before its first iteration; replicated.

    Attributes
    ----------
    config : Config
        Settings of the run.
    train, validation, test : Description
        Sizes and labels of the data sets; None for a set that the run does not have.
    architecture : Architecture
        Layers, task and dtype, resolved.
    partition : Partition
        Units and splits, resolved.
    machine : Machine
        Ranks, threads and devices.
    transport : str
        How ranks announce that they have finished a direction; empty without early termination.
    checkpoint : IterationRecord or None
        Record of the checkpoint that the run continues from.
    notes : list of str
        Notes to the user: idle ranks, constant features, peculiarities of the files.
    """

    config: Config
    train: Description
    validation: Description | None
    test: Description | None
    architecture: Architecture
    partition: Partition
    machine: Machine
    transport: str = ""
    checkpoint: IterationRecord | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def task(self) -> Task:
        """Task and classes."""
        return self.architecture.task

    @property
    def shape(self) -> NetworkShape:
        """Layers, resolved."""
        return self.architecture.shape


class Observer(Protocol):
    """An object that follows a run on every rank, such as the progress display or the run folder."""

    def start(self, summary: RunSummary) -> None:
        """Take the summary, before the first iteration."""
        ...

    def iteration(self, record: IterationRecord) -> None:
        """Take the record of an iteration; the first one is that of the start, 0."""
        ...


@dataclass(repr=False)
class Result:
    """The result of training, on every rank.

    Attributes
    ----------
    model : Model
        The trained network; with validation data, that of the best iteration.
    history : History
        Sequence of records: of the start and each iteration, or of a resumed run from its checkpoint on.
    summary : RunSummary
        Summary of the run.
    stopped : Stop
        What stopped the run before its last iteration: the clock, a signal, or nothing.
    checkpoint : Path or None
        The checkpoint saved last, or the one that the run resumed from; None if there is none.
    predictions : dict
        Summary of the final predictions, on the test set if there is one: :func:`~.predictions.summarize`.
    best : Best or None
        The iteration that the model comes from; None without validation data.
    ended : str
        Why training ended before its last iteration, if neither the clock nor a signal stopped it.
    """

    model: Model
    history: History
    summary: RunSummary
    stopped: Stop = Stop.NO
    checkpoint: Path | None = None
    predictions: dict[str, Any] = field(default_factory=dict)
    best: Best | None = None
    ended: str = ""

    def __repr__(self) -> str:
        """Write task, layers, iteration, objective and metrics in a line or two."""
        last, task = self.last, self.summary.task
        sets = {"train": last.train, "validation": last.validation, "test": last.test}
        metrics = [f"{which} {name} {value:.4g}" for which, found in sets.items() for name, value in found.items()]
        ended = f" ({self.ended})" if self.ended else ""
        head = f"{task.name} with {self.summary.shape}, iteration {last.iteration}{ended}"
        return f"<Result: {head}, objective {last.objective:.6g}; {', '.join(metrics)}>"

    @property
    def last(self) -> IterationRecord:
        """Record of the last iteration."""
        return self.history[-1]


def summarize_run(
    setup: Setup,
    config: Config,
    transport: str = "",
    notes: Sequence[str] = (),
    resumed: IterationRecord | None = None,
) -> RunSummary:
    """Summarise a run, with notes on its data and partition.

    Parameters
    ----------
    setup : Setup
        Data, network and ranks.
    config : Config
        Settings of the run.
    transport : str
        How ranks announce that they have finished a direction.
    notes : sequence of str
        Notes on the method.
    resumed : IterationRecord or None
        Record of the checkpoint that the run continues from.

    Returns
    -------
    RunSummary

    Notes
    -----
    Collective.
    """
    data, placement, comm = setup.data, setup.placement, setup.comm
    device, grid, described = placement.device, placement.grid, data.descriptions
    machine = Machine(
        comm.size,
        setup.n_threads,
        n_cores(comm),
        grid.n_replicas,
        mpi_library(comm),
        comm.allgather_json(platform.node()),
        device.names,
        device.transport,
    )
    all_notes = [
        *device.notes,
        *notes,
        *data.train.notes,
        *(note for description in described.values() for note in description.notes),
        *notes_of_run(grid, config, data, setup.training),
    ]
    if resumed is not None and resumed.iteration >= config.run.n_iterations:
        all_notes.append(f"all {config.run.n_iterations} iterations are done: raise run.iterations to train on")
    return RunSummary(
        config,
        data.train,
        described.get("validation"),
        described.get("test"),
        placement.architecture,
        grid.partition,
        machine,
        transport,
        resumed,
        all_notes,
    )
