"""What a run is about, who follows it, and what it returns."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from distnewton.config import Config
from distnewton.config.method import MethodConfig
from distnewton.data.description import Description
from distnewton.data.partitioned import Task
from distnewton.launch.deadline import Stop
from distnewton.method.best_model import Best
from distnewton.method.records import IterationRecord
from distnewton.models.model import Model
from distnewton.network.shapes import NetworkShape
from distnewton.parallel.collectives import Communicator
from distnewton.parallel.partition import Partition
from distnewton.runs.held_out import HeldOut
from distnewton.runs.history import History

_MANY_CLASSES, _MANY_SHARE = 20, 0.1
"""More different numbers as labels, and a larger share of the samples, may be amounts."""


@dataclass
class RunSummary:
    """What a run is about, known before its first iteration; replicated.

    Attributes
    ----------
    config : Config
        As given.
    train, validation, test : Description
        Of the data sets; None for those that there are not.
    task : Task
        Task and classes.
    shape : NetworkShape
        Layers, resolved.
    partition : Partition
        Units and splits, resolved.
    n_ranks, n_threads : int
        Ranks of all replicas, and BLAS threads of each.
    mpi_library : str
        Version text of the MPI library, empty without MPI.
    hosts : list of str
        Host of each rank.
    n_replicas : int
        Copies of the grid of the partition, each with its share of the samples.
    transport : str
        How ranks tell each other that they have finished; empty without early termination.
    devices : list of str
        Of each rank, in words: ``CPU``, or its GPU.
    device_transport : str
        How sums of arrays on GPUs travel; empty on the CPU.
    resumed : int or None
        Iteration of the checkpoint that the run goes on from.
    notes : list of str
        What the user should know: idle ranks, constant features, peculiarities of the files.
    """

    config: Config
    train: Description
    validation: Description | None
    test: Description | None
    task: Task
    shape: NetworkShape
    partition: Partition
    n_ranks: int
    n_threads: int
    mpi_library: str
    hosts: list[str]
    n_replicas: int = 1
    transport: str = ""
    devices: list[str] = field(default_factory=list)
    device_transport: str = ""
    resumed: int | None = None
    notes: list[str] = field(default_factory=list)


class Observer(Protocol):
    """Something that follows a run on every rank: progress, the run folder, the caller's own."""

    def start(self, summary: RunSummary) -> None:
        """Before the first iteration."""
        ...

    def iteration(self, record: IterationRecord) -> None:
        """After each iteration, the start (0) included."""
        ...


@dataclass
class Result:
    """What training returns, on every rank.

    Attributes
    ----------
    model : Model
        The trained network; with validation data that of the best iteration.
    history : History
        Record of each iteration, the start included; of a run that was resumed from its checkpoint's on. A sequence.
    summary : RunSummary
        What the run was about.
    stopped : Stop
        What ended it before its last iteration, if anything: the clock, or a signal.
    checkpoint : Path or None
        The last that was saved, or that it went on from; None where there is none.
    predictions : dict
        How the model did at the end, on the test set where there is one: :func:`~.predictions.summarize`.
    best : Best or None
        The iteration of the model; None without validation data.
    ended : str
        Why training ended before its last iteration, where it was neither the clock nor a signal.
    """

    model: Model
    history: History
    summary: RunSummary
    stopped: Stop = Stop.NO
    checkpoint: Path | None = None
    predictions: dict[str, Any] = field(default_factory=dict)
    best: Best | None = None
    ended: str = ""

    @property
    def last(self) -> IterationRecord:
        """Record of the last iteration."""
        return self.history[-1]


def describe_run(
    comm: Communicator,
    config: Config,
    train: Description,
    held_out: Mapping[str, HeldOut],
    model: Model,
    n_threads: int,
    transport: str,
    notes: Sequence[str],
) -> RunSummary:
    """What a run is about, with the notes of its data and partition.

    Parameters
    ----------
    comm : Communicator
        All ranks.
    config : Config
        The run.
    train : Description
        Training data.
    held_out : mapping of str to HeldOut
        Validation and test data, as far as there are any.
    model : Model
        Network and scaling; its variables do not matter.
    n_threads : int
        BLAS threads of this rank.
    transport : str
        How ranks tell each other that they have finished.
    notes : sequence of str
        Of the method.

    Returns
    -------
    RunSummary

    Notes
    -----
    Collective.
    """
    others = [held.description for held in held_out.values()]
    task, grid = model.architecture.task, model.grid
    notes = [*notes, *train.notes, *(note for other in others for note in other.notes)]
    idle = grid.partition.idle_ranks()
    if idle:
        n_idle = len(idle) * grid.n_replicas
        notes.append(f"{n_idle} of {comm.size} ranks own no variable: more ranks than these layers can use")
    (n_constant,) = grid.sum_of_variables(model.scaling.n_constant * grid.first_of_feature_group())
    if n_constant:
        notes.append(f"{n_constant:.0f} features are constant and are scaled to 0")
    if task.classes is not None and any(isinstance(label, str) for label in task.classes.classes):
        named = [f"{k} = {label}" for k, label in enumerate(task.classes.classes)]
        more = f", ... ({len(named)} in all)" if len(named) > 10 else ""
        notes.append(f"classes: {', '.join(named[:10])}{more}")
    n_train = config.data.n_train or train.n_samples
    if task.classes is not None and (n_amounts := _amounts(task.classes.classes, train.n_samples)):
        notes.append(
            f"{n_amounts} different numbers are taken for classes; to approximate numbers set network.loss = squared"
        )
    if n_train < config.method.subsample_min != MethodConfig.model_fields["subsample_min"].default:
        notes.append(f"method.subsample_min is more than the {n_train} samples there are: all are used")
    for which, held in held_out.items():
        other = held.description
        if other.n_ignored_values:
            notes.append(
                f"{other.name}: ignored {other.n_ignored_values} values of features that the training data does not "
                "have"
            )
        unseen = task.classes.unseen(other.labels) if task.classes else {}
        if unseen:
            shown = ", ".join(f"'{label}' ({n})" for label, n in unseen.items())
            notes.append(f"{which} labels that never occur in training count as wrong: {shown}")
    found = {which: held.description for which, held in held_out.items()}
    return RunSummary(
        config,
        train,
        found.get("validation"),
        found.get("test"),
        task,
        model.network.shape,
        grid.partition,
        comm.size,
        n_threads,
        _mpi_library(comm),
        comm.allgather_json(platform.node()),
        grid.n_replicas,
        transport,
        notes=notes,
    )


def _amounts(classes: Sequence[int | float | str], n_samples: int) -> int:
    """How many numbers are classes where they are so many that they may be amounts; else 0."""
    many = len(classes) > _MANY_CLASSES and len(classes) > _MANY_SHARE * n_samples
    return len(classes) if many and not any(isinstance(label, str) for label in classes) else 0


def _mpi_library(comm: Communicator) -> str:
    """Version text of the MPI library in use, its first line."""
    if comm.mpi is None:
        return ""
    from mpi4py import MPI

    return " ".join(MPI.Get_library_version().split("\n")[0].split()).rstrip("\x00")
