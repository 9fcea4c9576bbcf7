"""A weighted loss against the loss of each sample on its own."""

from __future__ import annotations

import dense
import numpy as np
import pytest
from groups import taylor

from distnewton.network.losses import LOSSES
from distnewton.network.weighted import Weighted, normalised, plain_targets, weighted, weights_of, with_weights

WEIGHTS = np.array([0.5, 0.0, 3.0, 1.25])
CASES = [
    ("cross_entropy", [0, 2, 1, 1]), ("squared", [0, 2, 1, 1]), ("squared", [[1.0, -2.0, 0.5]] * 4),
    ("logistic", [0.0, 1.0, 1.0, 0.0]),
]  # fmt: skip


def outputs(name, seed=0):
    return np.random.default_rng(seed).standard_normal((4, 1 if name == "logistic" else 3))


@pytest.mark.parametrize(("name", "targets"), CASES)
def test_values_and_gradients_are_those_of_each_sample_times_its_weight(name, targets):
    Z, y = outputs(name), np.array(targets)
    loss, both = Weighted(LOSSES[name]), with_weights(y, WEIGHTS)
    single = np.array([dense.sample_loss(name, z, t) for z, t in zip(Z, targets, strict=True)])
    np.testing.assert_allclose(loss.values(Z, both), WEIGHTS * single, rtol=1e-13)
    assert loss.value(Z, both) == pytest.approx(WEIGHTS @ single, rel=1e-13)
    for k, c in np.ndindex(Z.shape):
        moved = Z[k].astype(complex)
        moved[c] += 1e-30j
        slope = WEIGHTS[k] * np.imag(dense.sample_loss(name, moved, targets[k])) / 1e-30
        assert loss.gradient(Z, both)[k, c] == pytest.approx(slope, rel=1e-12, abs=1e-15)
    # cut and permuted, weights stay with their samples
    rows = np.array([3, 0])
    np.testing.assert_allclose(loss.values(Z[rows], both[rows]), (WEIGHTS * single)[rows], rtol=1e-13)


@pytest.mark.parametrize(("name", "targets"), CASES)
def test_hessians_roots_and_third_derivatives(name, targets):
    Z, V, y = outputs(name), outputs(name, seed=1), np.array(targets)
    loss, both = Weighted(LOSSES[name]), with_weights(y, WEIGHTS)
    plain, hessian = LOSSES[name].hessian(Z, y), loss.hessian(Z, both)
    np.testing.assert_allclose(hessian.matvec(V), WEIGHTS[:, None] * plain.matvec(V), rtol=1e-13)
    exact = hessian.roots(0, None)
    np.testing.assert_allclose(np.einsum("sak,sal,sl->sk", exact, exact, V), hessian.matvec(V), rtol=1e-10, atol=1e-12)
    drawn, alike = hessian.roots(2, np.random.default_rng(3)), plain.roots(2, np.random.default_rng(3))
    np.testing.assert_allclose(drawn**2, WEIGHTS[:, None, None] * alike**2, rtol=1e-12)

    def along(t):
        parts = zip(WEIGHTS, Z, V, y, strict=True)
        return sum(w * dense.sample_loss(name, z[:, None] + np.outer(v, t), target) for w, z, v, target in parts)

    assert loss.third(Z, both, V) == pytest.approx(taylor(along, 3, 0.1)[3], rel=1e-9, abs=1e-10)


@pytest.mark.parametrize("name", ["cross_entropy", "squared", "logistic"])
def test_float32_stays_float32(name):
    Z = outputs(name).astype(np.float32)
    both = with_weights(np.array([0, 1, 1, 0]) if name != "logistic" else np.array([0.0, 1.0, 1.0, 0.0]), WEIGHTS)
    loss = Weighted(LOSSES[name])
    assert loss.values(Z, both).dtype == np.float64
    assert loss.gradient(Z, both).dtype == np.float32
    assert loss.hessian(Z, both).matvec(Z).dtype == np.float32
    assert loss.hessian(Z, both).matvec(Z.astype(np.float64)).dtype == np.float64


def test_weights_have_mean_one_whatever_their_scale():
    y = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    for scale in (1.0, 1e-320, 1e307):
        both, total = normalised(with_weights(y, WEIGHTS * scale))
        assert total == pytest.approx(WEIGHTS.sum() * scale, rel=1e-3)
        np.testing.assert_allclose(weights_of(both), WEIGHTS / WEIGHTS.mean(), rtol=1e-3)
        np.testing.assert_array_equal(plain_targets(both), y)
    nothing, total = normalised(with_weights(y, np.zeros(4)))
    assert total == 0
    assert not weights_of(nothing).any()
    assert with_weights(y, None) is y
    assert normalised(y) == (y, 4.0)
    assert weights_of(y) is None
    assert weighted(LOSSES["squared"], y) is LOSSES["squared"]
