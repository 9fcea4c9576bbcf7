"""The commands that use a model: ``evaluate`` and ``predict``."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from distnewton.cli.command import READING_SET, argument, command
from distnewton.cli.output import say, tell_notes, warn
from distnewton.cli.prediction import (
    check_probabilities,
    data_opener,
    label_lines,
    load_on_ranks,
    recipe_beside,
    table_text,
)
from distnewton.cli.results import check_result, write_text
from distnewton.cli.settings import DATA_VARIABLE, check_reading, is_here
from distnewton.config import apply_settings, load_config, make_config
from distnewton.data.columns import LabelsWanted
from distnewton.data.description import DataSource
from distnewton.data.formats.spool import STANDARD
from distnewton.data.formats.tables import TableSource
from distnewton.data.joined import JoinedSource
from distnewton.errors import ConfigError
from distnewton.launch.startup import world_communicator
from distnewton.method.records import plain
from distnewton.models.predictions import MAX_CLASSES
from distnewton.parallel.collectives import Communicator
from distnewton.printable import printable

_MODEL_AND_DATA = (
    argument("run", metavar="RUN", help="run folder or model file"),
    argument(
        "data", metavar="DATA", nargs="+", help="data file, - for standard input, or a bundled set such as "
        "digits:test; or files by columns, as many as in training"
    ),
    READING_SET,
)
_EPILOG = "--data-dir DIR and --device NAME stand for the settings data.directory and run.device."


@command(
    "evaluate",
    "compute the metrics of a trained model on data",
    *_MODEL_AND_DATA,
    argument("--json", metavar="FILE", help="file for all metrics as JSON; - for standard output instead of the text"),
    epilog=_EPILOG,
    setting_flags=True,
)
def evaluate(options: argparse.Namespace) -> int:
    """Print the metrics of a model on data."""
    comm = world_communicator()
    model, opener = _load(comm, options, options.json)
    found = model.outputs(opener)
    tell_notes(comm, found[-1])
    metrics = model.metrics(*found)
    unseen = metrics.pop("unseen_labels")
    if unseen:
        what = model.architecture.task.of_unseen
        counts = ", ".join(f"'{label}' ({n})" for label, n in unseen.items())
        warn(comm, f"labels the model does not know {what}: {counts}")
    with comm.collective_errors():
        if options.json and comm.rank == 0:
            write_text(Path(options.json), json.dumps(plain({**metrics, "unseen_labels": unseen}), indent=1) + "\n")
    if options.json != STANDARD:
        for line in _metric_lines(metrics):
            say(comm, line)
    model.grid.free()
    return 0


def _metric_lines(metrics: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each metric, and a table of the classes unless they are too many."""
    classes = metrics.get("classes", {})
    for name, value in metrics.items():
        if name != "classes":
            # fewer digits of a float32 loss are the same on any number of ranks
            n_digits = 4 if name == "log_loss" else 6
            yield f"{name} {value:.{n_digits}g}" if isinstance(value, float) else f"{name} {value}"
    if not 0 < len(classes) <= MAX_CLASSES:
        return
    # labels come from files: none may control the terminal
    classes = {printable(label, keep=""): found for label, found in classes.items()}
    width = max(len("class"), *map(len, classes))
    yield f"{'class':{width}} precision  recall      f1  n_samples"
    for label, found in classes.items():
        numbers = f"{found['precision']:9.4f} {found['recall']:7.4f} {found['f1']:7.4f}"
        yield f"{label:{width}} {numbers} {found['n_samples']:10}"


@command(
    "predict",
    "write the labels that a trained model predicts",
    *_MODEL_AND_DATA,
    argument(
        "--probabilities", action="store_true", help="begin with a line of all labels, and write the probability of "
        "each after the predicted label"
    ),
    argument("--out", metavar="FILE", help="file for the labels, one a line (default or -: standard output)"),
    argument("--header", action="store_true", help="write CSV whose first line names the columns"),
    argument(
        "--id-column", metavar="NAME", help="write CSV whose first column is this one of the data, by name or number"
    ),
    epilog=_EPILOG,
    setting_flags=True,
)  # fmt: skip
def predict(options: argparse.Namespace) -> int:
    """Write the predicted labels, one line for each sample, in input order."""
    comm = world_communicator()
    model, opener = _load(comm, options, options.out)
    if options.probabilities:
        check_probabilities(model, options.run, "--probabilities")
    outputs, source, description = model.outputs(opener)
    tell_notes(comm, description)
    with comm.collective_errors():
        if comm.rank == 0:
            form = {"probabilities": options.probabilities}
            if options.header or options.id_column:
                identifiers = _identifiers(source, options.id_column) if options.id_column else None
                text = table_text(model, outputs, header=options.header, identifiers=identifiers, **form)
            else:
                text = "".join(f"{line}\n" for line in label_lines(model, outputs, **form))
            write_text(Path(options.out or "-"), text)
    model.grid.free()
    return 0


def _identifiers(source: DataSource, column: str) -> tuple[str, list[str]]:
    """Read the name and the texts of a column of a table."""
    if not isinstance(source, TableSource | JoinedSource):
        raise ConfigError(f"--id-column {column}: {source.name} is not a table with columns, such as CSV or Parquet")
    return source.texts(column, "--id-column")


def _load(
    comm: Communicator, options: argparse.Namespace, out: str | None
) -> tuple[Any, Callable[[], DataSource]]:
    """Load the model and the function that opens its data as in training; fail if `out` cannot be written."""
    with comm.collective_errors():
        check_reading(options.set, also=("data.directory", "run.device", "partition.files"))
        given = make_config(apply_settings({}, options.set))
    directory = comm.on_first(lambda: _directory(options, given.data.directory, out or STANDARD))
    model = load_on_ranks(comm, options.run, given.run.device, given.partition.files)
    for note in model.notes:
        warn(comm, note)
    labels: LabelsWanted = "none" if options.command == "predict" else "required"
    named = options.data if len(options.data) > 1 else options.data[0]
    return model, data_opener(model, options.run, named, labels, options.set, directory)


def _directory(options: argparse.Namespace, named: str, out: str) -> str:
    """Return the folder in which to look for the named data; refuse to write the results over them."""
    directory = ""
    # a path that exists as typed is that file: the recipe's folder is for names in the recipe
    if not is_here(options.data):
        named = named or os.environ.get(DATA_VARIABLE, "")
        directory = named or load_config(recipe_beside(options.run)).data.directory
    check_result(out, data=options.data, folder=directory, model=options.run)
    return directory
