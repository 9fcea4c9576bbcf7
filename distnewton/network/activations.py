"""Element-wise activations. Derivatives are functions of the activated value, so that S need not be kept."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from distnewton.backend import Array


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


class Sigmoid:
    """1 / (1 + exp(-s)); derivative z (1 - z)."""

    def apply(self, S: Array) -> Array:
        """Replace pre-activations by activations, in place, and return them."""
        # tanh saturates without overflow, where exp(-s) would not
        S *= 0.5
        np.tanh(S, out=S)
        S += 1.0
        S *= 0.5
        return S

    def multiply_derivative(self, E: Array, Z: Array) -> Array:
        """Multiply ``E`` by z (1 - z), in place."""
        E *= Z * (1.0 - Z)
        return E


class Tanh:
    """tanh(s); derivative 1 - z^2."""

    def apply(self, S: Array) -> Array:
        """Replace pre-activations by activations, in place, and return them."""
        return np.tanh(S, out=S)

    def multiply_derivative(self, E: Array, Z: Array) -> Array:
        """Multiply ``E`` by 1 - z^2, in place."""
        E *= 1.0 - Z * Z
        return E


class Relu:
    """max(s, 0); derivative 1 where z > 0, so 0 at the kink."""

    def apply(self, S: Array) -> Array:
        """Replace pre-activations by activations, in place, and return them."""
        return np.maximum(S, 0.0, out=S)

    def multiply_derivative(self, E: Array, Z: Array) -> Array:
        """Multiply ``E`` by the indicator of z > 0, in place."""
        E *= Z > 0.0
        return E


class Softplus:
    """log(1 + exp(s)); derivative 1 - exp(-z)."""

    def apply(self, S: Array) -> Array:
        """Replace pre-activations by activations, in place, and return them."""
        return np.logaddexp(S, 0.0, out=S)

    def multiply_derivative(self, E: Array, Z: Array) -> Array:
        """Multiply ``E`` by 1 - exp(-z), in place."""
        E *= -np.expm1(-Z)
        return E


class Identity:
    """s itself; derivative 1."""

    def apply(self, S: Array) -> Array:
        """Return the pre-activations unchanged."""
        return S

    def multiply_derivative(self, E: Array, Z: Array) -> Array:
        """Return ``E`` unchanged."""
        return E


ACTIVATIONS: dict[str, Activation] = {
    "sigmoid": Sigmoid(),
    "tanh": Tanh(),
    "relu": Relu(),
    "softplus": Softplus(),
    "identity": Identity(),
}
