"""Networks on images as a user trains, saves and loads them: the equal Sequential, every number of ranks, refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest

import distnewton
from distnewton.errors import ConfigError, DataError

pytestmark = pytest.mark.mpi(min_size=1)

LAYERS = [
    {"type": "conv", "channels": 5, "kernel": [3, 2], "padding": [1, 0]},
    {"type": "max_pool", "size": 2},
    {"type": "conv", "channels": 4, "kernel": 2, "stride": [1, 2]},
    {"type": "avg_pool", "size": [2, 1], "stride": 1},
    {"type": "flatten"},
    {"type": "dense", "width": 6},
    {"type": "dense", "width": "auto"},
]
IMAGE = 2, 9, 8


def images(n=60, seed=0):
    """Bright patches at one of three places, in one of two channels."""
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=n)
    X = 0.3 * rng.standard_normal((n, *IMAGE))
    for k, place in enumerate(y):
        X[k, place % 2, 2 * place : 2 * place + 2, 1:6] += 1.5
    return X.reshape(n, -1), y


def configuration(*, direction="gauss_newton", iterations=6, activation="tanh", dtype="float64", **tables):
    return distnewton.make_config({
        "data": {"scale": "minmax_joint", **tables.get("data", {})},
        "network": {"layers": LAYERS, "input": list(IMAGE), "activation": activation},
        "partition": tables.get("partition", {}),
        "method": {"direction": direction, **tables.get("method", {})},
        "run": {"iterations": iterations, "dtype": dtype, "deterministic": True, "threads": 1},
    })


def trained(world, config):
    return distnewton.train(config, world, train_data=distnewton.ArraySource(*images()))


@pytest.fixture(scope="module")
def serial():
    """Objectives of a run of one rank."""
    return [record.objective for record in trained(None, configuration()).history]


def test_every_number_of_ranks_gives_the_same_run(world, serial):
    result = trained(world, configuration())
    np.testing.assert_allclose([record.objective for record in result.history], serial, rtol=1e-7)
    assert serial[-1] < 0.5 * serial[0]


@pytest.mark.parametrize("direction", [
    "block_diagonal", "dual", "block_dual", "sgn", "kfac", "mini_block_fisher", "grouped_newton", "sgd", "adam",
])  # fmt: skip
def test_every_direction_learns(world, direction):
    result = trained(world, configuration(direction=direction, iterations=4))
    assert result.last.objective < result.history[0].objective


def equal_sequential(torch, activation):
    """The same network, written by hand."""
    act = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}[activation]
    return torch.nn.Sequential(
        torch.nn.Conv2d(2, 5, (3, 2), padding=(1, 0)), act(), torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(5, 4, 2, stride=(1, 2)), act(), torch.nn.AvgPool2d((2, 1), stride=1),
        torch.nn.Flatten(), torch.nn.Linear(8, 6), act(), torch.nn.Linear(6, 3),
    )  # fmt: skip


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_torch_takes_the_file_as_it_is(world, folder, activation):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    model = trained(world, configuration(activation=activation, dtype="float32", iterations=3)).model
    model.save(folder / "m")
    twin = equal_sequential(torch, activation)
    twin.load_state_dict(load_file(folder / "m"))
    X, y = images(40, seed=1)
    scaling = model.scaling
    low, high = np.array(images()[0]).min(), np.array(images()[0]).max()
    scaled = (X - (low + high) / 2) * 2 / (high - low)
    assert scaling.kind == "minmax_joint"
    with torch.no_grad():
        expected = twin(torch.from_numpy(scaled.reshape(-1, *IMAGE).astype(np.float32))).numpy()
    outputs, _, _ = model.outputs(distnewton.ArraySource(X, y))
    good = np.allclose(outputs, expected, rtol=1e-5, atol=1e-5)
    assert not world.any(not good)


def test_models_give_the_same_outputs_on_any_number_of_ranks(world, folder):
    model = trained(world, configuration(iterations=2)).model
    model.save(folder / "m")
    source = distnewton.ArraySource(*images(40, seed=1))
    expected, _, _ = model.outputs(source)
    for other in (distnewton.load_model(folder / "m"), distnewton.load_model(folder / "m", world)):
        outputs, _, _ = other.outputs(source)
        good = np.allclose(outputs, expected, rtol=1e-10, atol=1e-12)
        assert not world.any(not good)
        assert other.architecture == model.architecture


def test_file_has_the_keys_and_shapes_of_the_equal_sequential(world, folder):
    from safetensors import safe_open
    from safetensors.numpy import load_file

    trained(world, configuration(iterations=0)).model.save(folder / "m")
    shapes = {name: tensor.shape for name, tensor in load_file(folder / "m").items()}
    assert shapes == {
        "0.weight": (5, 2, 3, 2), "0.bias": (5,), "3.weight": (4, 5, 2, 2), "3.bias": (4,),
        "7.weight": (6, 8), "7.bias": (6,), "9.weight": (3, 6), "9.bias": (3,),
    }  # fmt: skip
    with safe_open(folder / "m", framework="numpy") as file:
        header = json.loads(file.metadata()["distnewton"])
    assert (header["format_version"], header["input"]) == (2, list(IMAGE))
    assert [table["type"] for table in header["layers"]] == [table["type"] for table in LAYERS]


def test_a_part_of_the_samples(world):
    config = configuration(iterations=1, data={"n_train": 20, "scale": "none"})
    result = trained(world, config)
    assert len(result.history) == 2
    # the first samples of the run's order: the start's loss is that of a run on them alone
    order = np.random.Generator(np.random.Philox(key=0, counter=[0, 2, 0, 0])).permutation(60)[:20]
    X, y = images()
    alone = distnewton.train(
        configuration(iterations=0, data={"scale": "none"}),
        world,
        train_data=distnewton.ArraySource(X[order], y[order]),
    )
    np.testing.assert_allclose(result.history[0].objective, alone.history[0].objective, rtol=1e-12)
    with pytest.raises(ConfigError, match=r"data\.n_train = 61, but .* has 60 samples") as caught:
        trained(world, configuration(data={"n_train": 61}))
    assert caught.value.collective


def test_arrays_of_images_need_no_network_input(world):
    X, y = images()
    config = configuration(iterations=1).model_dump()
    config["network"]["input"] = "auto"
    config = distnewton.make_config(config)
    result = distnewton.train(config, world, train_data=distnewton.ArraySource(X.reshape(-1, *IMAGE), y))
    assert result.summary.shape.image_shape == IMAGE
    flat = trained(world, configuration(iterations=1))
    assert result.last.objective == flat.last.objective
    with pytest.raises(ConfigError, match=r"the data is a table of 144 features: .* network\.input"):
        distnewton.train(config, world, train_data=distnewton.ArraySource(X, y))


def test_images_of_another_shape_are_refused(world):
    X, y = images()
    turned = distnewton.ArraySource(X.reshape(-1, 2, 8, 9), y, name="turned")
    model = trained(world, configuration(iterations=0)).model
    message = r"turned has images of \(2, 8, 9\) .* the network takes \(2, 9, 8\)"
    with pytest.raises(DataError, match=message) as caught:
        model.outputs(turned)
    assert caught.value.collective
    with pytest.raises(DataError, match=message):
        distnewton.train(configuration(), world, train_data=turned)
    with pytest.raises(DataError, match=message):
        distnewton.train(
            configuration(), world, train_data=distnewton.ArraySource(X, y), test_data=turned
        )


def test_splits_of_another_length_are_told_in_channels():
    with pytest.raises(ConfigError, match="3 numbers for 5 groups of channels or neurons: those of the input images"):
        configuration(partition={"splits": [1, 1, 1]})
