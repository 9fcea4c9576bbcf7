"""What trains a run on one partition of its network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from distnewton.backend import Array
from distnewton.config import Config
from distnewton.config.method import regularization
from distnewton.method.best_model import BestModel
from distnewton.method.schedule import Schedule
from distnewton.method.trainer import Trainer
from distnewton.runs.evaluator import MetricsEvaluator
from distnewton.runs.setup import Setup


@dataclass(frozen=True)
class Engine:
    """The objects of a run that know who owns what; a run whose partition moves has one after the other."""

    schedule: Schedule  # stages, and what they hold open
    evaluator: MetricsEvaluator  # metrics
    trainer: Trainer  # iterations


def make_engine(
    setup: Setup, config: Config, params: Array, best: BestModel | None, recorded: Iterator[int] | None = None
) -> Engine:
    """What trains a run from a point on.

    Parameters
    ----------
    setup : Setup
        Data, network and ranks.
    config : Config
        Of the run, settled.
    params : Array of shape (n_params_local,)
        The point.
    best : BestModel or None
        Follows the validation metric.
    recorded : iterator of int or None
        CG steps of this rank in each direction of a run that is repeated.

    Returns
    -------
    Engine

    Notes
    -----
    Collective.
    """
    data, training, run = setup.data, setup.training, config.run
    objective = training.objective
    if config.method.C != setup.config.method.C:
        objective = objective.regularized(regularization(config.method.C, objective.n_counted))
    evaluator = MetricsEvaluator(
        setup.placement.network, data.task, training.objective, training.targets, data.held_out, data.residuals
    )
    schedule = Schedule(
        config.method, objective, run.n_iterations, run.seed, deterministic=run.deterministic, recorded=recorded
    )
    return Engine(schedule, evaluator, Trainer(objective, params, schedule.stages, evaluator.measure, best))
