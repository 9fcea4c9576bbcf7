"""Residual problems in place of data, by name or as an object, and their points as data sources."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from traceback import extract_tb
from typing import Any

import numpy as np

from distnewton.config import DataConfig
from distnewton.config.opening import opener
from distnewton.data.columns import LabelsWanted
from distnewton.data.description import DataSource
from distnewton.data.formats.bundled import split_name
from distnewton.data.in_memory import ArraySource
from distnewton.errors import ConfigError, DistNewtonError
from distnewton.physics.problem import Problem
from distnewton.physics.residuals import ResidualLoss

_NAME = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")

_NOT_OWN = re.compile(rf"importlib|^{re.escape(__file__)}$")


def problem_of(given: Any, data: DataConfig) -> Problem | None:
    """Return the residual problem to train on; None if data are meant.

    Parameters
    ----------
    given : Problem, data or None
        Problem or data that a program passes.
    data : DataConfig
        ``train``, as ``module:problem``, names a problem in an importable module, or a function that returns one; the
        working folder is searched too. A file, folder or bundled set of that name takes precedence. ``points`` names
        files of points, which the other settings say how to read.

    Returns
    -------
    Problem or None

    Raises
    ------
    DistNewtonError
        If the module has no such problem, or fails; if a file cannot be read, or there is no term for it.
    """
    problem = given if isinstance(given, Problem) else None
    if given is None and isinstance(data.train, str):
        problem = _named_problem(data.train)
    if not data.points:
        return problem
    if problem is None:
        raise ConfigError("data.points is for the terms of residual problems, but data.train names no such problem")
    terms = {term.name: term for term in problem.terms}
    for name, path in data.points.items():
        if name not in terms:
            raise ConfigError(f"data.points: the problem has no term {name}; its terms are {', '.join(terms)}")
        terms[name] = terms[name].in_file(path, partial(_opened, data))
    return replace(problem, terms=list(terms.values()))


def _opened(data: DataConfig, path: str, labels: LabelsWanted, **refused: str) -> DataSource:
    """Open a file of points as a configuration says."""
    settings = data.model_copy(update={**refused, "task": "regression", "n_features": None})
    return opener(settings, None, path, labels=labels)()


def _named_problem(name: str) -> Problem | None:
    """Return the problem named ``module:problem``; None if the name is that of data."""
    match = _NAME.fullmatch(name)
    if match is None or split_name(name) or any(Path(path).exists() for path in (name, match[1])):
        return None
    if not _is_module(match[1]):
        return None
    try:
        found = getattr(import_module(match[1]), match[2], None)
        if callable(found):
            found = found()
    except DistNewtonError:
        raise
    except Exception as error:
        # the last frame in the user's module; a syntax error names its line itself
        own = [frame for frame in extract_tb(error.__traceback__) if not re.search(_NOT_OWN, frame.filename)]
        place = f" in {Path(own[-1].filename).name}, line {own[-1].lineno}" if own else ""
        raise ConfigError(f"data.train = {name}: {type(error).__name__}{place}: {error}") from error
    if not isinstance(found, Problem):
        raise ConfigError(f"data.train = {name}: the module {match[1]} has no problem {match[2]}")
    return found


def _is_module(name: str) -> bool:
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return False
    # a folder without modules is no module
    return spec is not None and spec.origin is not None


def point_sources(residuals: ResidualLoss, *, tested: bool) -> dict[str, Any]:
    """Make a problem's points the training data, and its known solution the test data if no other is given.

    Parameters
    ----------
    residuals : ResidualLoss
        The problem, with its points drawn.
    tested : bool
        Whether there are test data, with which the solution is compared instead.

    Returns
    -------
    dict of str to Any
        ``train``, and ``test`` if there is a solution.
    """
    problem = residuals.problem
    nothing = np.zeros((problem.n_points, problem.n_all_outputs))
    sources: dict[str, Any] = {"train": ArraySource(residuals.points.copy(), nothing, name="points")}
    if not tested and problem.solution is not None:
        points = problem.test_points(residuals.seed)
        sources["test"] = ArraySource(points, problem.solved(points), name="solution")
    return sources
