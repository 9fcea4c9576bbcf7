"""Runs that diverge say so and end, with the lowest point they had; runs that overshoot go on."""

from __future__ import annotations

import math

import numpy as np
import pytest
from problems import make_case
from resumed import blobs, free, same_run, settings, stopped_and_resumed

import distnewton
from distnewton.method.divergence import Divergence
from distnewton.method.records import IterationRecord

RELU = {"layers": [7, 20, 20, "auto"], "activation": "relu"}
CLIMBS = {"direction": "sgd", "learning_rate": 30.0, "batch": 40, "momentum": 0.0}


def followed(case, values):
    """Number of the iteration with which training ends, and what was kept."""
    divergence = Divergence(case.objective, keeps_lowest=True)
    for k, value in enumerate(values):
        divergence.follow(IterationRecord(k, 0.0, value, value), np.full(1, value), "remedy")
        if divergence.reason:
            return k, divergence
    return None, divergence


@pytest.mark.mpi(min_size=1)
@pytest.mark.parametrize(
    ("values", "ends"),
    [
        ([1.0, 50.0, 60.0, 70.0, 80.0, 90.0], 4),
        ([1.0, 0.5, 500.0, 400.0, 300.0, 600.0], 5),
        ([1.0, 0.5, math.nan], 2),
        ([1.0, math.inf], 1),
        # overshoots and comes down
        ([1.0, 500.0, 400.0, 300.0, 200.0, 100.0, 50.0, 0.5], None),
        # above the start, but not far
        ([1.0, 5.0, 6.0, 7.0, 8.0, 9.0, 9.0], None),
        # rises again and again, never for long
        ([1.0, 20.0, 30.0, 40.0, 1.0, 20.0, 30.0, 40.0, 1.0], None),
        # far above a trained start, but not above a network that predicts nothing
        ([1e-9, 1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 6e-3], None),
    ],
)
def test_the_rule(world, values, ends):
    case = make_case(world, (4, 3, 2), (1, world.size, 1))
    with case.grid:
        nothing = np.mean(np.sum(case.dense.y**2, axis=1))
        assert case.objective.loss_of_nothing() == pytest.approx(nothing)
        scaled = [value * max(nothing, 1.0) if ends else value for value in values]
        found, divergence = followed(case, scaled)
        assert found == ends
        if ends:
            assert divergence.params[0] == min(v for v in scaled[:ends])
            assert divergence.reason.startswith("training diverged")
            assert "that of iteration" in divergence.reason


def tiny_features(seed=0):
    rng = np.random.default_rng(seed)
    X = 1e-3 * rng.standard_normal((400, 7))
    return X, (X[:, 0] > 0).astype(int)


@pytest.mark.mpi(min_size=1, sizes=(3,))
@pytest.mark.parametrize("name", ["grouped_newton", "kfac", "sgd"])
def test_a_run_that_diverges_ends_with_its_lowest_point(world, name):
    methods = {
        "grouped_newton": {"direction": "grouped_newton"},
        "kfac": {"direction": "kfac", "damping": 1e-15, "kl_clip": math.inf, "learning_rate": 3.0},
        "sgd": CLIMBS,
    }
    data = tiny_features() if name == "grouped_newton" else blobs()
    config = settings(methods[name], iterations=200, network=RELU)
    result = distnewton.train(config, world, train_data=distnewton.ArraySource(*data))
    objectives = [record.objective for record in result.history]
    assert len(objectives) < 200
    assert result.ended.startswith("training diverged")
    assert result.ended in result.last.note
    assert not any("diverged" in record.note for record in result.history[:-1])
    assert not objectives[-1] < 10 * objectives[0]
    # what is left is the lowest point
    again = distnewton.train(
        settings(methods[name], iterations=0, network=RELU), world, start=result.model,
        train_data=distnewton.ArraySource(*data),
    )  # fmt: skip
    assert again.history[0].objective == pytest.approx(np.nanmin(objectives), rel=1e-12)
    free(result, again)


@pytest.mark.mpi(min_size=1, sizes=(3,))
@pytest.mark.parametrize("k", [1, 3])
def test_a_run_resumed_while_it_climbs_ends_as_it_would_have(world, folder, k):
    source = distnewton.ArraySource(*blobs())
    config = settings(CLIMBS, iterations=200, network=RELU)
    whole, part, rest = stopped_and_resumed(world, folder, config, k, train_data=source)
    assert not part.ended
    assert rest.ended == whole.ended != ""
    same_run(world, whole, part, rest, k)
    # no checkpoint is made of the end: it is reached again
    once_more = distnewton.train(config, world, train_data=source, checkpoints=folder / "c", resume=True)
    assert once_more.ended == whole.ended
    free(whole, part, rest, once_more)
