"""The activation s / (1 + |s|): a softer saturation than tanh's."""

from __future__ import annotations

from distnewton.backend import Array, namespace
from distnewton.network.activations import Activation


class Softsign(Activation):
    """Derivatives follow from the activated value z: 1 - |z| is 1 / (1 + |s|)."""

    name, help = "softsign", "s / (1 + |s|)"
    torch, onnx = "torch.nn.Softsign", "Softsign"
    analytic = False  # the second derivative jumps at 0

    def apply(self, S: Array) -> Array:
        """Replace pre-activations by activations, in place, and return them."""
        S /= 1.0 + abs(S)
        return S

    def derivative(self, Z: Array) -> Array:
        """(1 - |z|)^2."""
        return (1.0 - abs(Z)) ** 2

    def derivative_ratios(self, Z: Array) -> tuple[Array, Array]:
        """Second and third derivative over the first: -2 sign(z) (1 - |z|) and 6 (1 - |z|)^2."""
        rest = 1.0 - abs(Z)
        return -2.0 * namespace(Z).sign(Z) * rest, 6.0 * rest**2
