"""``distnewton-train`` and ``distnewton-predict``: training and prediction with LIBLINEAR's command lines."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from distnewton.cli import end_start
from distnewton.cli.liblinear_options import parse_train, predict_parser, training_config
from distnewton.cli.main import run_console
from distnewton.cli.output import say
from distnewton.cli.prediction import check_probabilities, data_opener, label_lines, load_on_ranks
from distnewton.cli.results import check_result, write_text
from distnewton.cli.settings import check_reading
from distnewton.cli.streams import results_go_to_files
from distnewton.config import Config, apply_settings, make_config
from distnewton.data.formats.spool import STANDARD
from distnewton.errors import UsageError
from distnewton.launch.startup import guard, world_communicator
from distnewton.parallel.collectives import Communicator

if TYPE_CHECKING:
    from distnewton.backend import Array
    from distnewton.data.partitioned import Task


def train_console() -> NoReturn:
    """Entry point of ``distnewton-train``."""
    run_console(train)


def predict_console() -> NoReturn:
    """Entry point of ``distnewton-predict``."""
    run_console(predict)


def train(arguments: Sequence[str] | None = None) -> int:
    """Train a model and write it, or cross validate; return the exit code."""
    options = parse_train(sys.argv[1:] if arguments is None else arguments)
    config = training_config(options)
    end_start()
    comm = world_communicator()
    guard(comm, config.run.hang_seconds, config.run.warn_seconds, checked="messages" in config.run.checks)
    if options.find_c:
        _search(comm, config, options)
    elif options.v is not None:
        _cross_validate(comm, config, options.v)
    else:
        _train(comm, config, Path(options.model_file or f"{Path(options.training_set_file).name}.model"), options.q)
    return 0


def _train(comm: Communicator, config: Config, target: Path, quiet: bool) -> None:
    from distnewton.cli.follower import make_progress
    from distnewton.runs import session

    with comm.collective_errors():
        # check before training that the model can be written
        if comm.rank == 0:
            if str(target) == STANDARD:
                raise UsageError("a model is written to a file, not to standard output: name one after the data")
            check_result(str(target), data=[str(config.data.train)], folder=config.data.directory, makes_folder=False)
    results_go_to_files()
    observers: list[Any] = [] if quiet or comm.rank else [make_progress(live=False)]
    result = session.train(config, comm, observers=observers)
    result.model.save(target)
    result.model.grid.free()
    if not quiet:
        say(comm, f"model: {target}")


def _search(comm: Communicator, config: Config, options: argparse.Namespace) -> None:
    """Print the best C."""
    from distnewton.cli.liblinear_search import FIRST, search_c

    first = FIRST if options.c is None else options.c
    C, score = search_c(config, comm, options.v or 5, first, lambda line: None if options.q else say(comm, line))
    is_rate = config.task != "regression"
    say(comm, f"Best C = {C:g}  CV " + (f"accuracy = {100 * score:g}%" if is_rate else f"MSE = {score:g}"))


def _cross_validate(comm: Communicator, config: Config, n_folds: int) -> None:
    """Print how well models predict samples that they have not seen."""
    from distnewton.runs.cross_validation import cross_validate

    validation = cross_validate(config, comm, n_folds=n_folds)
    if validation.task.classes is not None:
        say(comm, f"Cross Validation Accuracy = {100 * validation.metrics['accuracy']:g}%")
        return
    error, correlation = _regression_figures(validation.outputs, validation.targets)
    say(comm, f"Cross Validation Mean squared error = {error:g}")
    say(comm, f"Cross Validation Squared correlation coefficient = {correlation:g}")


def predict(arguments: Sequence[str] | None = None) -> int:
    """Write the predicted labels, and print how many are right; return the exit code."""
    options = predict_parser().parse_args(arguments)
    check_reading(options.set, also=("data.directory",))
    folder = make_config(apply_settings({}, options.set)).data.directory
    end_start()
    comm = world_communicator()
    with comm.collective_errors():
        if comm.rank == 0:
            given = {"data": [options.test_file], "folder": folder, "model": options.model_file}
            check_result(options.output_file, **given)
    model = load_on_ranks(comm, options.model_file)
    task = model.architecture.task
    if options.b:
        check_probabilities(model, options.model_file, "-b 1")
    outputs, source, description = model.outputs(
        data_opener(model, options.model_file, options.test_file, "if_there", options.set, folder)
    )
    targets: Array = np.zeros(0)
    with comm.collective_errors():
        if description.labelled:
            targets = task.targets(description, source)
        if comm.rank == 0:
            lines = label_lines(model, outputs, probabilities=bool(options.b))
            write_text(Path(options.output_file), "".join(f"{line}\n" for line in lines))
    if description.labelled and not options.q and comm.rank == 0:
        # if labels go to standard output, nothing else does
        stream = sys.stderr if options.output_file == STANDARD else sys.stdout
        print(*_verdict(task, outputs, targets), sep="\n", file=stream, flush=True)
    model.grid.free()
    return 0


def _verdict(task: Task, outputs: Array, targets: Array) -> list[str]:
    """Say how well the labels of the file were predicted, in LIBLINEAR's words."""
    if task.classes is None:
        error, correlation = _regression_figures(outputs, targets)
        return [
            f"Mean squared error = {error:g} (regression)",
            f"Squared correlation coefficient = {correlation:g} (regression)",
        ]
    n, n_right = len(targets), int((task.chosen(outputs) == targets).sum())
    return [f"Accuracy = {100 * n_right / n:g}% ({n_right}/{n})"]


def _regression_figures(outputs: Array, targets: Array) -> tuple[float, float]:
    """Compute mean squared error and squared correlation; the latter is NaN if outputs or targets are constant."""
    predicted, truth = outputs.astype(np.float64).ravel(), targets.astype(np.float64).ravel()
    a, b = predicted - predicted.mean(), truth - truth.mean()
    scale = float(a @ a) * float(b @ b)
    return float(np.mean((predicted - truth) ** 2)), float(a @ b) ** 2 / scale if scale else float("nan")
