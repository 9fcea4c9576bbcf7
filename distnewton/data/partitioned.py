"""A data set on all ranks: one rank describes it, together with the task that its labels define."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from distnewton.backend import Array
from distnewton.data.columns import ColumnNames
from distnewton.data.description import DataSource, Description
from distnewton.data.formats.bundled import BundledSource
from distnewton.data.formats.spool import spool_notes
from distnewton.data.formats.tables import TableSource
from distnewton.data.joined import FilesByColumns
from distnewton.data.label_columns import LabelColumns
from distnewton.data.label_sets import label_classes, label_indicator, unknown_labels
from distnewton.data.labels import LabelMapping, plain, regression_targets
from distnewton.data.source import Source
from distnewton.data.target_scaling import TargetScaling
from distnewton.errors import DataError
from distnewton.frozen import frozen
from distnewton.parallel.collectives import Communicator

if TYPE_CHECKING:
    from distnewton.data.description import Labels

FEWEST_NUMBERS = 10
"""Labels with at most this many distinct numbers are taken for classes, even if the numbers have fractions."""
DENSE_FROM = 0.25
"""Fraction of stored values above which sparse text is kept as a dense array, which is then smaller and far faster."""


def open_and_describe(comm: Communicator, open_source: Callable[[], DataSource]) -> tuple[DataSource, Description]:
    """Open a data set on every rank, check it on one, and broadcast its description.

    Parameters
    ----------
    comm : Communicator
        All ranks.
    open_source : callable
        Opens the data; may fail on some ranks only. For files by columns each rank opens the files that it owns, and
        may describe one of them.

    Returns
    -------
    tuple of DataSource and Description

    Raises
    ------
    DistNewtonError
        On every rank alike, whichever rank found the fault.

    Notes
    -----
    Collective.
    """
    if isinstance(open_source, FilesByColumns):
        joined = open_source.join(comm)
        return joined, joined.describe()
    with comm.collective_errors():
        source = open_source()
    description: Description | None = None
    with comm.collective_errors():
        if comm.rank and isinstance(source, Source):
            source.prepare()
        description = source.describe() if comm.rank == 0 else None
        if description is not None:
            description.notes = [*spool_notes(source.name), *description.notes]
    found = _broadcast(comm, description)
    if isinstance(source, TableSource | LabelColumns):
        source.adopt(found.names)
    if isinstance(source, BundledSource):
        features = comm.broadcast_array(source.features if comm.rank == 0 else None)
        source.adopt(features, np.asarray(found.labels, np.float64))
    return source, found


def _broadcast(comm: Communicator, description: Description | None) -> Description:
    """What rank 0 has found out, on all ranks; others have None (collective)."""
    labels = comm.broadcast_array(None if description is None else description.labels)
    weighted = comm.broadcast_json(description is not None and description.weights is not None)
    weights = comm.broadcast_array(None if description is None else description.weights) if weighted else None
    head = None
    if description is not None:
        names = None if description.names is None else description.names.to_json()
        head = {**vars(description), "labels": None, "weights": None, "names": names}
    found = Description(**{**comm.broadcast_json(head), "labels": labels, "weights": weights})
    found.names = ColumnNames.from_json(found.names)
    if found.image_shape is not None:  # JSON turns tuples into lists
        channels, height, width = found.image_shape
        found.image_shape = (channels, height, width)
    return found


def keep_dense(description: Description) -> bool:
    """Whether features are stored as a dense array."""
    n_values = description.n_samples * description.n_features
    if description.packed:
        return False
    return not description.sparse_format or description.n_nonzeros >= DENSE_FROM * n_values


@frozen
class Task:
    """The task that the labels define for the network.

    Attributes
    ----------
    name : str
        ``classification``, ``binary``, ``multilabel`` or ``regression``.
    classes : LabelMapping or None
        The user's labels; None for regression.
    n_out : int
        Outputs the network needs.
    scaling : TargetScaling or None
        Scaling of regression targets; None if the network learns them unscaled.
    """

    name: str
    classes: LabelMapping | None
    n_out: int
    scaling: TargetScaling | None = None

    @classmethod
    def fit(cls, name: str, description: Description, source: DataSource, *, scaled: bool = False) -> Task:
        """Derive the task from the training labels.

        Parameters
        ----------
        name : str
            ``classification``, ``binary``, ``multilabel`` or ``regression``.
        description : Description
            Description of the training data.
        source : DataSource
            Source of the data; locates samples for messages.
        scaled : bool
            Whether regression targets are scaled.

        Returns
        -------
        Task

        Raises
        ------
        DataError
            If the labels do not suit the task.
        """
        if not description.labelled:
            raise DataError(f"{source.name} has no labels to train on: give y, or a table with labels")
        if name == "regression":
            targets = regression_targets(description.labels, source.locate)
            scaling = TargetScaling.fit(targets, description.weights) if scaled else None
            return cls(name, None, targets.shape[1], scaling)
        labels = description.labels
        _refuse_nonfinite(labels, source)
        if name == "multilabel":
            classes = _label_set_classes(description, source)
            return cls(name, classes, classes.n_classes)
        known = description.classes
        classes = LabelMapping.fit(labels if known is None else np.array(known), name=source.name)
        if known is None:
            _refuse_numbers(classes, len(labels), source.name)
        if name == "binary" and classes.n_classes != 2:
            raise DataError(
                f"{source.name}: the logistic loss needs two classes, found {classes.n_classes}; "
                "use network.loss = cross_entropy"
            )
        return cls(name, classes, 1 if name == "binary" else classes.n_classes)

    def targets(self, description: Description, source: DataSource) -> Array:
        """Convert the labels of a data set to the targets that the loss takes.

        Parameters
        ----------
        description : Description
            Description of the data set.
        source : DataSource
            Source of the data; locates samples for messages.

        Returns
        -------
        Array
            Class indices (-1 if unknown); 0.0 and 1.0 (-1.0 if unknown); 0 and 1 for each label; or numbers
            (n_samples, n_out).
        """
        if self.name == "multilabel" and self.classes is not None:
            return label_indicator(description.labels, self.classes, source.locate, source.name)
        if self.classes is None:
            targets = regression_targets(description.labels, source.locate)
            if targets.shape[1] != self.n_out:
                raise DataError(
                    f"{source.name} has {targets.shape[1]} targets per sample, but the model has {self.n_out} outputs"
                )
            return targets
        indices = self.classes.encode(description.labels)
        return indices if self.name == "classification" else indices.astype(np.float64)

    def to_network(self, targets: Array) -> Array:
        """Scale targets from :meth:`targets` as the network learns them."""
        return targets if self.scaling is None else self.scaling.to_network(targets)

    def to_user(self, outputs: Array) -> Array:
        """Convert network outputs, on the host, to the units of the targets."""
        return outputs if self.scaling is None else self.scaling.to_user(outputs)

    def labels(self, outputs: Array) -> list[str]:
        """Return the labels, in the user's own form, or the numbers that network outputs predict.

        Parameters
        ----------
        outputs : Array of shape (n, n_out)
            Outputs of the network, in the units of the targets.

        Returns
        -------
        list of str
            One line per sample; several regression targets are separated by blanks, labels by commas.
        """
        if self.name == "multilabel" and self.classes is not None:
            texts = np.array(self.classes.decode(range(self.n_out)), np.object_)
            return [",".join(texts[row]) for row in outputs > 0]
        if self.classes is None:
            n_digits = 9 if self.scaling is None else self.scaling.n_digits
            return [" ".join(f"{value:.{n_digits}g}" for value in row) for row in outputs]
        return self.classes.decode(self.chosen(outputs))

    def unseen(self, labels: Labels) -> dict[str, int]:
        """Count the labels that are not classes; empty for regression."""
        if self.classes is None:
            return {}
        return unknown_labels(labels, self.classes) if self.name == "multilabel" else self.classes.unseen(labels)

    @property
    def of_unseen(self) -> str:
        """Text on how labels that are not classes are treated."""
        return "are left out" if self.name == "multilabel" else "count as wrong"

    def chosen(self, outputs: Array) -> Array:
        """Return the index of the most likely class of each sample."""
        return outputs.argmax(axis=1) if self.name == "classification" else (outputs[:, 0] > 0).astype(np.int64)


def _refuse_nonfinite(labels: Labels, source: DataSource) -> None:
    """Refuse labels of classes that are NaN or infinite."""
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        i_sample = int(np.argwhere(~np.isfinite(labels))[0][0])
        raise DataError(f"{source.locate(i_sample)}: the label is NaN or infinite; repair it or remove the sample")


def _label_set_classes(description: Description, source: DataSource) -> LabelMapping:
    """Labels that sets of labels are of: those that the data name, else all that a sample has."""
    known = description.classes
    found = label_classes(description.labels, source.locate, source.name)
    classes = found if known is None else LabelMapping(tuple(map(plain, known)))
    label_indicator(description.labels, classes, source.locate, source.name)
    return classes


def _refuse_numbers(classes: LabelMapping, n_samples: int, name: str) -> None:
    """Refuse labels that are measurements rather than classes."""
    n, has_fractions = classes.n_classes, any(isinstance(label, float) for label in classes.classes)
    if has_fractions and n > FEWEST_NUMBERS and n > n_samples / 4:
        raise DataError(
            f"{name}: the labels of {n_samples} samples are {n} different numbers with fractions: set network.loss = "
            "squared for regression, or choose another label column"
        )
