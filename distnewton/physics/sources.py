"""Residual problems where data are expected: by name or as an object, and their points as data sources."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from distnewton.data.formats.bundled import split_name
from distnewton.data.in_memory import ArraySource
from distnewton.errors import ConfigError
from distnewton.physics.problem import Problem
from distnewton.physics.residuals import ResidualLoss

_NAME = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")


def problem_of(given: Any, name: str | list[str]) -> Problem | None:
    """The residual problem that is trained on; None where data are meant.

    Parameters
    ----------
    given : Problem, data or None
        What a program passes.
    name : str
        ``data.train``: ``module:problem`` names a problem of an importable module, or a function that returns one; the
        working folder is searched, too. A file or folder of that name, or a bundled set, is meant where there is one.

    Returns
    -------
    Problem or None

    Raises
    ------
    ConfigError
        If the module has no such problem.
    """
    if given is not None:
        return given if isinstance(given, Problem) else None
    if not isinstance(name, str):
        return None
    match = _NAME.fullmatch(name)
    if match is None or split_name(name) or any(Path(path).exists() for path in (name, match[1])):
        return None
    if not _is_module(match[1]):
        return None
    found = getattr(import_module(match[1]), match[2], None)
    if callable(found):
        found = found()
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
    # a folder without modules is none
    return spec is not None and spec.origin is not None


def point_sources(residuals: ResidualLoss, test: Any) -> dict[str, Any]:
    """Points of a problem as training data, and the known solution as test data, where nothing else is given.

    Parameters
    ----------
    residuals : ResidualLoss
        The problem, with its points drawn.
    test : Any
        Test data that the caller has given.

    Returns
    -------
    dict of str to Any
        ``train``, and ``test`` where there is a solution.
    """
    problem = residuals.problem
    nothing = np.zeros((problem.n_points, problem.n_all_outputs))
    sources: dict[str, Any] = {"train": ArraySource(residuals.points.copy(), nothing, name="points")}
    if test is None and problem.solution is not None:
        points = problem.test_points(residuals.seed)
        sources["test"] = ArraySource(points, problem.solved(points), name="solution")
    return sources
