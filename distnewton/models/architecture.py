"""What a model is, apart from its weights."""

from __future__ import annotations

from dataclasses import dataclass, field

from distnewton.config import DataConfig
from distnewton.data.columns import ColumnNames
from distnewton.data.description import Description
from distnewton.data.partitioned import Task
from distnewton.network.losses import LOSSES
from distnewton.network.shapes import NetworkShape


@dataclass(frozen=True)
class Architecture:
    """What a model is, apart from its weights.

    Attributes
    ----------
    shape : NetworkShape
        Layers.
    activation : str
        Hidden activation.
    task : Task
        What the outputs mean.
    dense : bool
        Whether features of sparse formats are held as dense arrays.
    dtype : str
        Of the weights.
    loss : str
        What it was trained with; empty where a file of an older version does not say.
    names : ColumnNames or None
        Of the columns of the training data, where they had names.
    reading : DataConfig or None
        How the training data were read (:attr:`DataConfig.reading`); None where a file of an older version does not
        say.
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
        """How outputs become probabilities, ``softmax`` or ``logistic``; empty where they do not."""
        if self.loss in LOSSES:
            return LOSSES[self.loss].link
        # of a file that does not name its loss, or of a loss that is not installed here
        return "logistic" if self.task.name == "binary" and not self.loss else ""


def image_problem(shape: NetworkShape, description: Description) -> str | None:
    """What is wrong where a network on images gets images of another shape; a table has none to compare.

    Parameters
    ----------
    shape : NetworkShape
        The network's layers.
    description : Description
        Of a data set with as many features.

    Returns
    -------
    str or None
    """
    wanted, found = shape.image_shape, description.image_shape
    if wanted is not None and description.packed:
        return f"{description.name} has genotypes, of which the network on images takes none"
    if None in (wanted, found) or wanted == found:
        return None
    return f"{description.name} has images of {found} (channels, height, width), the network takes {wanted}"
