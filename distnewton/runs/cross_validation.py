"""Cross validation: each sample is predicted by a model that was not trained on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnewton.backend import Array
from distnewton.config import Config
from distnewton.config.opening import files_owned, opener
from distnewton.data.folds import BY_CLASS, draw_folds
from distnewton.data.partitioned import Task, open_and_describe
from distnewton.data.subset import CachedSource, Subset
from distnewton.errors import ConfigError
from distnewton.guards.watchdog import watchdog
from distnewton.launch.startup import guard
from distnewton.models.metrics import task_metrics
from distnewton.models.model import Model
from distnewton.models.warm_start import StartFrom
from distnewton.parallel.collectives import Communicator
from distnewton.runs.consistency import check_same_file
from distnewton.runs.session import Session


@dataclass
class CrossValidation:
    """Predictions and metrics of models on samples that they were not trained on; replicated.

    Attributes
    ----------
    task : Task
        Task and classes of all the data.
    outputs : Array of shape (n_samples, n_out)
        Outputs of each sample, by the model that did not see it; -inf for classes that this model does not know.
    targets : Array
        Targets as :func:`~distnewton.models.metrics.task_metrics` takes them.
    folds : list of ndarray of int64
        Samples of each fold.
    fold_metrics : list of dict of str to float
        The task's metrics on each fold.
    """

    task: Task
    outputs: Array
    targets: Array
    folds: list[NDArray[np.int64]]
    fold_metrics: list[dict[str, float]] = field(default_factory=list)

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of the task over all samples."""
        return task_metrics(self.task.name, self.outputs, self.targets)

    @property
    def labels(self) -> list[str]:
        """The predicted label of each sample."""
        return self.task.labels(self.outputs)


def cross_validate(
    config: Config,
    comm: Any = None,
    *,
    n_folds: int = 5,
    train_data: Any = None,
    start: StartFrom | None = None,
    models: dict[int, Model] | None = None,
    on_fold: Callable[[int, dict[str, float]], None] | None = None,
) -> CrossValidation:
    """Train a model without each fold in turn, and predict that fold.

    Parameters
    ----------
    config : Config
        The run; its test data is not used.
    comm : mpi4py.MPI.Intracomm, Communicator or None
        The ranks; None is this process alone, without MPI.
    n_folds : int
        Number of folds, at least 2. They are drawn by the run's seed, have the same share of each class, and are the
        same on any grid.
    train_data : DataSource, tuple of X and y, or None
        Data in memory, as :func:`~distnewton.data.in_memory.as_source` takes it; by default ``config.data.train``.
    start : Model, path or None
        As in :func:`~distnewton.runs.session.train`.
    models : dict of int to Model, or None
        Models by the number of their fold, from 1, with which its training starts in place of `start`. The new models
        take their places, and their grids stay open. An empty dict for the first of several cross validations.
    on_fold : callable or None
        Called after each fold with its number, from 1, and its metrics, on every rank.

    Returns
    -------
    CrossValidation

    Raises
    ------
    DistNewtonError
        As in :func:`~distnewton.runs.session.train`.

    Notes
    -----
    Collective over ``comm``. The data is read once; a rank holds its columns twice while it trains.
    """
    ranks = comm if isinstance(comm, Communicator) else Communicator(comm)
    if not isinstance(comm, Communicator):
        guard(ranks, config.run.hang_seconds, config.run.warn_seconds, checked="messages" in config.run.checks)
    data, owned = config.data, files_owned(config.partition)
    if train_data is None and not data.train:
        raise ConfigError("cross validation needs data: give data.train or train_data", collective=True)
    if train_data is None:
        check_same_file(ranks, data.train, data.directory or None, owned)
    with watchdog.patient():
        source, described = open_and_describe(ranks, opener(data, train_data, data.train, owned=owned))
    task = Task("", None, 0)
    targets: Array = np.zeros(0)
    with ranks.collective_errors():
        task = Task.fit(config.task, described, source)
        targets = task.targets(described, source)
    folds = draw_folds(described.labels, n_folds, config.run.seed, by_class=task.name in BY_CLASS)
    config = config.model_copy(update={"data": data.model_copy(update={"test": ""})})
    whole, everything = CachedSource(source, described), np.arange(described.n_samples)
    validation = CrossValidation(task, np.full((described.n_samples, task.n_out), -np.inf), targets, folds)
    for number, rows in enumerate(folds, 1):
        rest = Subset(whole, np.setdiff1d(everything, rows), described.name)
        before = models.get(number) if models is not None else None
        session = Session(config, ranks, given={"train": rest}, start=before or start)
        model = session.train(config).model
        outputs, _, _ = model.outputs(Subset(whole, rows, f"{described.name} (fold {number})"))
        validation.outputs[np.ix_(rows, _columns(task, model.architecture.task))] = outputs
        if models is None:
            session.free()
        else:
            models[number] = model
        if before is not None:
            before.grid.free()
        validation.fold_metrics.append(task_metrics(task.name, validation.outputs[rows], targets[rows]))
        if on_fold is not None:
            on_fold(number, validation.fold_metrics[-1])
    return validation


def _columns(whole: Task, part: Task) -> NDArray[np.int64]:
    """Number the outputs of a model, which may know fewer classes, among those of the whole task."""
    if whole.name not in ("classification", "multilabel") or whole.classes is None or part.classes is None:
        return np.arange(whole.n_out)
    numbers = {label: k for k, label in enumerate(whole.classes.classes)}
    return np.array([numbers[label] for label in part.classes.classes], dtype=np.int64)
