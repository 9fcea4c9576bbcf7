"""The objects that train a run on one partition of its network."""

from __future__ import annotations

from collections.abc import Iterator

from distnewton.backend import Array
from distnewton.config import Config
from distnewton.config.method import regularization
from distnewton.frozen import frozen
from distnewton.method.best_model import BestModel
from distnewton.method.schedule import Schedule
from distnewton.method.trainer import Trainer
from distnewton.runs.evaluator import MetricsEvaluator
from distnewton.runs.setup import Setup


@frozen
class Engine:
    """The objects of a run that depend on its partition; a run whose partition moves makes a new engine each time."""

    schedule: Schedule  # stages and the resources that they hold
    evaluator: MetricsEvaluator  # computes the metrics
    trainer: Trainer  # runs the iterations


def make_engine(
    setup: Setup, config: Config, params: Array, best: BestModel | None, recorded: Iterator[int] | None = None
) -> Engine:
    """Make the engine that trains a run from a given point.

    Parameters
    ----------
    setup : Setup
        Data, network and ranks.
    config : Config
        Settled configuration of the run.
    params : Array of shape (n_params_local,)
        This rank's variables at that point.
    best : BestModel or None
        Follows the validation metric.
    recorded : iterator of int or None
        CG steps that this rank took in each direction of the run that is replayed.

    Returns
    -------
    Engine

    Notes
    -----
    Collective.
    """
    run, objective = config.run, setup.training.objective
    if config.method.C != setup.config.method.C:
        objective = objective.regularized(regularization(config.method.C, objective.n_counted))
    evaluator = MetricsEvaluator(setup)
    schedule = Schedule(
        config.method, objective, run.n_iterations, run.seed, deterministic=run.deterministic, recorded=recorded
    )
    return Engine(schedule, evaluator, Trainer(objective, params, schedule.stages, evaluator.measure, best))
