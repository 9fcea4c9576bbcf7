"""A loss and an activation of a package that is installed beside this one: no file of distnewton knows them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

PACKAGE = '''
import numpy as np

from distnewton.network.activations import Activation
from distnewton.network.losses import Diagonal, Loss


class Huber(Loss):
    name, help, tasks = "huber", "sum of 2 (sqrt(1 + e^2) - 1)", ("regression",)
    torch = "outside_torch.Huber"

    def values(self, Z, targets):
        return 2.0 * (np.hypot(1.0, (Z - targets).astype(np.float64)) - 1.0).sum(axis=1)

    def gradient(self, Z, targets):
        return 2.0 * (Z - targets) / np.hypot(1.0, Z - targets)

    def hessian(self, Z, targets):
        return Diagonal(2.0 * np.hypot(1.0, Z - targets) ** -3)

    def third(self, Z, targets, V):
        e = (Z - targets).astype(np.float64)
        return float((-6.0 * e * np.hypot(1.0, e) ** -5 * V.astype(np.float64) ** 3).sum())


class Arctan(Activation):
    name, help = "arctan", "arctan(s)"
    torch = "outside_torch.Arctan"

    def apply(self, S):
        return np.arctan(S, out=S)

    def derivative(self, Z):
        return np.cos(Z) ** 2

    def derivative_ratios(self, Z):
        return -np.sin(2.0 * Z), np.sin(2.0 * Z) ** 2 - 2.0 * np.cos(2.0 * Z) * np.cos(Z) ** 2


class Plain(Arctan):
    name, torch = "plain", ""
'''
TORCH = '''
import torch


class Arctan(torch.nn.Module):
    def forward(self, x):
        return torch.atan(x)


class Huber(torch.nn.Module):
    def forward(self, z, y):
        return 2.0 * (torch.hypot(torch.ones(()), z - y) - 1.0).sum(dim=1).mean()
'''
POINTS = """
[distnewton.losses]
huber = outside:Huber

[distnewton.activations]
arctan = outside:Arctan
plain = outside:Plain
"""
TRAINED = '''
import json

import numpy as np

import distnewton
from distnewton.errors import ConfigError

rng = np.random.default_rng(0)
X = rng.standard_normal((200, 4))
y = np.sin(X @ rng.standard_normal(4))
y[:10] += 50.0  # outliers, which squares would follow
network = {"layers": ["auto", 8, "auto"], "loss": "huber", "activation": "arctan"}


def tree(direction, **network_settings):
    return {
        "network": network | network_settings, "method": {"direction": direction},
        "run": {"iterations": 4, "dtype": "float64"},
    }


def refusal(function, *args, **options):
    try:
        function(*args, **options)
    except ConfigError as error:
        return str(error)


def trained(direction, **network_settings):
    config = distnewton.make_config(tree(direction, **network_settings))
    return distnewton.train(config, train_data=distnewton.ArraySource(X, y))


result, found = trained("gauss_newton"), {}
'''
SCRIPTS = {
    "training": """
results = [result, trained("grouped_newton")]
found["falls"] = [r.last.objective < r.history[0].objective for r in results]
found["task"] = result.model.architecture.task.name
found["misspelt"] = refusal(distnewton.make_config, tree("gauss_newton", loss="hubber"))
""",
    "estimator": """
from distnewton.sklearn import NewtonRegressor

fitted = NewtonRegressor(8, activation="arctan", max_iter=4, settings={"network": {"loss": "huber"}}).fit(X, y)
found["loss"] = fitted.model_.architecture.loss
""",
    "torch": """
import torch
import outside_torch
from distnewton.torch import from_torch, to_torch

model = result.model
module = to_torch(model)
expected, _, _ = model.outputs(distnewton.ArraySource(X, y))
found["error"] = abs(module(torch.from_numpy(X)).detach().numpy() - expected).max()
imported = from_torch(module, loss=outside_torch.Huber())
found["network"] = imported.network["loss"] + " " + imported.network["activation"]
found["without"] = refusal(to_torch, trained("gauss_newton", activation="plain").model)
""",
    "onnx": """
from distnewton.onnx import to_onnx

found["without"] = refusal(to_onnx, result.model)
""",
}


def run(folder, name):
    """What a script finds beside the package."""
    info = folder / "outside-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    (folder / "outside.py").write_text(PACKAGE)
    (folder / "outside_torch.py").write_text(TORCH)
    script = TRAINED + SCRIPTS[name] + "\nprint(json.dumps(found))\n"
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=110, check=False, cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_training_and_configuration(tmp_path):
    found = run(tmp_path, "training")
    assert found["falls"] == [True, True]
    assert found["task"] == "regression"
    assert "network.loss: unknown loss 'hubber'; did you mean huber?" in found["misspelt"]


def test_estimators(tmp_path):
    pytest.importorskip("sklearn")
    assert run(tmp_path, "estimator")["loss"] == "huber"


def test_torch_and_back(tmp_path):
    pytest.importorskip("torch")
    found = run(tmp_path, "torch")
    assert found["error"] < 1e-12
    assert found["network"] == "huber arctan"
    assert found["without"].startswith("plain declares no equivalent torch module")


def test_onnx_refuses_an_activation_without_an_operator(tmp_path):
    pytest.importorskip("onnx")
    assert "arctan declares no ONNX operator" in run(tmp_path, "onnx")["without"]
