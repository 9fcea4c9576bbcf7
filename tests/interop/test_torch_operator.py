"""Curvature of torch modules: equal to curvlinops', and refused with all reasons where it could not be."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest

import distnewton
from distnewton.errors import ConfigError

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'distnewton[torch]'")
from torch import nn  # noqa: E402

from distnewton.torch import from_torch  # noqa: E402


def dense(n_out=3, **options):
    return nn.Sequential(
        nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.3), nn.Sequential(nn.Linear(8, 5, **options), nn.Tanh()),
        nn.Linear(5, n_out),
    )  # fmt: skip


def convolutional():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    )  # fmt: skip


def data(loss, shape=(20, 6)):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(*shape, generator=generator, dtype=torch.float64)
    if isinstance(loss, nn.MSELoss):
        return X, torch.randn(len(X), 3, generator=generator, dtype=torch.float64)
    if isinstance(loss, nn.BCEWithLogitsLoss):
        return X, torch.randint(2, (len(X), 1), generator=generator).double()
    return X, torch.randint(3, (len(X),), generator=generator)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("make", [nn.CrossEntropyLoss, nn.MSELoss, nn.BCEWithLogitsLoss])
@pytest.mark.parametrize("kind", ["ggn", "fisher"])
def test_the_operator_is_that_of_curvlinops(reduction, make, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it imports
        curvlinops = pytest.importorskip("curvlinops", reason="curvlinops is not installed")
    reference = {"ggn": curvlinops.GGNLinearOperator, "fisher": curvlinops.EFLinearOperator}[kind]
    torch.manual_seed(1)
    loss = make(reduction=reduction)
    X, y = data(loss)
    bias = make is not nn.MSELoss
    module = dense(1 if make is nn.BCEWithLogitsLoss else 3, bias=bias).double().eval()
    G = distnewton.curvature_operator(module, loss, X, y, kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = reference(module, loss, list(module.parameters()), [(X, y)])
        products = (expected @ torch.eye(G.shape[0], dtype=torch.float64)).numpy()
    np.testing.assert_allclose(G @ np.eye(G.shape[0]), products, rtol=0, atol=1e-13 * np.abs(products).max())


def test_the_gradient_of_images_is_the_jacobian_s():
    torch.manual_seed(2)
    loss, module = nn.CrossEntropyLoss(), convolutional().double()
    X, y = data(loss, (10, 2, 4, 4))
    G = distnewton.curvature_operator(module, loss, X, y)
    outputs = module(X)
    (cotangents,) = torch.autograd.grad(loss(outputs, y), outputs, retain_graph=True)
    gradients = torch.autograd.grad(loss(outputs, y), list(module.parameters()))
    gradient = torch.cat([part.ravel() for part in gradients]).numpy()
    np.testing.assert_allclose(G.jacobian.T @ cotangents.numpy().ravel(), gradient, atol=1e-14)
    x = G.solve(gradient, 0.1)
    np.testing.assert_allclose(G @ x + 0.1 * x, gradient, atol=1e-10)


def test_a_layer_without_bias_is_solved_by_cg():
    module = dense(bias=False).double().eval()
    X, y = data(nn.CrossEntropyLoss())
    G = distnewton.curvature_operator(module, nn.CrossEntropyLoss(), X, y)
    v = np.random.default_rng(0).normal(size=G.shape[0])
    x = G.solve(v, 0.5, tolerance=1e-12)
    np.testing.assert_allclose(G @ x + 0.5 * x, v, atol=1e-10)
    with pytest.raises(ConfigError, match="layers without bias"):
        G.solve(v, 0.5, method="dual")


class Residual(nn.Sequential):
    def forward(self, X):
        return X + super().forward(X)


class Plain(nn.Module):
    def forward(self, X):
        return X


def hooked():
    module = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    module[1].register_forward_hook(lambda module, inputs, output: 2 * output)
    return module


def replaced():
    module = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    module[1].forward = torch.sin
    return module


def not_finite():
    module = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    nn.init.constant_(module[2].weight, float("nan"))
    return module


def shared():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Tanh(), nn.Linear(4, 2))


REFUSED = {
    "overridden forward": (
        nn.Sequential(Residual(nn.Linear(4, 4)), nn.Linear(4, 2)), "0: .*has its own forward method"
    ),
    "another module": (nn.Sequential(Plain(), nn.Linear(4, 2)), "0: Plain.*is not supported"),
    "hook": (hooked(), "1: Tanh.*has forward hooks"),
    "replaced forward": (replaced(), "1: Tanh.*its forward method was replaced"),
    "not finite": (not_finite(), "2: Linear.*weights that are not finite"),
    "tied weights": (shared(), "2: Linear.*appears twice"),
    "dropout in training": (dense(), "2: Dropout.*call eval"),
}  # fmt: skip


@pytest.mark.parametrize(("module", "message"), REFUSED.values(), ids=REFUSED)
def test_what_would_be_lost_is_refused_by_name(module, message):
    pattern = re.compile(message, re.DOTALL)
    with pytest.raises(ConfigError, match=pattern):
        from_torch(module)
    with pytest.raises(ConfigError, match=pattern):
        distnewton.curvature_operator(module, "cross_entropy", np.zeros((5, 4)), np.zeros(5))


def test_all_reasons_are_told_at_once():
    module = hooked()
    module.append(nn.Dropout())
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    with pytest.raises(ConfigError) as refusal:
        distnewton.curvature_operator(module, loss, np.zeros((5, 4)), np.zeros(5))
    for reason in ("label_smoothing must be 0.0", "has forward hooks", "drops units at random"):
        assert reason in str(refusal.value)


def test_one_activation_module_may_stand_in_two_places():
    tanh = nn.Tanh()
    module = nn.Sequential(nn.Linear(4, 3), tanh, nn.Linear(3, 3), tanh, nn.Linear(3, 2)).double()
    X = torch.randn(7, 4, dtype=torch.float64)
    outputs = from_torch(module).model.outputs_of(X.numpy())
    np.testing.assert_allclose(outputs, module(X).detach().numpy(), atol=1e-14)
