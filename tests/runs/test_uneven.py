"""Runs whose blocks follow the speeds of ranks: the same numbers, and checkpoints go on."""

from __future__ import annotations

import numpy as np
import pytest

import distnewton
from distnewton.errors import ConfigError
from distnewton.parallel.partition import regular_splits

pytestmark = pytest.mark.mpi(min_size=1, sizes=(3, 7))


def blobs(n=60, n_features=9, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=n)
    return 2 * rng.standard_normal((3, n_features))[y] + rng.standard_normal((n, n_features)), y


def run(comm, partition=None, iterations=4, method=None, **more):
    tree = {
        "network": {"layers": ["auto", 11, 6, "auto"]}, "partition": partition or {},
        "run": {"iterations": iterations, "dtype": "float64", "deterministic": True, "threads": 1},
        "method": method or {"direction": "gauss_newton", "subsample": 0.5},
    }  # fmt: skip
    config = distnewton.make_config(tree)
    result = distnewton.train(config, comm, train_data=distnewton.ArraySource(*blobs()), **more)
    weights = result.model.weights()
    result.model.grid.free()
    return [record.objective for record in result.history], result, weights


def speeds_of(n):
    return [(1.0, 0.5, 0.75, 0.3)[i % 4] for i in range(n)]


def test_history_and_model_are_those_of_one_rank(world):
    alone, _, weights = run(None)
    for splits in [*regular_splits(world.size, 3), "auto"]:
        partition = {"splits": splits if splits == "auto" else list(splits), "speeds": speeds_of(world.size)}
        found, result, gathered = run(world, partition)
        np.testing.assert_allclose(found, alone, rtol=1e-10, err_msg=str(partition))
        assert world.size == 1 or result.summary.partition.speeds == tuple(speeds_of(world.size))
        if world.rank == 0:
            assert gathered.keys() == weights.keys()
        wrong = world.rank == 0 and any(abs(gathered[k] - weights[k]).max() > 1e-9 for k in weights)
        assert not world.any(wrong)


def test_measured_speeds_train(world):
    alone, _, _ = run(None)
    found, _, _ = run(world, {"speeds": "measured"})
    np.testing.assert_allclose(found, alone, rtol=1e-10)


def test_a_checkpoint_goes_on_with_other_speeds(world, folder):
    alone, _, _ = run(None, iterations=6)
    kept = {"checkpoints": folder / "c"}
    run(world, {"speeds": speeds_of(world.size)}, iterations=3, **kept)
    found, result, _ = run(world, {"speeds": speeds_of(world.size)[::-1]}, iterations=6, resume=True, **kept)
    np.testing.assert_allclose(found, alone[3:], rtol=1e-9)
    others = any("other speeds" in note for note in result.summary.notes)
    assert others == (world.size > 1 and len(set(speeds_of(world.size))) > 1)


def test_too_many_speeds_are_refused(world):
    with pytest.raises(ConfigError, match=rf"has {world.size + 1} numbers, but there are {world.size} ranks"):
        run(world, {"speeds": [1.0] * (world.size + 1)})
