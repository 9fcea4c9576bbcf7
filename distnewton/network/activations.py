"""Element-wise activations. Each class declares all that the package knows about it; other code asks the registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar

import numpy as np

from distnewton.backend import Array, namespace, on_device, update
from distnewton.errors import ConfigError
from distnewton.registry import Registry

_STRIP = 1 << 17
"""Values processed at a time, few enough to stay in the cache: temporaries of a whole layer cost page faults."""


class Activation(ABC):
    """An increasing element-wise function whose derivatives are functions of its value.

    Backward passes then need only the activations, not the pre-activations. Max pooling chooses before the activation,
    which gives the same result because the function is increasing.

    Attributes
    ----------
    name, help : str
        Value of ``network.activation``, and the formula on one line.
    torch : str
        Full name of the equivalent torch module, such as ``torch.nn.Tanh``; empty if there is none.
    onnx : str
        ONNX operator; empty if there is none, or if :meth:`add_to_onnx` is overridden.
    device_derivative : str
        Derivative as an expression of the activated value ``z`` for :func:`~distnewton.backend.update`, which devices
        compute in one pass; empty to use the operations of :meth:`derivative`.
    cost : float
        Seconds of an activation relative to an exponential of as many values, for plans.
    analytic : bool
        Whether derivatives of all orders exist everywhere.
    """

    name: ClassVar[str]
    help: ClassVar[str]
    torch: ClassVar[str] = ""
    onnx: ClassVar[str] = ""
    device_derivative: ClassVar[str] = ""
    cost: ClassVar[float] = 1.0
    analytic: ClassVar[bool] = True

    @abstractmethod
    def apply(self, S: Array) -> Array:
        """Replace pre-activations by activations, in place, and return them."""

    @abstractmethod
    def derivative(self, Z: Array) -> Array:
        """Compute the derivative at the points whose activations are ``Z``."""

    @abstractmethod
    def derivative_ratios(self, Z: Array) -> tuple[Array, Array]:
        """Compute the ratios of the second and third derivatives to the first where the activations are ``Z``.

        Higher derivatives always multiply a cotangent that already contains the first one, and the ratios are finite
        where it vanishes.

        Parameters
        ----------
        Z : Array
            Activations.

        Returns
        -------
        tuple of Array
            Two arrays of the shape of ``Z``.
        """

    def multiply_derivative(self, E: Array, Z: Array) -> Array:
        """Multiply ``E`` by the derivative at the points whose activations are ``Z``, in place.

        Parameters
        ----------
        E : Array of shape (n, ..., width)
            Cotangents; axes between the first and the last are broadcast.
        Z : Array
            Activations, broadcastable to ``E``.

        Returns
        -------
        Array
            ``E``.
        """
        if on_device(E) and self.device_derivative:
            return update(E, f"x * ({self.device_derivative})", z=Z)
        for rows in _strips(Z):
            strip = E[rows]
            strip *= self.derivative(Z[rows])
        return E

    def add_to_onnx(self, add: Callable[..., str], x: str) -> str:
        """Add the nodes of an ONNX graph that apply the activation.

        Parameters
        ----------
        add : callable
            ``add(operator, *inputs)`` returns the name of the result.
        x : str
            Name of the pre-activations.

        Returns
        -------
        str
            Name of the activations.

        Raises
        ------
        ConfigError
            If the activation declares no operator.
        """
        if not self.onnx:
            raise ConfigError(f"the activation {self.name} declares no ONNX operator, so the model cannot be exported")
        return add(self.onnx, x)


class Sigmoid(Activation):
    """The logistic function."""

    name, help = "sigmoid", "1 / (1 + exp(-s))"
    torch, onnx = "torch.nn.Sigmoid", "Sigmoid"
    device_derivative = "z * (T(1) - z)"
    cost = 0.8

    def apply(self, S: Array) -> Array:
        """Replace pre-activations by activations, in place, and return them."""
        # tanh saturates without overflow, unlike exp(-s)
        if on_device(S):
            return update(S, "T(0.5) * (tanh(T(0.5) * x) + T(1))")
        for rows in _strips(S):
            strip = S[rows]
            strip *= 0.5
            np.tanh(strip, out=strip)
            strip += 1.0
            strip *= 0.5
        return S

    def derivative(self, Z: Array) -> Array:
        """Return z (1 - z)."""
        return Z * (1.0 - Z)

    def derivative_ratios(self, Z: Array) -> tuple[Array, Array]:
        """Return both ratios: 1 - 2 z and 1 - 6 z (1 - z)."""
        return 1.0 - 2.0 * Z, 1.0 - 6.0 * Z * (1.0 - Z)


class Tanh(Activation):
    """The hyperbolic tangent."""

    name, help = "tanh", "tanh(s)"
    torch, onnx = "torch.nn.Tanh", "Tanh"
    device_derivative = "T(1) - z * z"
    cost = 0.5

    def apply(self, S: Array) -> Array:
        """Replace pre-activations by activations, in place, and return them."""
        activated: Array = namespace(S).tanh(S, out=S)
        return activated

    def derivative(self, Z: Array) -> Array:
        """Return 1 - z^2."""
        return 1.0 - Z * Z

    def derivative_ratios(self, Z: Array) -> tuple[Array, Array]:
        """Return both ratios: -2 z and 6 z^2 - 2."""
        return -2.0 * Z, 6.0 * Z * Z - 2.0


class Relu(Activation):
    """The positive part; its derivative at the kink is 0."""

    name, help = "relu", "max(s, 0)"
    torch, onnx = "torch.nn.ReLU", "Relu"
    device_derivative = "z > T(0)"
    cost = 0.9
    analytic = False

    def apply(self, S: Array) -> Array:
        """Replace pre-activations by activations, in place, and return them."""
        activated: Array = namespace(S).maximum(S, 0.0, out=S)
        return activated

    def derivative(self, Z: Array) -> Array:
        """Return whether z > 0."""
        return Z > 0.0

    def derivative_ratios(self, Z: Array) -> tuple[Array, Array]:
        """Return zeros; ignores the kink, which has no second derivative."""
        return _zeros(Z)


class Softplus(Activation):
    """A smooth positive part."""

    name, help = "softplus", "log(1 + exp(s))"
    torch = "torch.nn.Softplus"
    device_derivative = "-expm1(-z)"
    cost = 3.5

    def apply(self, S: Array) -> Array:
        """Replace pre-activations by activations, in place, and return them."""
        # max(s, 0) + log(1 + exp(-|s|)): numpy vectorises these functions, but not logaddexp
        if on_device(S):
            # fmax loses a NaN, but the other term is NaN, too
            return update(S, "fmax(x, T(0)) + log1p(exp(-fabs(x)))")
        for rows in _strips(S):
            strip = S[rows]
            rest = np.log1p(np.exp(-np.abs(strip)))
            np.maximum(strip, 0.0, out=strip)
            strip += rest
        return S

    def derivative(self, Z: Array) -> Array:
        """Return 1 - exp(-z)."""
        slope: Array = -namespace(Z).expm1(-Z)
        return slope

    def derivative_ratios(self, Z: Array) -> tuple[Array, Array]:
        """Return both ratios: q and q (2 q - 1) with q = exp(-z)."""
        q: Array = namespace(Z).exp(-Z)
        return q, q * (2.0 * q - 1.0)

    def add_to_onnx(self, add: Callable[..., str], x: str) -> str:
        """Add ``max(s, 0) - log(sigmoid(|s|))``: runtimes have no Softplus for float64."""
        return add("Sub", add("Relu", x), add("Log", add("Sigmoid", add("Abs", x))))


class Identity(Activation):
    """No activation: the network is linear."""

    name, help = "identity", "s"
    torch = "torch.nn.Identity"
    cost = 0.0

    def apply(self, S: Array) -> Array:
        """Return the pre-activations unchanged."""
        return S

    def derivative(self, Z: Array) -> Array:
        """Return ones."""
        ones: Array = namespace(Z).ones(Z.shape, Z.dtype)
        return ones

    def multiply_derivative(self, E: Array, Z: Array) -> Array:
        """Return ``E`` unchanged."""
        return E

    def derivative_ratios(self, Z: Array) -> tuple[Array, Array]:
        """Return zeros."""
        return _zeros(Z)

    def add_to_onnx(self, add: Callable[..., str], x: str) -> str:
        """Add nothing."""
        return x


def _zeros(Z: Array) -> tuple[Array, Array]:
    xp = namespace(Z)
    return xp.zeros_like(Z), xp.zeros_like(Z)


def _strips(A: Array) -> Iterator[slice]:
    """Some rows at a time on the host, and all at once on a device."""
    step = max(1, _STRIP // max(1, A[:1].size))
    if step >= len(A) or on_device(A):
        yield slice(None)
    else:
        yield from (slice(start, start + step) for start in range(0, len(A), step))


ACTIVATIONS: Registry[Activation] = Registry(
    "activation",
    Activation,
    [Sigmoid(), Tanh(), Relu(), Softplus(), Identity()],
    group="distnewton.activations",
    objects=True,
)
