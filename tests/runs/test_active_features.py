"""Features that no training sample has: a run without their weights is the run with them, to rounding."""

from __future__ import annotations

import numpy as np
import pytest
from resumed import facts, stopped_and_resumed
from scipy.sparse import csr_array

import distnewton
from distnewton.directions.registry import DIRECTIONS, PRECONDITIONERS
from distnewton.errors import DataError
from distnewton.network.active import ActiveNetwork

pytestmark = pytest.mark.mpi(min_size=1, sizes=(1, 3, 4))

N_FEATURES = 60
METHODS = {
    **{name: {"direction": name} for name in DIRECTIONS},
    **{f"gauss_newton {name}": {"direction": "gauss_newton", "preconditioner": name} for name in PRECONDITIONERS},
    "gauss_newton by diagonal": {"direction": "gauss_newton", "damping_form": "diagonal", "damping": 0.1},
    "block_diagonal plain": {"direction": "block_diagonal", "preconditioner": "none"},
}
BY_DIMENSION = {"kfac", "block_diagonal", "sgn", "gauss_newton kfac", "grouped_newton"}
"""Methods with Kronecker factors, whose damping depends on how many variables there are."""
GRIDS = ("features", "neurons", "outputs", "blocks")


def samples(n, seed):
    """Sparse samples without the first features, so that of three or four groups one has none, nor others."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, N_FEATURES)) * (rng.random((n, N_FEATURES)) < 0.1)
    X[:, :20] = X[:, 35:42] = 0
    X[:, ::5] = 0
    return X, np.arange(n) % 3


X, Y = samples(40, 0)
X_TEST, Y_TEST = np.random.default_rng(1).standard_normal((12, N_FEATURES)), np.arange(12) % 3
ACTIVE = X.any(axis=0)


def settings(method, grid, world, **run):
    splits = {
        "features": [world.size, 1, world.size], "neurons": [1, world.size, 1],
        "outputs": [1, 1, world.size],  # ranks but one have no features
        "blocks": "auto",
    }[grid]  # fmt: skip
    is_batch = hasattr(distnewton.make_config({"method": method}).method, "batch")
    sizes = {"batch": 15} if is_batch else {"subsample": 0.5, "subsample_min": 1}
    return distnewton.make_config({
        "network": {"layers": ["auto", 5, "auto"], "activation": "tanh", "init": "he"},
        "partition": {"splits": splits, **({"blocks": 12} if grid == "blocks" else {})},
        "data": {"scale": "none"},
        "method": {"C": 20.0, **sizes, **method},
        "run": {"iterations": 3, "dtype": "float64", "deterministic": True, "threads": 1, **run},
    })  # fmt: skip


def train(world, config, dense=False, features=slice(None), **options):
    data = X[:, features], X_TEST[:, features]
    train_X, test_X = data if dense else map(csr_array, data)
    return distnewton.train(config, world, train_data=(train_X, Y), test_data=(test_X, Y_TEST), **options)


def numbers(result):
    return [[r.objective, r.gradient_norm or 0.0, *r.train.values(), *r.test.values()] for r in result.history]


def begun(world, config):
    """A model of the first point, with all weights."""
    return train(world, config.model_copy(update={"run": config.run.model_copy(update={"iterations": 0})})).model


def same(world, result, expected, rows=slice(None)):
    """Verdict: the same course and, where rows of the first layer are the same, the same model."""
    np.testing.assert_allclose(numbers(result), numbers(expected), rtol=1e-7, atol=1e-9)
    wanted = expected.model.network.layout.views(expected.model.params)
    wrong = [
        m for m, view in result.model.network.layout.views(result.model.params).items()
        if not np.allclose(view.W[rows] if m == 1 else view.W, wanted[m].W, rtol=1e-6, atol=1e-8)
    ]  # fmt: skip
    # ranks own blocks of other layers
    assert not world.any(bool(wrong)), wrong


@pytest.mark.parametrize(("k", "name"), [*enumerate(sorted(METHODS.keys() - BY_DIMENSION))])
def test_the_run_is_that_with_all_weights(world, k, name):
    # methods take turns with the grids, others on each number of ranks
    config = settings(METHODS[name], GRIDS[(k + world.size) % len(GRIDS)], world)
    result = train(world, config)
    expected = train(world, config, dense=True, start=begun(world, config))
    assert "their weights are 0" in " ".join(result.summary.notes)
    same(world, result, expected)


@pytest.mark.mpi(sizes=(3,))
@pytest.mark.parametrize("name", sorted(METHODS))
def test_the_run_is_that_on_the_other_features(world, name):
    config = settings(METHODS[name], "neurons", world)
    whole, start = begun(world, config), begun(world, config)
    start = train(
        world, config.model_copy(update={"run": config.run.model_copy(update={"iterations": 0})}),
        dense=True, features=ACTIVE,
    ).model  # fmt: skip
    own, of_whole = (model.network.layout.views(model.params) for model in (start, whole))
    for m, view in own.items():
        view.W[...] = of_whole[m].W[ACTIVE] if m == 1 else of_whole[m].W
    same(world, train(world, config), train(world, config, dense=True, features=ACTIVE, start=start), rows=ACTIVE)


@pytest.mark.parametrize("name", ["gauss_newton", "dual", "adam"])
def test_without_regularisation_too(world, name):
    config = settings({"direction": name, "C": np.inf}, "features", world)
    same(world, train(world, config), train(world, config, dense=True, start=begun(world, config)))


def test_on_any_grid_from_the_same_weights(world):
    alone = world.broadcast_json(
        numbers(train(None, settings(METHODS["dual"], "blocks", world))) if world.rank == 0 else None
    )
    for grid in GRIDS:
        found = train(world, settings(METHODS["dual"], grid, world))
        np.testing.assert_allclose(numbers(found), alone, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["gauss_newton", "block_diagonal", "kfac"])
def test_a_resumed_run_is_the_same_to_the_last_bit(world, folder, name):
    config = settings(METHODS[name], "features", world, iterations=4)
    data = {"train_data": (csr_array(X), Y), "test_data": (csr_array(X_TEST), Y_TEST)}
    whole, part, rest = stopped_and_resumed(world, folder, config, 2, **data)
    assert [facts(r) for r in (*part.history, *rest.history[1:])] == [facts(r) for r in whole.history]
    assert not world.any(not np.array_equal(whole.model.params, rest.model.params))


def test_a_resumed_run_goes_on_on_another_grid(world, folder):
    def config(grid):
        return settings(METHODS["gauss_newton"], grid, world, iterations=4)

    data = {"train_data": (csr_array(X), Y), "test_data": (csr_array(X_TEST), Y_TEST)}
    whole, part, _ = stopped_and_resumed(world, folder, config("features"), 2, **data)
    assert part.last.iteration == 2
    for checkpoint in sorted((folder / "c").glob("*4*")) if world.rank == 0 else []:
        checkpoint.rename(folder / checkpoint.name)
    world.barrier()
    rest = distnewton.train(config("neurons"), world, **data, checkpoints=folder / "c", resume=True)
    np.testing.assert_allclose(rest.last.objective, whole.last.objective, rtol=1e-9)


def test_weights_of_a_first_model_count(world):
    """Weights that are not zero shrink as all do, whether a sample has the feature or not."""
    config = settings(METHODS["gauss_newton"], "features", world)
    start = begun(world, config)
    for m, view in start.network.layout.views(start.params).items():
        if m == 1:
            view.W[...] += 0.1
    result = train(world, config, start=start)
    same(world, result, train(world, config, dense=True, start=start))
    session = distnewton.runs.session.Session(config, world, given={"train": (csr_array(X), Y)})
    with pytest.raises(DataError, match=r"has weights for features that no training sample has: pass it as the"):
        session.train(config, start=start)


def test_a_layer_without_biases_is_the_same_on_any_grid(world):
    def run(comm, splits):
        config = settings(METHODS["dual"], "blocks", world)
        layers = [{"type": "dense", "width": 4, "bias": False}, {"type": "dense", "width": "auto"}]
        network = config.network.model_validate({**config.network.model_dump(), "layers": layers})
        partition = config.partition.model_copy(update={"splits": splits, "blocks": "ranks"})
        result = train(comm, config.model_copy(update={"network": network, "partition": partition}))
        assert result.summary.shape.n_params == 60 * 4 + 5 * 3
        return numbers(result), result.model.weights()

    alone, weights = run(None, "auto")
    assert not weights["0.bias"].any()
    assert weights["2.bias"].any()
    for splits in ([world.size, 1, world.size], [1, world.size, 1]):
        found, others = run(world, splits)
        np.testing.assert_allclose(found, alone, rtol=1e-8, atol=1e-10)
        fine = others is None or all(np.allclose(others[name], W, atol=1e-8) for name, W in weights.items())
        assert not world.any(not fine)


def test_samples_without_features(world):
    config = settings(METHODS["gauss_newton"], "features", world)
    result = distnewton.train(config, world, train_data=(csr_array(X * 0), Y))
    assert np.isfinite(result.last.objective)


def test_a_rank_holds_what_its_features_need(world):
    config = settings(METHODS["dual"], "features", world)
    session = distnewton.runs.session.Session(config, world, given={"train": (csr_array(X), Y)})
    network = session.setup.training.objective.network
    start, stop = session.setup.placement.grid.feature_range()
    assert isinstance(network, ActiveNetwork)
    assert network.layout.blocks[1].shape[0] == ACTIVE[start:stop].sum()
    assert network.grid.partition.n_params(network.grid.rank) == network.layout.n_params
