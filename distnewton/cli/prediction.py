"""Shared parts of the commands that predict: load a model, open its data as in training, and write labels."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from distnewton.config import DataConfig, apply_settings, load_config, make_config
from distnewton.config.opening import owned_by
from distnewton.errors import ConfigError
from distnewton.parallel.collectives import Communicator

if TYPE_CHECKING:
    from distnewton.backend import Array
    from distnewton.config.sections import DataName
    from distnewton.data.columns import ColumnNames, LabelsWanted
    from distnewton.data.description import DataSource
    from distnewton.models.model import Model


def load_on_ranks(comm: Communicator, path: str, device: str = "cpu", files: Sequence[int] = ()) -> Model:
    """Load a model over all ranks, and give each rank its BLAS threads (collective)."""
    from distnewton.launch.threads import limit_blas_threads, threads_of_rank
    from distnewton.models.loading import load_model

    limit_blas_threads(threads_of_rank(comm))
    return load_model(path, comm, device, files)


def recipe_beside(run: str) -> str | None:
    """Return the configuration of the run that a model belongs to; None if the model file is not in a run folder."""
    from distnewton.models.model_file import MODEL_FILE, find_model
    from distnewton.runs.run_folder import CONFIG_FILE

    file = find_model(run)
    recipe = file.with_name(CONFIG_FILE)
    return str(recipe) if file.name == MODEL_FILE and recipe.is_file() else None


def data_opener(
    model: Model, run: str, path: DataName, labels: LabelsWanted, settings: Sequence[str], directory: str = ""
) -> Callable[[], DataSource]:
    """Return a function that opens data for a model as its training data were opened, unless settings differ.

    Parameters
    ----------
    model : Model
        Model that predicts.
    run : str
        File or run folder of the model.
    path : str or list of str
        The data, or files by columns.
    directory : str
        Folder of relative paths.
    labels : {"required", "if_there", "none"}
        Whether labels are required, optional, or not read.
    settings : sequence of str
        ``data.key=value``, checked by :func:`~distnewton.cli.settings.check_reading`.

    Returns
    -------
    callable

    Raises
    ------
    ConfigError
        If the label column of a model with names is given by number.
    DistNewtonError
        If the data are not the same file on all ranks.

    Notes
    -----
    Collective. Rank 0 decides for all.
    """
    from distnewton.runs.consistency import check_same_file

    comm = model.grid.world
    given = {key: value for key, value in apply_settings({}, settings).get("data", {}).items() if key != "directory"}
    tree = comm.on_first(lambda: _changed_reading(model, run, given).model_dump())
    data = DataConfig.model_validate({**tree, "directory": directory})
    names = _names(model, data) if "label_column" in given else None
    check_same_file(comm, path, directory or None, owned_by(model.grid.partition.owners))
    return model.opener(path, labels, data, names)


def _changed_reading(model: Model, run: str, given: dict[str, Any]) -> DataConfig:
    """Return how the data are read; print a note on stderr for each setting that is not that of the training data."""
    stored = _stored_reading(model, run)
    tables: dict[str, Any] = {"data": {**stored.model_dump(), **given}}
    if (task := model.architecture.task).name == "multilabel":
        tables["data"]["task"], tables["network"] = task.name, {"loss": model.architecture.loss}
    data = make_config(tables).data
    for key in given:
        before, now = getattr(stored, key), getattr(data, key)
        if before != now:
            print(f"note: data.{key} = {now!r}; the model was trained with {before!r}", file=sys.stderr)
    return data


def _names(model: Model, data: DataConfig) -> ColumnNames | None:
    """Return the column names of data with another label column; None if the model or the data have no names."""
    column = data.label_column
    if model.names is None or isinstance(column, list) or (data.header is False and not isinstance(column, str)):
        return None
    if isinstance(data.label_column, str):
        return replace(model.names, label=data.label_column)
    raise ConfigError(
        f"data.label_column = {data.label_column}: the model takes columns by name; name the column, or set "
        "data.header = false if the data have no names",
        collective=True,
    )


def _stored_reading(model: Model, run: str) -> DataConfig:
    """Return how the training data of a model were read; for a model of an older version, read its run's file."""
    if model.architecture.reading is not None:
        return model.architecture.reading
    recipe = recipe_beside(run)
    if recipe is None:
        print(
            f"note: {run}, of an older version, does not say how its data were read: defaults are used; "
            "--set data.KEY=VALUE changes them",
            file=sys.stderr,
        )
    return load_config(recipe).data.reading


