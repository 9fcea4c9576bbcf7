"""Find the best C by cross validation, as LIBLINEAR's ``train -C`` does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from distnewton.config import Config
from distnewton.models.model import Model
from distnewton.network.layer_tables import number_of_weight_layers
from distnewton.parallel.collectives import Communicator
from distnewton.runs.cross_validation import CrossValidation

FIRST = 2.0**-6
LAST = 2.0**10
STEP = 4.0
"""LIBLINEAR's largest value, and the factor between values; LIBLINEAR's 2 would train twice as many networks."""


def values_of_c(first: float) -> Iterator[float]:
    """Yield the values of C to try, ascending, at least the first.

    Parameters
    ----------
    first : float
        Smallest value, above 0.

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
    """Find the best C by cross validation on the same folds.

    Parameters
    ----------
    config : Config
        Configuration of the run, whose C is ignored.
    comm : Communicator
        All ranks.
    n_folds : int
        Number of folds.
    first : float
        Smallest value of C.
    say : callable
        Called with a line about each value.

    Returns
    -------
    C : float
        The smallest of the best values.
    score : float
        Share of samples that are predicted correctly, or mean squared error.

    Notes
    -----
    Collective. The data is read once. A linear network, whose optimum does not depend on the start, begins at the
    weights of the last C, as in LIBLINEAR (Chu et al., Warm start for parameter selection of linear classifiers, 2015).
    """
    from distnewton.config.opening import opener
    from distnewton.data.partitioned import open_and_describe
    from distnewton.data.subset import CachedSource
    from distnewton.runs.consistency import check_same_file
    from distnewton.runs.cross_validation import cross_validate

    check_same_file(comm, config.data.train, config.data.directory or None)
    data = CachedSource(*open_and_describe(comm, opener(config.data, None, config.data.train)))
    models: dict[int, Model] | None = None
    if number_of_weight_layers(config.network.layers) == 1:
        models = {}
        # weights that are good enough for one C often are for the next: with the usual tolerance they stay behind
        run = config.run.model_copy(update={"tolerance": config.run.tolerance / 10})
        config = config.model_copy(update={"run": run})
    best = (math.nan, math.nan)
    for C in values_of_c(first):
        method = config.method.model_copy(update={"C": f"{C!r} l"})
        trial = config.model_copy(update={"method": method})
        validation = cross_validate(trial, comm, n_folds=n_folds, train_data=data, models=models)
        is_rate = validation.task.classes is not None
        score = float(validation.metrics["accuracy"]) if is_rate else _squared_error(validation)
        say(f"log2c={math.log2(C):7.2f}\t{f'rate={100 * score:g}' if is_rate else f'mse={score:g}'}")
        if math.isnan(best[1]) or (score > best[1] if is_rate else score < best[1]):
            best = C, score
    for model in (models or {}).values():
        model.grid.free()
    return best


def _squared_error(validation: CrossValidation) -> float:
    return float(np.mean((validation.outputs.astype(np.float64) - validation.targets) ** 2))
