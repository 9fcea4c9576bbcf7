"""Element-wise activations. Derivatives are functions of the activated value, so that S need not be kept."""

from __future__ import annotations

from typing import Protocol

from distnewton.backend import Array, namespace


class Activation(Protocol):
    """An element-wise function that works in place."""

    def apply(self, S: Array) -> Array:
        """Replace pre-activations by activations, in place, and return them."""
        ...

    def multiply_derivative(self, E: Array, Z: Array) -> Array:
        """Multiply ``E`` by the derivative at the point whose activation is ``Z``, in place.

        Parameters
        ----------
        E : Array of shape (n, ..., width)
            Cotangents; axes between the first and the last are broadcast over.
        Z : Array
            Activations, broadcastable to ``E``.

        Returns
        -------
        Array
        """
        ...

    def derivative_ratios(self, Z: Array) -> tuple[Array, Array]:
        """Second and third derivative, each over the first, at the point whose activation is ``Z``.

        Higher derivatives always meet a cotangent that has been multiplied by the first one already, and the ratios
        are finite where it vanishes.

        Parameters
        ----------
        Z : Array
            Activations.

        Returns
        -------
        tuple of Array
            Of the shape of ``Z``.
        """
        ...


class Sigmoid:
    """1 / (1 + exp(-s)); derivative z (1 - z)."""

    def apply(self, S: Array) -> Array:
        """Replace pre-activations by activations, in place, and return them."""
        # tanh saturates without overflow, where exp(-s) would not
        S *= 0.5
        namespace(S).tanh(S, out=S)
        S += 1.0
        S *= 0.5
        return S

    def multiply_derivative(self, E: Array, Z: Array) -> Array:
        """Multiply ``E`` by z (1 - z), in place."""
        E *= Z * (1.0 - Z)
        return E

    def derivative_ratios(self, Z: Array) -> tuple[Array, Array]:
        """Second and third derivative over the first: 1 - 2 z and 1 - 6 z (1 - z)."""
        return 1.0 - 2.0 * Z, 1.0 - 6.0 * Z * (1.0 - Z)


class Tanh:
    """tanh(s); derivative 1 - z^2."""

    def apply(self, S: Array) -> Array:
        """Replace pre-activations by activations, in place, and return them."""
        activated: Array = namespace(S).tanh(S, out=S)
        return activated

    def multiply_derivative(self, E: Array, Z: Array) -> Array:
        """Multiply ``E`` by 1 - z^2, in place."""
        E *= 1.0 - Z * Z
        return E

    def derivative_ratios(self, Z: Array) -> tuple[Array, Array]:
        """Second and third derivative over the first: -2 z and 6 z^2 - 2."""
        return -2.0 * Z, 6.0 * Z * Z - 2.0


class Relu:
    """max(s, 0); derivative 1 where z > 0, so 0 at the kink."""

    def apply(self, S: Array) -> Array:
        """Replace pre-activations by activations, in place, and return them."""
        activated: Array = namespace(S).maximum(S, 0.0, out=S)
        return activated

    def multiply_derivative(self, E: Array, Z: Array) -> Array:
        """Multiply ``E`` by the indicator of z > 0, in place."""
        E *= Z > 0.0
        return E

    def derivative_ratios(self, Z: Array) -> tuple[Array, Array]:
        """Zeros: the kink, where there is no second derivative, is left out."""
        xp = namespace(Z)
        return xp.zeros_like(Z), xp.zeros_like(Z)


class Softplus:
    """log(1 + exp(s)); derivative 1 - exp(-z)."""

    def apply(self, S: Array) -> Array:
        """Replace pre-activations by activations, in place, and return them."""
        activated: Array = namespace(S).logaddexp(S, 0.0, out=S)
        return activated

    def multiply_derivative(self, E: Array, Z: Array) -> Array:
        """Multiply ``E`` by 1 - exp(-z), in place."""
        E *= -namespace(Z).expm1(-Z)
        return E

    def derivative_ratios(self, Z: Array) -> tuple[Array, Array]:
        """Second and third derivative over the first: q and q (2 q - 1) with q = exp(-z)."""
        q: Array = namespace(Z).exp(-Z)
        return q, q * (2.0 * q - 1.0)


class Identity:
    """s itself; derivative 1."""

    def apply(self, S: Array) -> Array:
        """Return the pre-activations unchanged."""
        return S

    def multiply_derivative(self, E: Array, Z: Array) -> Array:
        """Return ``E`` unchanged."""
        return E

    def derivative_ratios(self, Z: Array) -> tuple[Array, Array]:
        """Zeros."""
        xp = namespace(Z)
        return xp.zeros_like(Z), xp.zeros_like(Z)


ACTIVATIONS: dict[str, Activation] = {
    "sigmoid": Sigmoid(),
    "tanh": Tanh(),
    "relu": Relu(),
    "softplus": Softplus(),
    "identity": Identity(),
}
