"""Notes to the user about the ranks, the data and the labels of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from distnewton.config import Config
from distnewton.data.scaling import ColumnScaling
from distnewton.directions.options import FullBatchOptions
from distnewton.network.active import ActiveNetwork
from distnewton.network.network import PartitionedNetwork
from distnewton.parallel.grid import ProcessGrid
from distnewton.runs.data_sets import DataSets
from distnewton.runs.training_data import TrainingData

_MANY_CLASSES, _MANY_SHARE = 20, 0.1
_FEW_SAMPLES = 3
"""More than 20 different numbers as labels may be amounts, not classes: if they are more than a tenth of the samples,
if one has a fraction, or if one occurs in fewer than 3 samples."""

_SUBSAMPLE_MIN = FullBatchOptions.model_fields["subsample_min"].default


def notes_of_run(grid: ProcessGrid, config: Config, data: DataSets, training: TrainingData) -> Iterator[str]:
    """Yield a line on each peculiarity of a run.

    Parameters
    ----------
    grid : ProcessGrid
        The ranks.
    config : Config
        Settings of the run.
    data : DataSets
        Training and held-out data.
    training : TrainingData
        The training data that was read.

    Yields
    ------
    str

    Notes
    -----
    Collective.
    """
    yield from _notes_on_ranks(grid, training.scaling)
    yield from _notes_on_features(grid.partition.n_features, training.objective.network)
    yield from _notes_on_labels(config, data)
    yield from _notes_on_held_out(data)


def _notes_on_ranks(grid: ProcessGrid, scaling: ColumnScaling) -> Iterator[str]:
    """Note ranks without variables and constant features (collective)."""
    if idle := grid.partition.idle_ranks():
        n_idle = len(idle) * grid.n_replicas
        yield f"{n_idle} of {grid.world.size} ranks own no variable: these layers cannot use so many ranks"
    (n_constant,) = grid.sum_of_variables(scaling.n_constant * grid.first_of_feature_group())
    if n_constant:
        yield f"{n_constant:.0f} features are constant and are scaled to 0"


def _notes_on_features(n_features: int, network: PartitionedNetwork) -> Iterator[str]:
    """Note features without weights."""
    if isinstance(network, ActiveNetwork):
        n = n_features - network.shape.widths[0]
        yield f"{n:,} of {n_features:,} features are in no training sample: their weights are 0"


def _look_like_numbers(labels: Sequence[Any], train: Any) -> bool:
    """Whether the user may have meant numeric labels as amounts: they are many, have fractions, or occur seldom."""
    if len(labels) > _MANY_SHARE * train.n_samples or any(label % 1 for label in labels):
        return True
    _, counts = np.unique(train.labels, return_counts=True)
    return bool(counts.min() < _FEW_SAMPLES)


def _notes_on_labels(config: Config, data: DataSets) -> Iterator[str]:
    """Note the classes and their number."""
    labels = () if data.task.classes is None else data.task.classes.classes
    if any(isinstance(label, str) for label in labels):
        more = f", ... ({len(labels)} in all)" if len(labels) > 10 else ""
        yield f"classes: {', '.join(f'{k} = {label}' for k, label in enumerate(labels[:10]))}{more}"
    elif len(labels) > _MANY_CLASSES and data.task.name != "multilabel" and _look_like_numbers(labels, data.train):
        other = "" if config.data.label_column is not None else ", or name the label column (data.label_column)"
        taken = f"{len(labels)} different labels are taken as classes"
        yield f"{taken}; to approximate numbers set network.loss = squared{other}"
    yield from _notes_on_subsample(config.method, data.n_train)


def _notes_on_subsample(method: Any, n_train: int) -> Iterator[str]:
    """Note a smallest subsample that exceeds the number of samples."""
    if method.has(FullBatchOptions) and n_train < method.subsample_min != _SUBSAMPLE_MIN:
        yield f"method.subsample_min exceeds the number of samples, {n_train}: all are used"


def _notes_on_held_out(data: DataSets) -> Iterator[str]:
    """Note features and labels that the training data does not have."""
    for which, description in data.descriptions.items():
        if n := description.n_ignored_values:
            yield f"{description.name}: ignored {n} values of features that the training data does not have"
        if unseen := data.task.unseen(description.labels):
            shown = ", ".join(f"'{label}' ({n})" for label, n in unseen.items())
            yield f"{which} labels that never occur in training {data.task.of_unseen}: {shown}"
