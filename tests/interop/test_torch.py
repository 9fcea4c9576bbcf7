"""PyTorch: modules made of models, models made of modules, and what cannot be taken over."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from launched import launches, mpirun, run

import distnewton
from distnewton.errors import ConfigError, MissingExtraError

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'distnewton[torch]'")
from torch import nn  # noqa: E402

from distnewton.torch import from_torch, to_torch  # noqa: E402

ACTIVATIONS = {
    "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU, "softplus": nn.Softplus, "identity": nn.Identity
}  # fmt: skip
IMAGE = (2, 9, 8)
TABLES = [
    {"type": "conv", "channels": 5, "kernel": [3, 2], "padding": [1, 0]}, {"type": "max_pool", "size": 2},
    {"type": "conv", "channels": 4, "kernel": 2, "stride": [1, 2]}, {"type": "avg_pool", "size": [2, 1], "stride": 1},
    {"type": "dense", "width": 6}, {"type": "dense", "width": "auto"},
]  # fmt: skip


def image_module(activation=nn.Tanh):
    return nn.Sequential(
        nn.Conv2d(2, 5, (3, 2), padding=(1, 0)), activation(), nn.MaxPool2d(2),
        nn.Conv2d(5, 4, 2, stride=(1, 2)), activation(), nn.AvgPool2d((2, 1), stride=1),
        nn.Flatten(), nn.Linear(4 * 2 * 1, 6), activation(), nn.Linear(6, 3),
    )  # fmt: skip


def dense_module(activation=nn.Tanh, n_out=3):
    return nn.Sequential(nn.Linear(7, 6), activation(), nn.Linear(6, 5), activation(), nn.Linear(5, n_out))


def data(kind, n=40, seed=0):
    rng = np.random.default_rng(seed)
    shape = IMAGE if kind == "images" else (7,)
    return (3 + 2 * rng.standard_normal((n, *shape))).astype(np.float32), rng.integers(3, size=n)


def trained(world, kind, activation="tanh", scale="none", dtype="float32", iterations=2):
    X, y = data(kind)
    layers = {"layers": TABLES} if kind == "images" else {"layers": ["auto", 6, 5, "auto"]}
    X = np.abs(X) if scale.startswith("log1p") else X
    config = distnewton.make_config({
        "data": {"scale": scale},
        "network": {**layers, "activation": activation},
        "run": {"iterations": iterations, "dtype": dtype},
    })
    return distnewton.train(config, world, train_data=distnewton.ArraySource(X, y)).model, X


def outputs(module, X):
    with torch.no_grad():
        return module(torch.from_numpy(X)).numpy()


@pytest.mark.mpi(min_size=1)
@pytest.mark.parametrize("kind", ["dense", "images"])
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_the_module_has_the_models_outputs_on_every_rank(world, folder, kind, activation):
    model, X = trained(world, kind, activation)
    module = to_torch(model)
    expected, _, _ = model.outputs(distnewton.ArraySource(X, np.zeros(len(X))))
    good = np.allclose(outputs(module, X), expected, rtol=1e-4, atol=1e-5)
    model.save(folder / "model.safetensors")
    from safetensors.torch import load_file

    twin = image_module(ACTIVATIONS[activation]) if kind == "images" else dense_module(ACTIVATIONS[activation])
    twin.load_state_dict(load_file(folder / "model.safetensors"))
    state, other = module.state_dict(), twin.state_dict()
    good &= list(state) == list(other) and all(torch.equal(state[name], other[name]) for name in state)
    good &= [type(m) for m in module] == [type(m) for m in twin]
    world.barrier()
    from_file = to_torch(folder / "model.safetensors")
    good &= all(torch.equal(value, from_file.state_dict()[name]) for name, value in state.items())
    assert not world.any(not good)
    model.grid.free()


@pytest.mark.mpi(min_size=1)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", ["standard", "minmax_joint", "center", "unit_rows", "log1p_unit_rows"])
@pytest.mark.parametrize("kind", ["dense", "images"])
def test_the_scaling_of_features_is_a_module_without_names(world, kind, scale, dtype):
    model, X = trained(world, kind, scale=scale, dtype=dtype)
    module = to_torch(model)
    X[3] = 0
    expected, _, _ = model.outputs(distnewton.ArraySource(X, np.zeros(len(X))))
    tolerance = {"float32": 1e-4, "float64": 1e-12}[dtype]
    good = np.allclose(outputs(module, X), expected, rtol=tolerance, atol=tolerance)
    good &= module(torch.from_numpy(X)).dtype == getattr(torch, dtype)
    good &= not any(name.startswith("scaling") for name in module.state_dict())
    good &= not list(module.scaling.parameters())
    assert not world.any(not good)
    model.grid.free()


@pytest.mark.parametrize("kind", ["dense", "images"])
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_there_and_back_all_weights_are_equal(kind, activation, dtype):
    make = image_module if kind == "images" else dense_module
    module = make(ACTIVATIONS[activation]).to(getattr(torch, dtype))
    imported = from_torch(module, input=IMAGE if kind == "images" else None)
    back = to_torch(imported.model)
    assert list(back.state_dict()) == list(module.state_dict())
    assert all(torch.equal(value, back.state_dict()[name]) for name, value in module.state_dict().items())
    assert [type(m) for m in back] == [type(m) for m in module]
    assert imported.network["activation"] == activation
    config = distnewton.make_config({"network": imported.network})
    assert config.network.loss == "cross_entropy"
    X, _ = data(kind)
    found, _, _ = imported.model.outputs(distnewton.ArraySource(X.astype(dtype), np.zeros(len(X))))
    np.testing.assert_allclose(found, outputs(module, X.astype(dtype)), rtol=1e-4, atol=1e-5)


def test_other_ways_to_write_the_same_network():
    torch.manual_seed(0)
    convolution = nn.Conv2d(1, 3, 3, padding="same")
    X = torch.randn(5, 1, 6, 6)
    nested = nn.Sequential(nn.Sequential(convolution, nn.MaxPool2d(2), nn.ReLU()), nn.Flatten(), nn.Linear(27, 2))
    imported = from_torch(nested, input=(1, 6, 6))
    found, _, _ = imported.model.outputs(distnewton.ArraySource(X.numpy(), np.zeros(5)))
    np.testing.assert_allclose(found, nested(X).detach().numpy(), rtol=1e-4, atol=1e-6)
    assert imported.network["layers"][0]["padding"] == [1, 1]
    # no activation at all, and Flatten in front of rows of features
    linear = nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.Linear(4, 2))
    imported = from_torch(linear)
    assert imported.network == {"layers": [36, 4, 2], "activation": "identity", "loss": "cross_entropy"}
    found, _, _ = imported.model.outputs(distnewton.ArraySource(X.numpy(), np.zeros(5)))
    np.testing.assert_allclose(found, linear(X).detach().numpy(), rtol=1e-4, atol=1e-6)
    averaged = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 2))
    assert from_torch(averaged, input=(1, 6, 6)).network["activation"] == "identity"


def test_what_the_outputs_mean():
    module = dense_module()
    assert from_torch(module).model.architecture.task.classes.classes == (0, 1, 2)
    task = from_torch(module, classes=["ant", "bee", "cat"]).model.architecture.task
    assert (task.name, task.classes.classes) == ("classification", ("ant", "bee", "cat"))
    task = from_torch(dense_module(n_out=1), loss="logistic", classes=[-1, 1]).model.architecture.task
    assert (task.name, task.classes.classes, task.n_out) == ("binary", (-1, 1), 1)
    task = from_torch(module, loss="squared").model.architecture.task
    assert (task.name, task.classes, task.n_out) == ("regression", None, 3)


CONV, LINEAR = nn.Conv2d(1, 2, 3), nn.Linear(8, 3)
REFUSED = [
    ([nn.Linear(4, 3), nn.Dropout(), nn.Linear(3, 2)], r"1: Dropout.*call eval\(\)"),
    ([nn.Linear(4, 3), nn.GELU(), nn.BatchNorm1d(3), nn.Linear(3, 2)], r"1: GELU.*\n.*2: BatchNorm1d.*\nsupported are"),
    ([nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2), nn.Softmax(1)], "the loss takes logits"),
    ([nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2), nn.ReLU()], "outputs must be linear"),
    ([nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)], "is relu, but others are tanh"),
    ([nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3), nn.Linear(3, 2)], "is identity, but others are tanh"),
    ([nn.Linear(4, 3), nn.Tanh(), nn.ReLU(), nn.Linear(3, 2)], "directly follow a layer"),
    ([nn.Linear(4, 3, bias=False), nn.Tanh(), nn.Linear(3, 2)], "needs a bias"),
    ([nn.Linear(4, 3), nn.Softplus(beta=2), nn.Linear(3, 2)], "beta must be 1"),
    ([nn.Linear(4, 3), nn.Tanh(), nn.Linear(4, 2)], "receives 3 features"),
    ([nn.Linear(4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(3, 2)], "already flat"),
    ([nn.Linear(4, 3), nn.Tanh(), nn.MaxPool2d(2), nn.Linear(3, 2)], "must follow a convolution"),
    ([], "must be a Linear"),
    ([CONV, nn.Tanh()], "must be a Linear"),
    ([CONV, nn.Tanh(), LINEAR], "Flatten is missing"),
    ([CONV, nn.AvgPool2d(2), nn.Tanh(), nn.Flatten(), LINEAR], "follows AvgPool2d, but must precede it"),
    ([CONV, nn.Tanh(), nn.MaxPool2d(2, padding=1), nn.Flatten(), LINEAR], "padding must be 0"),
    ([CONV, nn.Tanh(), nn.MaxPool2d(2, ceil_mode=True), nn.Flatten(), LINEAR], "ceil_mode must be False"),
    ([nn.Conv2d(1, 2, 3, dilation=2), nn.Tanh(), nn.Flatten(), LINEAR], "dilation must be 1"),
    ([nn.Conv2d(2, 2, 3, groups=2), nn.Tanh(), nn.Flatten(), LINEAR], "groups must be 1"),
    ([nn.Conv2d(1, 2, 2, padding="same"), nn.Tanh(), nn.Flatten(), LINEAR], "odd kernel"),
    ([nn.Flatten(), CONV, nn.Tanh(), nn.Flatten(), LINEAR], "only Linear can follow"),
    ([CONV, nn.Tanh(), nn.Flatten(), LINEAR], "receives 32 features"),
]


@pytest.mark.parametrize(("modules", "message"), REFUSED, ids=[str(k) for k in range(len(REFUSED))])
def test_what_cannot_be_taken_over_is_named(modules, message):
    images = any(isinstance(module, nn.Conv2d) for module in modules)
    channels = next((module.in_channels for module in modules if isinstance(module, nn.Conv2d)), 1)
    with pytest.raises(ConfigError, match=message):
        from_torch(nn.Sequential(*modules), input=(channels, 6, 6) if images else None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "hinge"}, "unknown loss 'hinge'"), ({"loss": "logistic"}, "takes one output, but the module has 3"),
        ({"classes": ["a", "b"]}, "has 3 classes, got 2"), ({"classes": ["b", "a", "c"]}, "must be distinct"),
        ({"classes": [1, 2, 3], "loss": "squared"}, "classes are for"), ({"input": (1, 7, 1)}, "but this one has none"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ConfigError, match=message):
        from_torch(dense_module(), **options)


def test_other_faults():
    with pytest.raises(ConfigError, match=r"takes a torch\.nn\.Sequential, got Linear"):
        from_torch(nn.Linear(3, 2))
    with pytest.raises(ConfigError, match=r"give input = \(2, height, width\)"):
        from_torch(image_module())
    with pytest.raises(ConfigError, match="all be float32, or all float64"):
        from_torch(dense_module().half())


def test_the_extra_is_named_where_torch_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "distnewton.torch")
    with pytest.raises(MissingExtraError, match=r"pip install 'distnewton\[torch\]'"):
        importlib.import_module("distnewton.torch")


@pytest.mark.mpi(min_size=1)
@pytest.mark.parametrize("kind", ["dense", "images"])
def test_a_run_starts_from_the_modules_weights(world, kind):
    torch.manual_seed(1)
    module = (image_module() if kind == "images" else dense_module()).double()
    X, y = data(kind)
    X = X.astype(np.float64)
    imported = from_torch(module, classes=["ant", "bee", "cat"], input=IMAGE if kind == "images" else None)
    labels = np.array(["ant", "bee", "cat"])[y]
    config = distnewton.make_config({
        "network": imported.network, "run": {"iterations": 4, "dtype": "float64"}, "method": {"C": 50.0}
    })  # fmt: skip
    source = distnewton.ArraySource(X, labels)
    result = distnewton.train(config, world, train_data=source, start=imported.model)

    def objective(module):
        with torch.no_grad():
            loss = nn.functional.cross_entropy(module(torch.from_numpy(X)), torch.from_numpy(y))
            return float(loss + sum((p**2).sum() for p in module.parameters()) / (2 * 50.0))

    trained = to_torch(result.model)
    good = result.history[0].objective == pytest.approx(objective(module), rel=1e-12)
    good &= result.last.objective == pytest.approx(objective(trained), rel=1e-12)
    good &= result.last.objective < result.history[0].objective
    # back into the user's own module, whose names are the same
    module.load_state_dict(trained.state_dict())
    good &= objective(module) == objective(trained)
    assert not world.any(not good)
    result.model.grid.free()


EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "torch_and_back.py"


@pytest.mark.parametrize("n_ranks", [pytest.param(4, marks=launches)])
def test_the_example_trains_over_ranks_and_goes_on_in_torch(n_ranks):
    done = run([*mpirun(n_ranks), sys.executable, "-m", "mpi4py", EXAMPLE], OMP_NUM_THREADS="1")
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert first.startswith(f"ranks {n_ranks}, loss ")
    losses = [float(word) for word in re.findall(r"\d\.\d{4}", done.stdout)]
    assert losses == sorted(losses, reverse=True)
    assert losses[1] < 0.5 * losses[0]
    assert second.startswith("after 100 steps of Adam")
