"""The best C by cross validation, as LIBLINEAR's ``train -C`` finds it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from distnewton.config import Config
from distnewton.parallel.collectives import Communicator
from distnewton.runs.cross_validation import CrossValidation

FIRST = 2.0**-6
LAST = 2.0**10
"""LIBLINEAR's last one. Its steps are of 2; with whole networks to train, steps of 4 cost half as much."""
STEP = 4.0


def values_of_c(first: float) -> Iterator[float]:
    """Values of C that are tried, ascending; at least the first.

    Parameters
    ----------
    first : float
        Positive.

    Yields
    ------
    float
    """
    yield first
    while (first := first * STEP) <= LAST:
        yield first


def search_c(
    config: Config, comm: Communicator, n_folds: int, first: float, say: Callable[[str], None]
) -> tuple[float, float]:
    """Try values of C on the same folds, and return the best with its accuracy or mean squared error.

    Parameters
    ----------
    config : Config
        The run; its C does not matter.
    comm : Communicator
        All ranks.
    n_folds : int
        Folds.
    first : float
        Smallest C.
    say : callable
        Takes a line on each value.

    Returns
    -------
    C : float
        Of several that are equally good the smallest.
    figure : float
        Share of samples that are right, or mean squared error.

    Notes
    -----
    Collective. The data is read once.
    """
    from distnewton.data.partitioned import open_and_describe
    from distnewton.data.same_files import check_same_file
    from distnewton.data.subset import CachedSource
    from distnewton.runs.cross_validation import cross_validate
    from distnewton.runs.held_out import opener

    check_same_file(comm, config.data.train, config.data.directory or None)
    data = CachedSource(*open_and_describe(comm, opener(config.data, None, config.data.train)))
    best = (math.nan, math.nan)
    for C in values_of_c(first):
        method = config.method.model_copy(update={"C": f"{C!r} l"})
        trial = config.model_copy(update={"method": method})
        found = cross_validate(trial, comm, n_folds=n_folds, train_data=data)
        figure, is_rate = figure_of(found)
        say(f"log2c={math.log2(C):7.2f}\t{f'rate={100 * figure:g}' if is_rate else f'mse={figure:g}'}")
        if math.isnan(best[1]) or (figure > best[1] if is_rate else figure < best[1]):
            best = C, figure
    return best


def figure_of(found: CrossValidation) -> tuple[float, bool]:
    """Accuracy, or mean squared error, and which of the two it is.

    Parameters
    ----------
    found : CrossValidation
        Of all samples.

    Returns
    -------
    figure : float
    is_rate : bool
    """
    if found.task.classes is not None:
        return float(found.metrics["accuracy"]), True
    return float(np.mean((found.outputs.astype(np.float64) - found.targets) ** 2)), False
