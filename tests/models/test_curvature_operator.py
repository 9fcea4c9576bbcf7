"""Curvature operators of models against matrices made from plain loops over parameters."""

from __future__ import annotations

import numpy as np
import pytest

import distnewton
from distnewton.errors import ConfigError, DataError
from distnewton.models.loading import load_serial_model

pytestmark = pytest.mark.mpi(min_size=1)

N_OUT = {"cross_entropy": 3, "logistic": 1, "squared": 2}


def problem(loss):
    rng = np.random.default_rng(3)
    y = {"cross_entropy": np.arange(17) % 3, "logistic": np.arange(17) % 2, "squared": rng.normal(size=(17, 2))}[loss]
    return rng.normal(size=(17, 5)) + 1, y


def model_of(world, loss, scale="standard"):
    X, y = problem(loss)
    config = distnewton.make_config({
        "data": {"scale": scale},
        "network": {"layers": ["auto", 4, 3, "auto"], "loss": loss, "activation": "tanh"},
        "run": {"iterations": 0, "dtype": "float64", "threads": 1, "checks": []},
    })
    return distnewton.train(config, world, train_data=distnewton.ArraySource(X, y)).model


class Oracle:
    """J by complex steps of a plain network, and matrices made of it."""

    def __init__(self, model, loss):
        whole = load_serial_model(model)
        self.X, self.y = problem(loss)
        # as the network has learnt it
        self.targets = (self.y - self.y.mean(axis=0)) / self.y.std(axis=0) if loss == "squared" else self.y
        self.Z = (self.X - whole.scaling.offset) * whole.scaling.factor
        self.weights = whole.weights()
        self.names = sorted(self.weights, key=lambda name: (int(name.split(".")[0]), name.endswith("bias")))
        theta = np.concatenate([self.weights[name].ravel() for name in self.names])
        self.outputs = self.forward(theta)
        steps = 1e-30j * np.eye(len(theta))
        self.J = np.stack([self.forward(theta + step).imag.ravel() * 1e30 for step in steps], axis=1)
        self.loss = loss

    def forward(self, theta):
        S, start = self.Z, 0
        for k, name in enumerate(self.names):
            part = theta[start : start + self.weights[name].size].reshape(self.weights[name].shape)
            start += part.size
            if k and name.endswith("weight"):
                S = np.tanh(S)
            S = S @ part.T if name.endswith("weight") else S + part
        return S

    def gradients_and_hessians(self):
        for z, y in zip(self.outputs, self.targets, strict=True):
            if self.loss == "squared":
                yield 2 * (z - y), 2 * np.eye(2)
            elif self.loss == "logistic":
                p = 1 / (1 + np.exp(-z))
                yield p - y, np.diag(p * (1 - p))
            else:
                p = np.exp(z) / np.exp(z).sum()
                yield p - np.eye(3)[y], np.diag(p) - np.outer(p, p)

    def matrix(self, kind):
        J = self.J.reshape(len(self.X), -1, self.J.shape[1])
        parts = list(self.gradients_and_hessians())
        return sum(
            j.T @ (np.outer(g, g) if kind == "fisher" else B) @ j for j, (g, B) in zip(J, parts, strict=True)
        ) / len(self.X)


@pytest.mark.parametrize("loss", list(N_OUT))
def test_products_are_those_of_the_dense_matrix_in_the_order_of_torch(world, loss):
    model = model_of(world, loss)
    oracle = Oracle(model, loss)
    for kind in ("ggn", "fisher"):
        G = distnewton.curvature_operator(model, loss, oracle.X, oracle.y, kind, comm=world)
        n = G.shape[0]
        np.testing.assert_allclose(G @ np.eye(n), oracle.matrix(kind), atol=1e-13)
        np.testing.assert_allclose(G.T @ np.eye(n), oracle.matrix(kind), atol=1e-13)
        np.testing.assert_allclose(G.jacobian @ np.eye(n), oracle.J, atol=1e-13)
        np.testing.assert_allclose(G.jacobian.T @ np.eye(len(oracle.J)), oracle.J.T, atol=1e-13)
        G.model.grid.free()


def test_blocks_are_those_of_each_layer_or_of_a_part_of_it(world):
    model = model_of(world, "cross_entropy")
    oracle = Oracle(model, "cross_entropy")
    G = distnewton.curvature_operator(model, "cross_entropy", oracle.X, oracle.y, "block", comm=world)
    dense, matrix = G @ np.eye(G.shape[0]), oracle.matrix("ggn")
    layer = np.repeat([0, 1, 2], [5 * 4 + 4, 4 * 3 + 3, 3 * 3 + 3])
    same = layer[:, None] == layer
    if world.size == 1:
        np.testing.assert_allclose(dense, np.where(same, matrix, 0.0), atol=1e-13)
    kept = dense != 0
    assert not kept[~same].any()
    np.testing.assert_allclose(dense[kept], matrix[kept], atol=1e-13)
    np.testing.assert_allclose(np.diag(dense), np.diag(matrix), atol=1e-13)
    G.model.grid.free()


@pytest.mark.parametrize("kind", ["ggn", "block", "fisher"])
def test_solutions_solve_the_damped_system(world, kind):
    model = model_of(world, "cross_entropy")
    X, y = problem("cross_entropy")
    G = distnewton.curvature_operator(model, "cross_entropy", X, y, kind, comm=world)
    v = np.random.default_rng(0).normal(size=G.shape[0])
    for method in ("auto", "cg") if kind == "fisher" else ("auto", "cg", "dual"):
        x = G.solve(v, 0.3, method=method, tolerance=1e-12)
        np.testing.assert_allclose(G @ x + 0.3 * x, v, atol=1e-10)
    reason = "kind is fisher" if kind == "fisher" else "damping must be positive"
    with pytest.raises(ConfigError, match=reason):
        G.solve(v, 0.0, method="dual")
    G.model.grid.free()


def test_a_loss_of_another_task_and_unknown_labels_are_refused(world):
    model = model_of(world, "cross_entropy")
    X, y = problem("cross_entropy")
    with pytest.raises(ConfigError, match="loss = logistic does not suit the task of the model, classification"):
        distnewton.curvature_operator(model, "logistic", X, y, comm=world)
    with pytest.raises(DataError, match="does not know: 5, 6, 7"):
        distnewton.curvature_operator(model, "cross_entropy", X, y + 5, comm=world)
    with pytest.raises(DataError, match="has 4 features, but the model has 5"):
        distnewton.curvature_operator(model, "cross_entropy", X[:, :4], y, comm=world)
    with pytest.raises(ConfigError, match="kind must be ggn, block or fisher"):
        distnewton.curvature_operator(model, "cross_entropy", X, y, "kfac", comm=world)
