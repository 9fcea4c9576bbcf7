"""Predicted labels with the probabilities of all classes, in LIBLINEAR's form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from distnewton.errors import ConfigError

if TYPE_CHECKING:
    from distnewton.backend import Array
    from distnewton.models.model import Model


def check_probabilities(model: Model, name: str, option: str) -> None:
    """Refuse probabilities of a model whose outputs are none.

    Parameters
    ----------
    model : Model
        The model.
    name : str
        Its file, for the message.
    option : str
        What asks for them, likewise.

    Raises
    ------
    ConfigError
        On every rank alike.
    """
    loss = model.architecture.loss
    if model.architecture.task.name == "binary" or loss == "cross_entropy":
        return
    what = f"was trained with the loss {loss}" if loss else "does not say with which loss it was trained"
    raise ConfigError(
        f"{option} needs a model of cross_entropy or logistic, but {name} {what}: its outputs are no probabilities",
        collective=True,
    )


def with_probabilities(model: Model, outputs: Array, labels: Sequence[str]) -> list[str]:
    """The line of labels, and each label with the probabilities of all.

    Parameters
    ----------
    model : Model
        A classifier.
    outputs : Array of shape (n_samples, n_out)
        Of the network.
    labels : sequence of str
        That it predicts.

    Returns
    -------
    list of str
        n_samples + 1 lines.
    """
    from distnewton.network.losses import logistic, softmax

    task = model.architecture.task
    if task.classes is None:
        raise RuntimeError("probabilities are of classes")
    if task.name == "binary":
        second = logistic(outputs.astype(np.float64))
        probabilities = np.hstack([1.0 - second, second])
    else:
        probabilities = softmax(outputs.astype(np.float64))
    head = " ".join(["labels", *task.classes.decode(range(task.classes.n_classes))])
    rows = (" ".join(f"{p:g}" for p in row) for row in probabilities)
    return [head, *(f"{label} {row}" for label, row in zip(labels, rows, strict=True))]
