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
    from distnewton.network.losses import LOSSES

    loss = model.architecture.loss
    if model.architecture.link:
        return
    what = f"was trained with the loss {loss}" if loss else "does not say with which loss it was trained"
    raise ConfigError(
        f"{option} needs a model of {' or '.join(name for name in LOSSES if LOSSES[name].link)}, but {name} "
        f"{what}: its outputs are no probabilities",
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
    from distnewton.network.losses import probabilities

    task = model.architecture.task
    if task.classes is None:
        raise RuntimeError("probabilities are of classes")
    P = probabilities(model.architecture.link, outputs.astype(np.float64))
    head = " ".join(["labels", *task.classes.decode(range(task.classes.n_classes))])
    rows = (" ".join(f"{p:g}" for p in row) for row in P)
    return [head, *(f"{label} {row}" for label, row in zip(labels, rows, strict=True))]
