"""Ranks without samples, features, neurons or outputs: every layer, direction, scaling and loss runs."""

from __future__ import annotations

import numpy as np
import pytest

import distnewton
from distnewton.data.scaling import SCALINGS
from distnewton.directions.registry import DIRECTIONS, PRECONDITIONERS
from distnewton.errors import ConfigError
from distnewton.network.losses import LOSSES

pytestmark = pytest.mark.mpi(min_size=4, sizes=(4,))

CONV = {"type": "conv", "channels": 3, "kernel": 2}
NETWORKS = {
    "dense": {"layers": ["auto", 3, 3, 3, "auto"]},
    # convolutions before a convolution, before either pooling, and a flattened image
    "images": {
        "input": [3, 8, 8],
        "layers": [CONV, CONV, {"type": "max_pool", "size": 2}, CONV, {"type": "avg_pool", "size": 2},
                   {"type": "dense", "width": "auto"}],
    },
}  # fmt: skip
N_FEATURES = {"dense": 3, "images": 192}
# three of everything for four groups
CASES = {
    "no samples of a batch": {"replicas": 4},
    "no features, no neurons of layer 2, no outputs": {"splits": [4, 1, 4, 1, 4]},
    "no neurons of layers 1 and 3": {"splits": [1, 4, 1, 4, 1]},
}
METHODS = {
    **{name: {"direction": name} for name in DIRECTIONS},
    **{f"gauss_newton {name}": {"direction": "gauss_newton", "preconditioner": name} for name in PRECONDITIONERS},
    "sgn dual": {"direction": "sgn", "solver": "dual", "damping": 1.0},
}
SAME = {"gauss_newton", "dual", "sgd", "adam", "grouped_newton", "sgn dual", "gauss_newton diagonal"}
"""Methods that take the same steps on every grid; on replicas of one grid all do."""
APART = {"block_diagonal", "block_dual", "sgn"}
"""Methods whose replicas solve by themselves, so that each needs a sample."""


def blobs(n, n_features, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    return 2 * rng.standard_normal((3, n_features))[y] + rng.standard_normal((n, n_features)), y


def options(name):
    """A method with two samples in each batch, or in its curvature."""
    method = METHODS[name]
    takes_batches = hasattr(distnewton.make_config({"method": method}).method, "batch")
    return method | ({"batch": 2} if takes_batches else {"subsample_min": 2, "subsample": 1e-3})


def train(comm, network, method, sets, **tables):
    tree = {
        "network": {"activation": "tanh"} | network, "method": method,
        "run": {"iterations": 2, "dtype": "float64", "deterministic": True, "threads": 1, "seed": 1}, **tables,
    }  # fmt: skip
    given = {which: distnewton.ArraySource(*arrays) for which, arrays in sets.items()}
    result = distnewton.train(distnewton.make_config(tree), comm, **given)
    params = result.model.params.copy()
    result.model.grid.free()
    return numbers(result), params


def numbers(result):
    return [
        [r.objective, r.gradient_norm or 0.0, *r.train.values(), *r.validation.values(), *r.test.values()]
        for r in result.history
    ]


def run(comm, kind, name, **tables):
    return train(comm, NETWORKS[kind], options(name), {"train_data": blobs(9, N_FEATURES[kind])}, **tables)


def alone(world, train_alone):
    """Numbers of a run on one rank, which one rank makes for all."""
    return world.broadcast_json(train_alone()[0] if world.rank == 0 else None)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", NETWORKS)
def test_directions_run_where_ranks_have_nothing(world, kind, name):
    expected = alone(world, lambda: run(None, kind, name))
    for case, partition in CASES.items():
        if "replicas" in partition and name in APART:
            with pytest.raises(ConfigError, match=r"2 samples in the curvature of .* cannot be shared by 4 replicas"):
                run(world, kind, name, partition=partition)
            continue
        found, params = run(world, kind, name, partition=partition)
        assert not world.any(not np.isfinite(params).all()), case
        assert np.isfinite(found).all(), case
        if "replicas" in partition or name in SAME:
            np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10, err_msg=case)


SETTINGS = [
    *({"data": {"scale": name}} for name in SCALINGS),
    *({"network": {"loss": name}} for name in LOSSES),
]


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_scalings_and_losses_do(world, setting):
    X, y = blobs(9, 3)
    network = {"layers": ["auto", 3, 3, 3, "auto"]} | setting.get("network", {})
    y = y % 2 if network.get("loss") == "logistic" else y
    held_out = {f"{which}_data": (np.abs(X[:n]), y[:n]) for which, n in (("validation", 3), ("test", 1))}
    given = {"train_data": (np.abs(X), y), **held_out}
    tables = {"data": setting.get("data", {"scale": "none"})}
    method = {"direction": "gauss_newton", "subsample_min": 2, "subsample": 1e-3}
    expected = alone(world, lambda: train(None, network, method, given, **tables))
    for case, partition in CASES.items():
        found, _ = train(world, network, method, given, **tables, partition=partition)
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10, err_msg=case)


def test_fewer_samples_than_replicas_are_refused(world):
    for name in METHODS:
        with pytest.raises(ConfigError, match=r"[23] samples .*cannot be shared by 4 replicas of the grid: lower"):
            train(world, NETWORKS["dense"], options(name), {"train_data": blobs(3, 3)}, partition={"replicas": 4})
