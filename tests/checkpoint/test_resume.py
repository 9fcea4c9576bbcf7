"""A run that was stopped and resumed is the run that was not: bit for bit on the same grid, for every direction."""

from __future__ import annotations

import numpy as np
import pytest
from resumed import blobs, free, same_run, settings, stopped_and_resumed

import distnewton

pytestmark = pytest.mark.mpi(min_size=1, sizes=(3,))

FEW = {"subsample": 0.3, "subsample_min": 1}
BATCH = {"batch": 40}
# rejects most directions, so that points are linearised once and tried several times
REJECTS = {"sufficient_decrease": 0.9, "line_search_max": 1}
METHODS = {
    "block_diagonal": FEW,
    "block_diagonal warm": {**FEW, "warm_start": 0.9, "cg_stop": "progress", "cg_max": 5},
    "block_diagonal diagonal": {**FEW, "preconditioner": "diagonal", "blocks": "layer"},
    "block_diagonal kfac": {**FEW, "preconditioner": "kfac", "inverse_period": 3, "statistics_period": 2},
    "block_diagonal rejected": {**FEW, **REJECTS, "preconditioner": "kfac", "sketch": 2, "cg_max": 3},
    "gauss_newton": FEW,
    "gauss_newton warm": {**FEW, "warm_start": 0.5, "preconditioner": "mini_block_fisher", "inverse_period": 2},
    "gauss_newton rejected": {**FEW, **REJECTS, "preconditioner": "diagonal", "jacobian": "recomputed"},
    "dual": FEW,
    "dual momentum": {**FEW, "momentum": 0.9, "acceleration": 0.75, "damping_form": "diagonal"},
    "dual rejected": {**FEW, **REJECTS},
    "block_dual": {**FEW, "combine": "scale"},
    "sgn": BATCH,
    "sgn gauss_newton": {**BATCH, "solver": "gauss_newton", "preconditioner": "diagonal", "steps": 3, **REJECTS},
    "sgn kfac": {**BATCH, "solver": "kfac", "inverse_period": 5},
    "kfac": BATCH,
    "kfac last": {**BATCH, "average": 0.0, "momentum": 0.0, "rate_decay": "cosine", "steps": 3},
    "mini_block_fisher": {**BATCH, "mini_blocks": "neuron"},
    "grouped_newton": {**BATCH, "rate_period": 3},
    "grouped_newton rank": {**BATCH, "groups": "rank", "proposal": "kfac", "negative_rates": True},
    "grouped_newton adam": {**BATCH, "proposal": "adam", "average": 0.9},
    "sgd": BATCH,
    "adam": {**BATCH, "average": 0.98},
}


@pytest.mark.parametrize("name", METHODS)
def test_every_direction_goes_on_bit_for_bit(world, folder, name):
    source = distnewton.ArraySource(*blobs())
    run = {"dtype": "float32" if " " in name else "float64"}
    config = settings({"direction": name.split()[0], **METHODS[name]}, iterations=5, run=run)
    results = stopped_and_resumed(world, folder, config, 3, train_data=source)
    same_run(world, *results, 3)
    if "rejected" in name:
        assert results[1].last.step_size == 0.0
    free(*results)


def test_a_run_goes_on_from_before_its_first_damping(world, folder):
    source = distnewton.ArraySource(*blobs())
    config = settings({"direction": "dual", **FEW}, iterations=3)
    results = stopped_and_resumed(world, folder, config, 0, train_data=source)
    same_run(world, *results, 0)
    free(*results)


@pytest.mark.parametrize("k", [0, 2, 3, 5])
def test_schedules_go_on_from_each_of_their_iterations(world, folder, k):
    source = distnewton.ArraySource(*blobs())
    schedule = [
        {"direction": "kfac", "iterations": 2, "rate_decay": "linear", **BATCH},
        {"direction": "sgn", "iterations": 1, **BATCH},
        {"direction": "adam", "iterations": 2, **BATCH},
    ]
    config = settings({"direction": "gauss_newton", "schedule": schedule, **FEW}, iterations=6)
    results = stopped_and_resumed(world, folder, config, k, train_data=source)
    same_run(world, *results, k)
    free(*results)


@pytest.mark.parametrize("direction", ["block_diagonal", "kfac", "mini_block_fisher"])
def test_networks_on_images_go_on(world, folder, direction):
    rng = np.random.default_rng(0)
    source = distnewton.ArraySource(rng.standard_normal((60, 3 * 6 * 6)), rng.integers(3, size=60))
    layers = [
        {"type": "conv", "channels": 4, "kernel": 3},
        {"type": "max_pool", "size": 2},
        {"type": "conv", "channels": 5, "kernel": 2},
        {"type": "dense", "width": "auto"},
    ]
    network = {"layers": layers, "input": [3, 6, 6], "activation": "relu"}
    config = settings({"direction": direction}, network=network, iterations=4)
    results = stopped_and_resumed(world, folder, config, 2, train_data=source)
    same_run(world, *results, 2)
    free(*results)
