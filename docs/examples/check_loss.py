"""The smooth Huber loss is what its formula says, and trains."""

import numpy as np

import distnewton
from distnewton.network.losses import LOSSES

rng = np.random.default_rng(0)
loss, z, y, v = LOSSES["huber"], rng.standard_normal((5, 2)), rng.standard_normal((5, 2)), rng.standard_normal((5, 2))


def value(t: float) -> float:
    """Value along a line, from the formula."""
    return float(2 * (np.sqrt(1 + (z + t * v - y) ** 2) - 1).sum())


def slope(t: float) -> float:
    return float(np.vdot(loss.gradient(z + t * v, y), v))


def bend(t: float) -> float:
    return float(np.vdot(loss.hessian(z + t * v, y).matvec(v), v))


h = 1e-5
assert abs(loss.value(z, y) - value(0)) < 1e-12
assert abs(slope(0) - (value(h) - value(-h)) / (2 * h)) < 1e-8
assert abs(bend(0) - (slope(h) - slope(-h)) / (2 * h)) < 1e-8
assert abs(loss.third(z, y, v) - (bend(h) - bend(-h)) / (2 * h)) < 1e-8
roots = loss.hessian(z, y).roots(2, None)
assert np.allclose(np.einsum("ika,ikb,ib->ia", roots, roots, v), loss.hessian(z, y).matvec(v))

X = rng.standard_normal((200, 4))
targets = X @ rng.standard_normal(4)
targets[:10] += 50  # outliers, which squares would follow
network = {"layers": ["auto", 8, "auto"], "loss": "huber"}
config = distnewton.make_config({"network": network, "run": {"iterations": 30}})
result = distnewton.train(config, train_data=distnewton.ArraySource(X, targets))
fit = np.array(result.model.predict(distnewton.ArraySource(X, targets)), dtype=float)
error = np.median(abs(fit - targets)[10:])
assert error < 0.3, error
