"""A run folder in a few lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distnewton.config import load_config
from distnewton.errors import DataError
from distnewton.guards.failures import read_first
from distnewton.models.model_file import MODEL_FILE, read_header, read_shape
from distnewton.parallel.partition import splits_title
from distnewton.reporting.run_data import held_out, read_run
from distnewton.runs.run_folder import CONFIG_FILE, ENVIRONMENT_FILE, no_run_folder, read_metrics


def describe_run(path: Path) -> Iterator[str]:
    """What a run was and how it went.

    Parameters
    ----------
    path : Path
        Run folder.

    Yields
    ------
    str
        A line of text.

    Raises
    ------
    MissingInputError
        If this is no run folder.
    """
    if not (path / CONFIG_FILE).is_file():
        raise no_run_folder(path, CONFIG_FILE)
    config = load_config(path / CONFIG_FILE)
    facts = _environment(path)
    records = list(read_metrics(path))
    yield f"run        {path}"
    yield "data       " + ", ".join([config.data.train, *held_out(config.data)])
    yield f"network    {config.network.title}, {config.network.activation}, {config.network.loss}"
    splits = splits_title(facts["splits"], facts.get("replicas", 1))
    mpi = facts["mpi_library"] or "no MPI"
    yield f"ranks      {facts['ranks']} x {facts['threads_per_rank']} threads, splits {splits}"
    yield f"method     {config.method.title}; seed {config.run.seed}"
    yield f"versions   distnewton {facts['packages']['distnewton']}, Python {facts['python']}, {mpi}"
    if records:
        first, last = records[0], records[-1]
        yield f"iterations {last['iteration']} of {config.run.iterations} in {last['elapsed_seconds']:.2f} s"
        yield f"objective  {first['objective']:.6g} -> {last['objective']:.6g}"
        run = read_run(path, path.name)
        model = run.model_line
        if model.validation:
            yield f"model of   iteration {model.iteration}, the best by validation {run.metric}"
        for name in ("train", "validation", "test"):
            if metrics := getattr(model, name):
                yield f"{name:<10} " + ", ".join(f"{k} {v:.4f}" for k, v in metrics.items() if v is not None)
    first_failure = read_first(path)
    if first_failure:
        yield f"failed     {first_failure['time']}, exit code {first_failure['exit_code']}: {first_failure['message']}"
    yield f"model      {_model(path)}"


def _environment(path: Path) -> dict[str, Any]:
    """What the run's numbers depended on."""
    try:
        facts: dict[str, Any] = json.loads((path / ENVIRONMENT_FILE).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise DataError(f"{path / ENVIRONMENT_FILE} cannot be read: {error}", collective=True) from None
    return facts


def _model(path: Path) -> str:
    """Whether there is a model, and of which layers."""
    file = path / MODEL_FILE
    if not file.is_file():
        return "none: the run has not finished, or is one of a comparison"
    return f"{file} ({read_shape(read_header(file))})"
