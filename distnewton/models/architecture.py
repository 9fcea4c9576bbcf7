"""The architecture of a model: everything except its weights."""

from __future__ import annotations

from dataclasses import field

from distnewton.config import DataConfig
from distnewton.data.columns import ColumnNames
from distnewton.data.description import Description
from distnewton.data.partitioned import Task
from distnewton.frozen import frozen
from distnewton.network.losses import LOSSES
from distnewton.network.shapes import NetworkShape


@frozen
class Architecture:
    """Everything that defines a model except its weights.

    Attributes
    ----------
    shape : NetworkShape
        Layers.
    activation : str
        Hidden activation.
    task : Task
        Meaning of the outputs.
    dense : bool
        Whether features of sparse formats are held as dense arrays.
    dtype : str
        Type of the weights.
    loss : str
        Loss used in training; empty if a file of an older version does not record it.
    names : ColumnNames or None
        Names of the columns of the training data, if they had any.
    reading : DataConfig or None
        How the training data were read (:attr:`DataConfig.reading`); None if a file of an older version does not record
        it.
    """

    shape: NetworkShape
    activation: str
    task: Task
    dense: bool
    dtype: str
    loss: str = ""
    names: ColumnNames | None = None
    reading: DataConfig | None = field(default_factory=DataConfig)

    @property
    def link(self) -> str:
        """Function from outputs to probabilities, ``softmax`` or ``logistic``; empty if there is none."""
        if self.loss in LOSSES:
            return LOSSES[self.loss].link
        # the file does not name its loss, or the loss is not installed here
        return "logistic" if self.task.name == "binary" and not self.loss else ""


def image_problem(shape: NetworkShape, description: Description) -> str | None:
    """Describe the problem if a network on images gets images of another shape; tables have no shape to compare.

    Parameters
    ----------
    shape : NetworkShape
        Layers of the network.
    description : Description
        Description of a data set with as many features.

    Returns
    -------
    str or None
    """
    wanted, found = shape.image_shape, description.image_shape
    if wanted is not None and description.packed:
        return f"{description.name} has genotypes, which a network on images cannot take"
    if None in (wanted, found) or wanted == found:
        return None
    return f"{description.name} has images of {found} (channels, height, width), but the network takes {wanted}"
