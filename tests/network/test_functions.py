"""Activations and losses against complex steps and at extreme arguments; initial weights on every grid."""

from __future__ import annotations

import dense
import numpy as np
import pytest
from problems import alternating

from distnewton.backend import Backend
from distnewton.network.activations import ACTIVATIONS
from distnewton.network.losses import LOSSES
from distnewton.network.network import PartitionedNetwork
from distnewton.parallel.grid import ProcessGrid
from distnewton.parallel.partition import Partition


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activation_and_derivative(name):
    s = np.linspace(-4, 4, 41).reshape(1, -1) + 0.05
    Z = ACTIVATIONS[name].apply(s.copy())
    np.testing.assert_allclose(Z, dense.ACTIVATIONS[name](s), rtol=1e-13, atol=1e-15)
    slope = np.imag(dense.ACTIVATIONS[name](s + 1e-30j)) / 1e-30
    np.testing.assert_allclose(ACTIVATIONS[name].multiply_derivative(np.ones_like(s), Z), slope, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_activations_do_not_overflow(name, dtype):
    Z = ACTIVATIONS[name].apply(np.array([[-1e4, 0.0, 1e4]], dtype))
    assert Z.dtype == dtype
    assert np.isfinite(ACTIVATIONS[name].multiply_derivative(np.ones_like(Z), Z)).all()


@pytest.mark.parametrize(
    ("name", "targets"),
    [("cross_entropy", [0, 2]), ("squared", [0, 2]), ("logistic", [0.0, 1.0]), ("squared_hinge", [0, 2]),
     ("logistic", [[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]])],
)
def test_losses_and_gradients(name, targets):
    Z = np.random.default_rng(0).standard_normal((2, 1 if np.ndim(targets) == 1 and name == "logistic" else 3))
    y, loss = np.array(targets), LOSSES[name]
    value = sum(dense.sample_loss(name, z, t) for z, t in zip(Z, targets, strict=True))
    assert loss.value(Z, y) == pytest.approx(value, rel=1e-13)
    for k, c in np.ndindex(Z.shape):
        moved = Z[k].astype(complex)
        moved[c] += 1e-30j
        slope = np.imag(dense.sample_loss(name, moved, targets[k])) / 1e-30
        assert loss.gradient(Z, y)[k, c] == pytest.approx(slope, rel=1e-12, abs=1e-15)
        change = np.zeros_like(Z)
        change[k, c] = 1e-6
        second = (loss.gradient(Z + change, y) - loss.gradient(Z - change, y)) / 2e-6
        np.testing.assert_allclose(loss.hessian(Z, y).matvec(change * 1e6)[k], second[k], atol=1e-8)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_extreme_logits_stay_finite(dtype):
    Z = np.array([[1e4, -1e4, 0.0], [0.0, 0.0, 0.0]], dtype)
    loss = LOSSES["cross_entropy"]
    assert loss.value(Z, np.array([1, 0])) == pytest.approx(2e4 + np.log(3))
    assert np.isfinite(loss.hessian(Z, np.array([1, 0])).matvec(np.ones_like(Z))).all()
    assert LOSSES["logistic"].value(Z[:, :1], np.array([0.0, 1.0])) == pytest.approx(1e4 + np.log(2))
    assert np.isfinite(LOSSES["logistic"].gradient(Z[:, :1], np.array([0.0, 1.0]))).all()


@pytest.mark.mpi(min_size=1)
def test_initial_weights_are_bitwise_the_same_on_every_grid(world):
    widths = (5, 4, 3)
    from distnewton.parallel.collectives import Communicator

    with ProcessGrid(Communicator(), Partition(widths, (1, 1, 1))) as serial:
        network = PartitionedNetwork(serial, "tanh", Backend.of("float32"))
        whole = network.layout.views(network.initial_params(7, "he"))
    assert np.std(whole[1].W) > 0.3
    for splits in alternating(world.size, 2):
        with ProcessGrid(world, Partition(widths, splits)) as grid:
            network = PartitionedNetwork(grid, "tanh", Backend.of("float32"))
            same = True
            for m, view in network.layout.views(network.initial_params(7, "he")).items():
                block = grid.blocks[m]
                same &= np.array_equal(view.W, whole[m].W[slice(*block.inputs), slice(*block.outputs)])
                same &= view.b is None or not view.b.any()
            assert not world.any(not same)
