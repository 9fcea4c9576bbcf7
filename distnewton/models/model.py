"""A trained network on a grid: predict, evaluate, save as the equivalent torch.nn.Sequential, load on any grid."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distnewton.backend import Array, to_host
from distnewton.config import DataConfig
from distnewton.config.opening import named_data, opener, owned_by
from distnewton.data.columns import ColumnNames, LabelsWanted, check_names
from distnewton.data.description import DataSource, Description
from distnewton.data.partitioned import open_and_describe
from distnewton.data.row_selection import Chosen
from distnewton.data.rows import row_range
from distnewton.data.scaled import FeatureReader, apply_scaling
from distnewton.data.scaling import ColumnScaling
from distnewton.errors import DataError
from distnewton.models.architecture import Architecture, image_problem
from distnewton.models.metrics import more_metrics, task_metrics
from distnewton.models.saving import gather_weights, save_model
from distnewton.network.network import PartitionedNetwork
from distnewton.parallel.grid import ProcessGrid
from distnewton.planning.chunks import MAX_CHUNK_ROWS

Data = Any
"""A data source, a function that opens one, a path, or input of :func:`~distnewton.data.in_memory.as_source`."""

_EXACT = 2**53
"""Limit of whole numbers, and thus of labels, that are exact in float64."""


class Model:
    """A network with its weights and input scaling, distributed over the ranks of a grid.

    Parameters
    ----------
    architecture : Architecture
        Definition of the model.
    network : PartitionedNetwork
        Network on a grid.
    params : Array of shape (n_params_local,)
        This rank's variables.
    scaling : ColumnScaling
        Scaling of this rank's features.
    notes : sequence of str
        Notes for the user about the device.

    Notes
    -----
    All methods are collective over the grid.
    """

    def __init__(
        self,
        architecture: Architecture,
        network: PartitionedNetwork,
        params: Array,
        scaling: ColumnScaling,
        notes: Sequence[str] = (),
    ) -> None:
        self.architecture, self.network, self.params, self.scaling = architecture, network, params, scaling
        self.notes = list(notes)

    def __repr__(self) -> str:
        """Write task, layers, activation and loss on one line."""
        a = self.architecture
        return f"<Model: {a.task.name} with {a.shape}, {a.activation}, {a.loss}>"

    @property
    def grid(self) -> ProcessGrid:
        """The ranks."""
        return self.network.grid

    @property
    def names(self) -> ColumnNames | None:
        """Names of the columns of the training data; None if they had none."""
        return self.architecture.names

    def features(self, source: DataSource, description: Description, rows: Chosen | None = None) -> Any:
        """Read this rank's columns of a data set, scaled and arranged.

        Parameters
        ----------
        source : DataSource
            The data.
        description : Description
            Description of the data.
        rows : Array of int or None
            Ascending numbers of the samples to read; all by default.

        Returns
        -------
        Array or csr_array of shape (n_samples, n_features_local), or (len(rows), n_features_local)
        """
        dtype, dense = self.network.backend.dtype, self.architecture.dense
        n, packed = description.n_samples, description.packed
        reader = FeatureReader(self.grid, source, n, dtype, rows, dense=dense and not packed, packed=packed)
        X = reader.read()
        apply_scaling(self.grid, self.scaling, X, reader)
        return self.network.backend.features(self.network.arrange(X))

    def outputs_of(self, X: Any) -> Array:
        """Compute outputs for scaled features, in the targets' units; replicated, (n_samples, n_out)."""
        return self.architecture.task.to_user(to_host(network_outputs(self.network, self.params, X)))

    def outputs(self, data: Data, labels: LabelsWanted = "if_there") -> tuple[Array, DataSource, Description]:
        """Compute replicated outputs for a data set.

        Parameters
        ----------
        data : DataSource or callable
            The data, or a function that opens it with this model's number of features.
        labels : {"if_there", "none"}
            Whether to read the labels of a file or frame.

        Returns
        -------
        tuple of Array of shape (n_samples, n_out), DataSource and Description
        """
        opened = data if callable(data) else self.opener(data, labels)
        source, description = open_and_describe(self.grid.world, opened)
        self.check_data(source, description)
        return self.outputs_of(self.features(source, description)), source, description

    def opener(
        self, data: Any, labels: LabelsWanted, reading: DataConfig | None = None, names: ColumnNames | None = None
    ) -> Callable[[], DataSource]:
        """Make a function that opens data as the training data were opened.

        Parameters
        ----------
        data : DataSource, path, list of paths, or what :func:`~distnewton.data.in_memory.as_source` takes
            The data; a list contains files by columns.
        labels : {"required", "if_there", "none"}
            Whether labels are required, optional, or not read.
        reading : DataConfig or None
            Settings to use instead of those of the training data.
        names : ColumnNames or None
            Names of columns to use instead of those of the training data.

        Returns
        -------
        callable
        """
        reading = reading or self.architecture.reading or DataConfig()
        if self.architecture.task.name == "multilabel":
            reading = reading.model_copy(update={"task": "multilabel"})
        partition = self.grid.partition
        owned = owned_by(partition.owners)
        return opener(reading, data, "", partition.n_features, names or self.names, labels, owned)

    def check_data(self, source: DataSource, description: Description) -> None:
        """Refuse data whose features differ from the model's.

        Parameters
        ----------
        source : DataSource
            The data.
        description : Description
            Size and column names of the data.

        Raises
        ------
        DataError
            If the number of features, their names or the shape of images differ.
        """
        n_features = self.grid.partition.n_features
        if description.n_features != n_features:
            raise DataError(
                f"{source.name} has {description.n_features} features, but the model has {n_features}", collective=True
            )
        check_names(source.name, description.names, self.names)
        if description.packed and not self.network.backend.library.host:
            raise DataError(f"{source.name} has genotypes, which need device = cpu", collective=True)
        if (problem := image_problem(self.network.shape, description)) is not None:
            raise DataError(problem, collective=True)

    def evaluate(self, data: Data) -> dict[str, Any]:
        """Compute metrics on a data set, and count its samples and labels unknown to the model.

        Parameters
        ----------
        data : DataSource or callable
            The data, or a function that opens it with this model's number of features.

        Returns
        -------
        dict
            ``n_samples``, ``unseen_labels``, the task's metrics, and those of
            :func:`~distnewton.models.metrics.more_metrics`.
        """
        return self.metrics(*self.outputs(data))

    def metrics(self, outputs: Array, source: DataSource, description: Description) -> dict[str, Any]:
        """Compute the result of :meth:`evaluate` from that of :meth:`outputs`."""
        if not description.labelled:
            raise DataError(f"{source.name} has no labels to compare with; predict needs none", collective=True)
        task, targets = self.architecture.task, np.zeros(0)
        with self.grid.world.collective_errors():
            targets = task.targets(description, source)
        unseen = task.unseen(description.labels)
        classes = [] if task.classes is None else task.classes.decode(range(task.classes.n_classes))
        return {
            "n_samples": description.n_samples,
            "unseen_labels": unseen,
            **task_metrics(task.name, outputs, targets),
            **more_metrics(task.name, self.architecture.link, classes, outputs, targets),
        }

    def predict(self, data: Data) -> Any:
        """Predict the user's own label of each sample, in input order.

        Parameters
        ----------
        data : DataSource or callable, or array-like, frame or sparse array of shape (n_samples, n_features)
            The data, or a function that opens it with this model's number of features. A frame's columns go by name.

        Returns
        -------
        list of str, or ndarray of shape (n_samples,) or (n_samples, n_targets)
            For a source or file, the labels as texts. For arrays, an array of the classes (whole numbers, numbers,
            texts or booleans as in training), of the predicted numbers, or of 0 and 1 for each label.
        """
        task = self.architecture.task
        outputs, source, _ = self.outputs(data, labels="none")
        for note in getattr(source, "unknown_notes", []) if self.grid.world.rank == 0 else []:
            warnings.warn(note, stacklevel=2)
        if callable(data) or hasattr(data, "locate") or named_data(data) is not None:
            return task.labels(outputs)
        if task.classes is None:
            return outputs[:, 0] if task.n_out == 1 else outputs
        if task.name == "multilabel":
            return (outputs > 0).astype(np.int64)
        return _typed(task.classes.classes)[task.chosen(outputs)]

    def weights(self) -> dict[str, Array] | None:
        """Gather all weights on rank 0, as :func:`~distnewton.models.saving.gather_weights` does."""
        return gather_weights(self.network, self.params)

    def exported_weights(self) -> dict[str, Array]:
        """Return :meth:`weights` of a network on one rank, rescaled for outputs in the units of the targets."""
        tensors, scaling = self.weights() or {}, self.architecture.task.scaling
        if scaling is not None:
            last, deviation = self.network.shape.modules[-1], np.array(scaling.deviation)
            W, b = (tensors[f"{last}.{name}"] for name in ("weight", "bias"))
            tensors[f"{last}.weight"] = W * deviation.reshape(-1, *[1] * (W.ndim - 1))
            tensors[f"{last}.bias"] = b * deviation + np.array(scaling.mean)
        return tensors

    def save(self, path: str | Path) -> None:
        """Write the model file from rank 0, as :func:`~distnewton.models.saving.save_model` does."""
        save_model(Path(path), self.architecture, self.network, self.params, self.scaling)


def network_outputs(network: PartitionedNetwork, params: Array, X: Any, chunk_rows: int = MAX_CHUNK_ROWS) -> Array:
    """Compute outputs for scaled features in chunks of samples; replicated, of shape (n_samples, n_out)."""
    outputs = network.backend.empty(X.shape[0], network.n_out)
    for start in range(0, X.shape[0], chunk_rows):
        rows = start, min(X.shape[0], start + chunk_rows)
        outputs[slice(*rows)] = network.forward(params, row_range(X, *rows)).output
    return outputs


def _typed(classes: Sequence[float | str]) -> Array:
    """Convert classes to an array; texts that represent booleans or whole numbers beyond float64 become these."""
    if tuple(classes) == ("False", "True"):
        return np.array([False, True])
    texts = [name for name in classes if isinstance(name, str)]
    if len(texts) == len(classes) and all(re.fullmatch("0|-?[1-9][0-9]*", name) for name in texts):
        numbers = [int(name) for name in texts]
        if max(map(abs, numbers)) > _EXACT:
            return np.array(numbers)
    return np.array(classes)