def check_probabilities(model: Model, path: str, flag: str) -> None:
    """Refuse probabilities of a model whose outputs are not probabilities.

    Parameters
    ----------
    model : Model
        Model that predicts.
    path : str
        File of the model, for the message.
    flag : str
        Flag that asks for probabilities, for the message.

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
        f"{flag} needs a model of {' or '.join(name for name in LOSSES if LOSSES[name].link)}, but {path} {what}: "
        "its outputs are not probabilities",
        collective=True,
    )


def label_lines(model: Model, outputs: Array, *, probabilities: bool) -> list[str]:
    """Write the predicted label of each sample, a line each; with probabilities, in LIBLINEAR's form.

    Parameters
    ----------
    model : Model
        Model that predicts.
    outputs : Array of shape (n_samples, n_out)
        Outputs of the network.
    probabilities : bool
        Whether the probability of every class follows each label; a first line then lists the classes.

    Returns
    -------
    list of str
    """
    task = model.architecture.task
    labels = task.labels(outputs)
    if not probabilities or task.classes is None:
        return labels
    shares = _probabilities(model, outputs)
    head = " ".join(["labels", *task.classes.decode(range(task.classes.n_classes))])
    rows = (" ".join(f"{p:g}" for p in row) for row in shares)
    return [head, *(f"{label} {row}" for label, row in zip(labels, rows, strict=True))]


def table_text(
    model: Model, outputs: Array, *, probabilities: bool, header: bool, identifiers: tuple[str, list[str]] | None
) -> str:
    """Write predictions as CSV.

    Parameters
    ----------
    model : Model
        Model that predicts.
    outputs : Array of shape (n_samples, n_out)
        Outputs of the network.
    probabilities : bool
        Whether the probability of every class follows each label.
    header : bool
        Whether the first line names the columns; the label column has its name in the training data.
    identifiers : (str, list of str) or None
        Name and values of a first column.

    Returns
    -------
    str
    """
    task = model.architecture.task
    names, columns = _label_columns(model, outputs)
    if probabilities and task.classes is not None:
        names += [f"probability_{label}" for label in task.classes.decode(range(task.classes.n_classes))]
        columns += [[f"{p:g}" for p in column] for column in _probabilities(model, outputs).T]
    if identifiers is not None:
        names, columns = [identifiers[0], *names], [identifiers[1], *columns]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([names] * header)
    writer.writerows(zip(*columns, strict=True))
    return text.getvalue()


def _label_columns(model: Model, outputs: Array) -> tuple[list[str], list[Sequence[str]]]:
    """Return names and values of the label columns: one column, or one for each target."""
    labels = model.architecture.task.labels(outputs)
    columns: list[Sequence[str]] = [labels]
    if model.architecture.task.classes is None:
        columns = list(zip(*(label.split(" ") for label in labels), strict=True))
    name = model.names.label if model.names is not None and model.names.label else "prediction"
    return [name] if len(columns) == 1 else [f"{name}_{i}" for i in range(len(columns))], columns


def _probabilities(model: Model, outputs: Array) -> Array:
    """Compute the probability of each class; shape (n_samples, n_classes)."""
    from distnewton.network.losses import probabilities

    architecture = model.architecture
    each = architecture.task.name == "multilabel"
    return probabilities(architecture.link, outputs.astype(np.float64), each=each)
