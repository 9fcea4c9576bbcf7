"""The training, validation and test data of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from distnewton.config import Config, DataConfig
from distnewton.config.opening import files_owned, opener
from distnewton.data.description import DataSource, Description
from distnewton.data.folds import BY_CLASS, class_weights, split_off
from distnewton.data.partitioned import Task, open_and_describe
from distnewton.data.subset import CachedSource, Subset
from distnewton.errors import ConfigError
from distnewton.models.warm_start import Start
from distnewton.network.losses import LOSSES
from distnewton.parallel.collectives import Communicator
from distnewton.parallel.cuts import FileOwners
from distnewton.physics.residuals import ResidualLoss
from distnewton.physics.sources import point_sources, problem_of
from distnewton.runs.automatic import TrainingFacts, settle
from distnewton.runs.consistency import check_same_file, check_same_points
from distnewton.runs.held_out import HeldOut

HELD_OUT = ("validation", "test")


class DataSets:
    """The data of a configuration, opened and described but not yet read.

    It holds training and held-out data together, since the one decides how ``auto`` is settled for the other.

    Parameters
    ----------
    comm : Communicator
        All ranks.
    config : Config
        Names the files and says how they are read.
    given : mapping of str to DataSource, tuple of X and y, frame or None
        Data in memory for ``train``, ``validation`` and ``test``; for None the configuration's file is opened.
    start : Start or None
        Model whose activation and scaling are used where the configuration says ``auto``.

    Attributes
    ----------
    config : Config
        The configuration with ``auto`` settled by the data.
    settle : callable
        Takes a configuration, and returns it settled in the same way.
    source : DataSource
        Training data, without the samples that were put aside for validation.
    train : Description
        Size, labels and weights of the training data.
    task : Task
        Meaning of the labels for the network.
    n_train : int
        Number of samples that are trained on.
    held_out : dict of str to HeldOut
        ``validation`` and ``test`` data, where given.
    owners : FileOwners or None
        Ranks that own each training file by columns; None for other data.
    residuals : ResidualLoss or None
        Loss of a residual problem. Its points are then the training data, and the points at which its solution is
        known are the test data.

    Raises
    ------
    DistNewtonError
        If the configuration or the data is at fault.

    Notes
    -----
    Collective over ``comm``.
    """

    def __init__(
        self, comm: Communicator, config: Config, given: Mapping[str, Any], start: Start | None = None
    ) -> None:
        self.residuals: ResidualLoss | None = None
        with comm.collective_errors():
            problem = problem_of(given["train"], config.data)
            if problem is not None:
                self.residuals = ResidualLoss(problem, config.run.seed)
                tested = given["test"] is not None or bool(config.data.test)
                given = {**given, **point_sources(self.residuals, tested=tested)}
        self._owned = files_owned(config.partition)
        if self.residuals is not None:
            check_same_points(comm, self.residuals)
        self._check_files(comm, config.data, given)
        opened = opener(config.data, given["train"], config.data.train, owned=self._owned)
        self.source, self.train = open_and_describe(comm, opened)
        self.owners: FileOwners | None = getattr(self.source, "owners", None)
        if config.partition.files and self.owners is None:
            raise ConfigError("partition.files is for a list of files by columns in data.train", collective=True)
        validated = given["validation"] is not None or bool(config.data.validation)
        facts = TrainingFacts.of(config, self.train, validated=validated, residual=problem is not None)
        self.settle = partial(settle, facts=facts, start=start)
        self.config = config = self.settle(config)
        if self.residuals is not None:
            self.residuals.check_range(config.run.array_dtype)
        data = config.data
        self._cache: CachedSource | None = None
        if data.validation_fraction:
            given = {**given, "validation": self._split_off(config, given["validation"])}
        self._weigh_classes(config)
        with comm.collective_errors():
            scaled = LOSSES[config.network.loss].scales_targets and problem is None
            self.task = Task.fit(config.task, self.train, self.source, scaled=scaled)
        self.n_train = data.n_train or self.train.n_samples
        if self.n_train > self.train.n_samples:
            raise ConfigError(
                f"data.n_train = {self.n_train}, but {self.train.name} has {self.train.n_samples} samples",
                collective=True,
            )
        self.held_out = dict(self._open_held_out(comm, data, given))

    def _open_held_out(
        self, comm: Communicator, data: DataConfig, given: Mapping[str, Any]
    ) -> Iterator[tuple[str, HeldOut]]:
        """Open the validation and the test data, where given; yield each with its name."""
        train = self.train
        for which in HELD_OUT:
            name = getattr(data, which)
            if given[which] is not None or name:
                opened = opener(data, given[which], name, train.n_features, train.names, owned=self._owned)
                yield which, HeldOut(which, comm, opened, train)

    def _check_files(self, comm: Communicator, data: DataConfig, given: Mapping[str, Any]) -> None:
        """Refuse a run without training data, and files that differ between hosts."""
        if given["train"] is None and not data.train:
            message = "data.train is not set: name a file or a bundled set such as digits:train"
            raise ConfigError(message, collective=True)
        for which in ("train", *HELD_OUT):
            name = getattr(data, which)
            if given[which] is None and name:
                check_same_file(comm, name, data.directory or None, self._owned)

    def _split_off(self, config: Config, given: Any) -> DataSource:
        """Put some of the training samples aside, and return them as validation data."""
        if given is not None:
            raise ConfigError(
                "data.validation_fraction and validation_data both give validation data: use one", collective=True
            )
        whole, by_class = self.train, config.task in BY_CLASS
        share = float(config.data.validation_fraction)
        rows, aside = split_off(whole.labels, share, config.run.seed, by_class=by_class)
        # one pass over the file reads both parts
        self._cache = CachedSource(self.source, whole)
        self.source = Subset(self._cache, rows, whole.name)
        self.train = replace(self.source.describe(), notes=whole.notes)
        return Subset(self._cache, aside, f"{whole.name} (validation)")

    def _weigh_classes(self, config: Config) -> None:
        """Multiply the weights of the samples by those of their classes."""
        of_class = class_weights(self.train.labels, config.data.class_weights, self.train.name)
        if of_class is not None:
            own = self.train.weights
            self.train = replace(self.train, weights=of_class if own is None else own * of_class)

    def forget(self) -> None:
        """Free the cached data, once all sets have been read from it."""
        if self._cache is not None:
            self._cache.forget()

    @property
    def descriptions(self) -> dict[str, Description]:
        """Size and labels of the held-out sets, by name."""
        return {which: held.description for which, held in self.held_out.items()}
