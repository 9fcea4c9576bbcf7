"""Element-wise activations. Derivatives are functions of the activated value, so that S need not be kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from distnewton.backend import Array, namespace, on_device, update

_STRIP = 1 << 17
"""Values whose derivative is made at a time: it stays in the cache, where one of a whole layer costs page faults."""


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
        if on_device(S):
            return update(S, "T(0.5) * (tanh(T(0.5) * x) + T(1))")
        for strip in _strips(S):
            strip *= 0.5
            np.tanh(strip, out=strip)
            strip += 1.0
            strip *= 0.5
        return S

    def multiply_derivative(self, E: Array, Z: Array) -> Array:
        """Multiply ``E`` by z (1 - z), in place."""
        return _multiply(E, Z, lambda z: z * (1.0 - z), "z * (T(1) - z)")

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
        return _multiply(E, Z, lambda z: 1.0 - z * z, "(T(1) - z * z)")

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
        return _multiply(E, Z, lambda z: z > 0.0, "(z > T(0))")

    def derivative_ratios(self, Z: Array) -> tuple[Array, Array]:
        """Zeros: the kink, where there is no second derivative, is left out."""
        xp = namespace(Z)
        return xp.zeros_like(Z), xp.zeros_like(Z)


class Softplus:
    """log(1 + exp(s)); derivative 1 - exp(-z)."""

    def apply(self, S: Array) -> Array:
        """Replace pre-activations by activations, in place, and return them."""
        # max(s, 0) + log(1 + exp(-|s|)), of functions that are vectorised, as logaddexp is not
        if on_device(S):
            # fmax would lose a NaN, of which the other term is one, too
            return update(S, "fmax(x, T(0)) + log1p(exp(-fabs(x)))")
        for strip in _strips(S):
            rest = np.log1p(np.exp(-np.abs(strip)))
            np.maximum(strip, 0.0, out=strip)
            strip += rest
        return S

    def multiply_derivative(self, E: Array, Z: Array) -> Array:
        """Multiply ``E`` by 1 - exp(-z), in place."""
        return _multiply(E, Z, lambda z: -np.expm1(-z), "-expm1(-z)")

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


def _cuts(A: Array) -> list[slice]:
    """Some rows each."""
    step = max(1, _STRIP // max(1, A[:1].size))
    return [slice(start, start + step) for start in range(0, len(A), step)] if step < len(A) else [slice(None)]


def _strips(A: Array) -> list[Array]:
    """Views of some rows each."""
    return [A[rows] for rows in _cuts(A)]


def _multiply(E: Array, Z: Array, derivative: Callable[[Array], Array], expression: str) -> Array:
    """Multiply by the derivative where the activation is Z, given as a function and, for devices, in words."""
    if on_device(E):
        return update(E, f"x * {expression}", z=Z)
    for rows in _cuts(Z):
        strip = E[rows]
        strip *= derivative(Z[rows])
    return E


ACTIVATIONS: dict[str, Activation] = {
    "sigmoid": Sigmoid(),
    "tanh": Tanh(),
    "relu": Relu(),
    "softplus": Softplus(),
    "identity": Identity(),
}
