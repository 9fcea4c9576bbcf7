"""The size of a run's data, read by one process."""

from __future__ import annotations

from typing import NamedTuple

from distnewton.config import Config
from distnewton.config.opening import opener
from distnewton.data.description import Description
from distnewton.data.folds import BY_CLASS, split_off
from distnewton.data.partitioned import Task, keep_dense
from distnewton.errors import ConfigError
from distnewton.network.jets import Jet
from distnewton.physics.problem import Problem
from distnewton.physics.residuals import ResidualLoss
from distnewton.physics.sources import problem_of
from distnewton.runs.automatic import TrainingFacts, settle


class DataSize(NamedTuple):
    """Sizes that the data of a run gives, an attribute for each that a plan needs.

    Attributes
    ----------
    n_samples, n_test : int
        Number of training samples, and of validation and test samples together.
    n_features, n_out : int
        Number of features, and of outputs that the task needs.
    nonzeros : float or None
        Mean number of nonzeros in a sample with sparse features; None for dense features.
    image_shape : tuple of int or None
        Channels, height and width of images.
    reading_bytes : float
        Approximate bytes that reading takes on a rank, besides the features.
    files : tuple of int
        For files by columns, number of features of each file.
    packed : bool
        Whether the features are genotypes of two bits each.
    jet : Jet or None
        For a residual problem, derivatives that pass through the network with the values.
    n_rows : int
        For a residual problem, largest number of equations of a term.
    """

    n_samples: int
    n_features: int
    n_out: int
    n_test: int = 0
    nonzeros: float | None = None
    image_shape: tuple[int, ...] | None = None
    reading_bytes: float = 0.0
    files: tuple[int, ...] = ()
    packed: bool = False
    jet: Jet | None = None
    n_rows: int = 0


def nonzeros_of(description: Description, *, dense: bool) -> float | None:
    """Return the mean number of nonzeros in a sample; None where features are held as a dense array, or packed."""
    return None if dense or description.packed else description.n_nonzeros / description.n_samples


def describe_data(config: Config) -> DataSize:
    """Read the size of the data on one process; refuse a configuration without data."""
    data = config.data
    if not data.train:
        raise ConfigError(
            "a plan needs the size of the data: give samples, features and outputs in --sizes, or a file in "
            "data.train",
            collective=True,
        )
    if (problem := problem_of(None, data)) is not None:
        return _size_of_problem(problem, config.run.seed)
    source = opener(data, None, data.train)()
    train = source.describe()
    data = settle(config, TrainingFacts.of(config, train, validated=bool(data.validation))).data
    n_out = Task.fit(config.task, train, source).n_out
    names = [name for name in (data.validation, data.test) if name]
    others = (opener(data, None, name, train.n_features, train.names)() for name in names)
    n_test = sum(other.describe().n_samples for other in others)
    nonzeros = nonzeros_of(train, dense=keep_dense(train))
    n_left = train.n_samples
    if data.validation_fraction:
        by_class = config.task in BY_CLASS
        rows, aside = split_off(train.labels, float(data.validation_fraction), config.run.seed, by_class=by_class)
        n_left, n_test = len(rows), n_test + len(aside)
    n_samples = data.n_train or n_left
    reading_bytes = getattr(source, "reading_bytes", 0.0)
    files = () if train.names is None else train.names.inputs_of_files
    return DataSize(
        n_samples, train.n_features, n_out, n_test, nonzeros, train.image_shape, reading_bytes, files, train.packed
    )


def _size_of_problem(problem: Problem, seed: int) -> DataSize:
    """Return the size of a residual problem, whose samples are its points."""
    residuals = ResidualLoss(problem, seed)
    n_test = 0 if problem.solution is None else len(problem.test_points(seed))
    return DataSize(
        problem.n_points, problem.dimension, problem.n_all_outputs, n_test, jet=residuals.jet,
        n_rows=residuals.count_equations(),
    )  # fmt: skip
