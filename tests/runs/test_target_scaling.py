"""The units of a regression's targets change nothing but the units of what is reported."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from launched import call
from models.test_model import read_file, without_checksums

from distnewton import ArraySource, load_model, make_config, train
from distnewton.data.target_scaling import TargetScaling
from distnewton.errors import DataError

mpi = pytest.mark.mpi(min_size=1, sizes=(1, 3))
RNG = np.random.default_rng(3)
X = RNG.normal(size=(300, 4))
Y = np.sin(X[:, :1]) + X[:, 1:3] ** 2
UNITS = [(1e4, 0.0), (1.0, 1e6), (1e-3, -2.0), (1e30, 0.0)]


def trained(comm, y, dtype="float32", iterations=15, **more):
    config = make_config({
        "network": {"layers": ["auto", 6, "auto"], "loss": "squared"},
        # the default on several ranks ends CG by who is first
        "method": {"direction": "gauss_newton"},
        "run": {"iterations": iterations, "dtype": dtype},
    })
    source, test = ArraySource(X[:200], y[:200]), ArraySource(X[200:], y[200:])
    return train(config, comm, train_data=source, test_data=test, **more)


@mpi
@pytest.mark.parametrize(("factor", "shift"), UNITS)
def test_units_change_nothing_else(world, factor, shift):
    base, other = (trained(world, y, "float64") for y in (Y, factor * Y + shift))
    a, b = base.last, other.last
    good = np.isclose(a.objective, b.objective, rtol=1e-4)
    good = good and np.isclose(factor * a.test["rmse"], b.test["rmse"], rtol=1e-4)
    good = good and np.isclose(a.test["r2"], b.test["r2"], rtol=1e-4)
    outputs, scaled = (result.model.outputs(ArraySource(X, Y))[0] for result in (base, other))
    good = good and np.allclose(factor * outputs + shift, scaled, rtol=1e-6, atol=1e-3 * factor)
    points = other.predictions
    good = good and np.isclose(np.mean(points["targets"]), (factor * Y[200:] + shift).mean(), rtol=1e-6)
    assert not world.any(not good)


@pytest.mark.parametrize("factor", [1e4, 1e-3])
def test_float32_learns_a_small_spread_on_a_large_offset(factor):
    result = trained(None, factor * Y + 1e6 * factor)
    assert result.last.test["r2"] == pytest.approx(trained(None, Y).last.test["r2"], abs=0.01)
    expected = result.model.evaluate(ArraySource(X[200:], factor * Y[200:] + 1e6 * factor))
    assert expected["rmse"] == pytest.approx(result.last.test["rmse"], rel=1e-4)
    labels = np.array([[float(word) for word in line.split()] for line in result.model.predict(ArraySource(X, Y))])
    assert np.abs(labels - factor * (Y + 1e6)).mean() < factor


@mpi
def test_a_model_file_keeps_them(world, folder):
    y, at = 1e4 * Y + 5, folder / "model.safetensors"
    result = trained(world, y)
    result.model.save(at)
    model = load_model(at, world)
    test = ArraySource(X[200:], y[200:])
    good = model.architecture.task == result.model.architecture.task
    good = good and np.allclose(model.outputs(test)[0], result.model.outputs(test)[0], rtol=1e-5)
    # a run from there begins where the other one ended, also on data of another spread
    again = trained(world, np.concatenate([y[:150], y[150:] * 2]), start=at, iterations=0)
    good = good and np.allclose(again.model.outputs(test)[0], result.model.outputs(test)[0], rtol=1e-5)
    assert not world.any(not good)


def test_files_of_older_versions_have_none(tmp_path):
    config = make_config({"network": {"layers": ["auto", 3, "auto"]}, "run": {"iterations": 1}})
    train(config, train_data=ArraySource(X, X[:, 0] > 0)).model.save(tmp_path / "classes")
    _, header = read_file(tmp_path / "classes")
    assert header["format_version"] == 1
    assert "targets" not in header
    model = trained(None, Y).model
    model.save(tmp_path / "numbers")
    tensors, header = read_file(tmp_path / "numbers")
    assert header["format_version"] == 3
    # the same weights under a header without the field are a model of raw numbers
    from safetensors.numpy import save_file

    targets = header.pop("targets")
    header["format_version"] = 1
    text = json.dumps(without_checksums(header))
    save_file(tensors, tmp_path / "old", metadata={"distnewton": text})
    old = load_model(tmp_path / "old")
    assert old.architecture.task.scaling is None
    test = ArraySource(X, Y)
    expected = old.outputs(test)[0] * targets["deviation"] + np.array(targets["mean"])
    np.testing.assert_allclose(load_model(tmp_path / "numbers").outputs(test)[0], expected, rtol=1e-6)


def test_exports_have_the_units():
    torch = pytest.importorskip("torch")
    from distnewton.torch import from_torch, to_torch

    model = trained(None, 100 * Y + 7).model
    outputs = model.outputs(ArraySource(X, Y))[0]
    module = to_torch(model)
    found = module(torch.tensor(X, dtype=torch.float32)).detach().numpy()
    np.testing.assert_allclose(found, outputs, rtol=1e-4, atol=1e-2)
    back = from_torch(module, loss=torch.nn.MSELoss()).model
    np.testing.assert_allclose(back.outputs(ArraySource(X, Y))[0], outputs, rtol=1e-4, atol=1e-2)


def test_a_checkpoint_of_other_targets_is_refused(tmp_path):
    trained(None, Y, iterations=2, checkpoints=tmp_path / "saved")
    with pytest.raises(DataError, match="scaling of the targets"):
        trained(None, 2 * Y, iterations=3, checkpoints=tmp_path / "saved", resume=True)


def test_weights_count_as_repeated_samples():
    weights = RNG.integers(0, 3, 50)
    targets = RNG.normal([1e3, 0], size=(50, 2))
    found = TargetScaling.fit(targets, weights.astype(float))
    repeated = TargetScaling.fit(np.repeat(targets, weights, axis=0))
    np.testing.assert_allclose([*found.mean, *found.deviation], [*repeated.mean, *repeated.deviation], rtol=1e-12)
    assert TargetScaling.fit(np.full((5, 1), 0.1)).deviation == (1.0,)


def test_small_units_are_shown_with_digits(tmp_path):
    rows = np.hstack([X, 1e-6 * Y[:, :1]])
    np.savetxt(tmp_path / "t.csv", rows, delimiter=",")
    settings = ["--network.loss", "squared", "--network.layers", "auto-3-auto", "--run.iterations", 2]
    done = call("train", "--data.train", tmp_path / "t.csv", *settings, "--run-dir", tmp_path / "run")
    assert re.search(r"train rmse .*\d\.\d+e-0\d", done.stdout)
    assert re.search(r"train +rmse \d\.\d+e-0\d, r2 0\.\d{4}\b", call("info", tmp_path / "run").stdout)
