"""Describe a run folder in a few lines."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from distnewton.guards.failures import read_first
from distnewton.models.metrics import metric_text
from distnewton.models.model_file import MODEL_FILE, read_header
from distnewton.parallel.partition import splits_title
from distnewton.reporting.run_data import TORN, Run, data_line, read_run
from distnewton.runs.run_folder import GAP


def describe_run(path: Path) -> Iterator[str]:
    """Describe the settings and the results of a run, as ``info`` prints them.

    Parameters
    ----------
    path : Path
        Run folder, whose files :func:`~distnewton.reporting.run_data.read_run` reads and checks.

    Yields
    ------
    str
        A line, which begins with its subject.
    """
    run = read_run(path, path.name)
    config, software = run.config, run.software
    yield f"run        {path}"
    yield "data       " + data_line(config.data)
    yield f"network    {config.network.title}, {config.network.activation}, {config.network.loss}"
    splits = splits_title(run.environment.splits, run.environment.replicas, run.environment.blocks)
    yield f"ranks      {run.environment.ranks} x {run.environment.threads_per_rank} threads, splits {splits}"
    yield f"method     {config.method.title}; seed {config.run.seed}"
    mpi, distnewton = software.mpi_library or "no MPI", software.packages.get("distnewton", "?")
    yield f"versions   distnewton {distnewton}, Python {software.python}, {mpi}"
    if run.lines:
        yield from _progress(run)
    for remark in run.remarks:
        if remark == TORN or remark.startswith(GAP):
            yield f"note       {remark}"
    first_failure = read_first(path)
    if first_failure:
        yield f"failed     {first_failure['time']}, exit code {first_failure['exit_code']}: {first_failure['message']}"
    yield f"model      {_model(path)}"


def _progress(run: Run) -> Iterator[str]:
    """Describe how far the run came, and what its model reaches."""
    first, last, model = run.lines[0], run.lines[-1], run.model_line
    yield f"iterations {run.config.run.of_iterations(last.iteration)} in {last.training_seconds:.2f} s"
    yield f"objective  {first.objective:.6g} -> {last.objective:.6g}"
    if model.validation:
        yield f"model of   iteration {model.iteration}, the best by validation {run.metric}"
    for name in ("train", "validation", "test"):
        if metrics := getattr(model, name):
            shown = (f"{key} {metric_text(key, value)}" for key, value in metrics.items() if not math.isnan(value))
            yield f"{name:<10} " + ", ".join(shown)


def _model(path: Path) -> str:
    """Say whether there is a model, and which layers it has."""
    file = path / MODEL_FILE
    if not file.is_file():
        return "none: the run has not finished, or is one of a comparison"
    return f"{file} ({read_header(file).shape})"
