"""Second and third derivatives of activations, and third ones of losses, by Cauchy's integral."""

from __future__ import annotations

import dense
import numpy as np
import pytest
from groups import taylor

from distnewton.network.activations import ACTIVATIONS
from distnewton.network.losses import LOSSES


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations(name):
    s = np.linspace(-4, 4, 16)
    exact = np.array([taylor(lambda t, at=at: dense.ACTIVATIONS[name](at + t), 3, 0.1) for at in s])
    Z = ACTIVATIONS[name].apply(s.copy())
    first = ACTIVATIONS[name].multiply_derivative(np.ones_like(s), Z)
    second, third = ACTIVATIONS[name].derivative_ratios(Z)
    np.testing.assert_allclose(first * second, exact[:, 2], rtol=0, atol=1e-10)
    np.testing.assert_allclose(first * third, exact[:, 3], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ratios_stay_finite_where_the_derivative_vanishes(name, dtype):
    Z = ACTIVATIONS[name].apply(np.array([[-1e4, 0.0, 1e4]], dtype))
    for ratio in ACTIVATIONS[name].derivative_ratios(Z):
        assert ratio.dtype == dtype
        assert ratio.shape == Z.shape
        assert np.isfinite(ratio).all()


@pytest.mark.parametrize(
    ("name", "targets"),
    [("cross_entropy", [0, 2]), ("squared", [0, 2]), ("squared", [[1.0, -2.0, 0.5]] * 2), ("logistic", [0.0, 1.0]),
     ("logistic", [[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]])],
)
def test_losses(name, targets):
    rng = np.random.default_rng(0)
    Z, V = rng.standard_normal((2, 2, 1 if np.ndim(targets) == 1 and name == "logistic" else 3))
    y = np.array(targets)

    def along(t):
        moved = Z[..., None] + np.multiply.outer(V, t)
        return sum(dense.sample_loss(name, z, target) for z, target in zip(moved, y, strict=True))

    exact = taylor(along, 3, 0.1)[3]
    assert LOSSES[name].third(Z, y, V) == pytest.approx(exact, rel=1e-9, abs=1e-10)
    assert LOSSES[name].third(Z.astype(np.float32), y, V.astype(np.float32)) == pytest.approx(exact, rel=1e-5, abs=1e-6)


def test_extreme_logits_have_no_third_derivative():
    Z = np.array([[1e4, -1e4, 0.0]], np.float32)
    V = np.ones_like(Z)
    assert LOSSES["cross_entropy"].third(Z, np.array([1]), V) == 0.0
    assert LOSSES["logistic"].third(Z[:, :1], np.array([0.0]), V[:, :1]) == 0.0
