"""Predictions of the model for the points of a study."""

from __future__ import annotations

from collections.abc import Sequence

from distnewton.config import Config
from distnewton.planning.plan import Plan, make_plan
from distnewton.planning.rates import Rates
from distnewton.runs.data_size import DataSize
from distnewton.runs.planned import planned_problem, planned_sketch
from distnewton.study.measured import MeasuredPoint
from distnewton.study.points import Study, grow


def predict(study: Study, config: Config, data: DataSize, points: Sequence[MeasuredPoint], rates: Rates) -> list[Plan]:
    """Plan the measured points, with their splits, CG steps and trials.

    Parameters
    ----------
    study : Study
        The study.
    config : Config
        Configuration of the point with the fewest ranks.
    data : DataSize
        Size of its data.
    points : sequence of MeasuredPoint
        The measured points.
    rates : Rates
        Rates of the machines.

    Returns
    -------
    list of Plan
        A plan for each point.
    """
    shape = config.network.shape(data.n_features, data.image_shape, data.n_out)
    sketch = planned_sketch(config.method)
    plans = []
    for point in points:
        growth = point.n_ranks / study.ranks[0]
        n = data.n_samples * point.n_ranks // study.ranks[0] if study.kind == "weak-samples" else data.n_samples
        problem = planned_problem(
            config,
            grow(shape, growth) if study.kind == "weak-weights" and growth > 1 else shape,
            data._replace(n_samples=n, n_test=0),
            n_steps=point.n_steps,
            n_trials=point.n_trials,
        )
        plans.append(make_plan(problem, point.splits, rates, sketch=sketch, n_replicas=point.n_replicas))
    return plans
