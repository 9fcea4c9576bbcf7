r"""Losses of one sample, with their gradients and Hessians B with respect to the output z.

================  =================================  =================  =====================  ========================
name              loss                               gradient           B v                    third derivative along v
================  =================================  =================  =====================  ========================
squared           ||z - y||^2                        2 (z - y)          2 v                    0
cross_entropy     log sum exp z - z_y                p - e_y            p * v - p (p^T v)      p^T (v - p^T v)^3
logistic          sum_k log(1 + exp z_k) - y_k z_k   p - y              p (1 - p) v            p (1 - p) (1 - 2 p) v^3
squared_hinge     sum_k max(0, 1 - s_k z_k)^2        -2 s max(0, ...)   2 [1 > s z] v          0
================  =================================  =================  =====================  ========================

with p = softmax(z), or the logistic function of z; s is 1 for the sample's class and -1 for all others. The squared
loss follows [DNM], without the factor 1/2. The squared hinge is LIBLINEAR's default (its -s 1 and 2), for each class
against the rest; its second derivative is discontinuous, and B is the one used by LIBLINEAR's Newton method.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Literal, Protocol

import numpy as np

from distnewton.backend import Array, like, namespace, scalar, vecdot
from distnewton.parallel.replicas import Draws
from distnewton.registry import Registry

Task = Literal["classification", "binary", "multilabel", "regression"]


class LossHessian(Protocol):
    """The matrices B^i of a set of samples."""

    def matvec(self, V: Array) -> Array:
        """Multiply B of each sample with a vector of outputs.

        Parameters
        ----------
        V : Array of shape (n, n_out)
            One vector per sample.

        Returns
        -------
        Array of shape (n, n_out)
        """
        ...

    def roots(self, n_roots: int, generator: Draws | None) -> Array:
        r"""Compute cotangents c_1 .. c_k of each sample with B = sum_a c_a c_a^T, exactly or in expectation.

        ==============  ==============================================  =======================================
        loss            exact, k = n_out                                random, any k (the output sketch)
        ==============  ==============================================  =======================================
        squared         sqrt(2) e_a                                     sqrt(2 / k) times random signs
        cross_entropy   sqrt(p_a) (p - e_a)                             (p - e_y') / sqrt(k), y' drawn from p
        logistic        sqrt(p (1 - p))                                 sqrt(p (1 - p) / k) times random signs
        squared_hinge   sqrt(2) e_a where 1 > s_a z_a                   sqrt(2 / k) times random signs, there
        ==============  ==============================================  =======================================

        Parameters
        ----------
        n_roots : int
            k, for random roots.
        generator : Draws or None
            In the same state on all ranks; None for the exact roots.

        Returns
        -------
        Array of shape (n, k, n_out)
        """
        ...


class Loss(ABC):
    """A convex loss of the network's outputs and the targets, which declares all that the package needs to know.

    Attributes
    ----------
    name, help : str
        Value of ``network.loss``, and the formula on one line.
    tasks : tuple of str
        Supported tasks, the usual one first. They determine outputs and targets: ``classification`` has one output and
        one class index (integer, from 0) per class, ``binary`` a single output and targets 0.0 and 1.0, ``multilabel``
        one output and one column of 0.0 and 1.0 per label, ``regression`` targets of shape (n, n_out).
    link : str
        Function from outputs to probabilities: ``softmax``, ``logistic``, or empty if there are none.
    torch : str
        Full name of the equivalent torch module, such as ``torch.nn.MSELoss``; empty if there is none.
    scales_targets : bool
        Whether regression targets are learned as (y - mean) / deviation, which suits a loss that does not depend on
        units.
    """

    name: ClassVar[str]
    help: ClassVar[str]
    tasks: ClassVar[tuple[Task, ...]]
    link: ClassVar[Literal["softmax", "logistic", ""]] = ""
    torch: ClassVar[str] = ""
    scales_targets: ClassVar[bool] = False

    @abstractmethod
    def values(self, Z: Array, targets: Array) -> Array:
        """Compute the loss of each sample, in float64.

        Parameters
        ----------
        Z : Array of shape (n, n_out)
            Outputs.
        targets : Array of shape (n,) or (n, n_out)
            Class indices, labels 0 and 1, or numbers, depending on the task.

        Returns
        -------
        Array of shape (n,)
        """

    def value(self, Z: Array, targets: Array) -> float:
        """Sum the losses of the samples, in float64; arguments as for :meth:`values`."""
        return scalar(self.values(Z, targets).sum())

    @abstractmethod
    def gradient(self, Z: Array, targets: Array) -> Array:
        """Compute the gradient of each sample's loss in its outputs, of shape (n, n_out); a new array."""

    @abstractmethod
    def hessian(self, Z: Array, targets: Array) -> LossHessian:
        """Compute the Hessians of the samples' losses with respect to the outputs."""

    def residuals(self, Z: Array, targets: Array) -> Array | None:
        """Compute residuals u with sum_a u_a c_a = gradient of each sample's loss, for the exact roots c_a.

        Parameters
        ----------
        Z : Array of shape (n, n_out)
            Outputs.
        targets : Array of shape (n,) or (n, n_out)
            As for :meth:`values`.

        Returns
        -------
        Array of shape (n, k), or None
            For k exact roots. None, the default, if the loss is not a sum of squares: roots may then be near zero.
        """
        return None

    def not_finite(self, Z: Array, targets: Array) -> str:
        """Explain for a message where the loss of finite outputs is not finite; empty, the default, if it never is.

        Parameters
        ----------
        Z : Array of shape (n, n_out)
            Outputs.
        targets : Array of shape (n,) or (n, n_out)
            As for :meth:`values`.

        Returns
        -------
        str
        """
        return ""

    @abstractmethod
    def third(self, Z: Array, targets: Array, V: Array) -> float:
        """Sum the third derivatives of the samples' losses along a change of the outputs, in float64.

        Parameters
        ----------
        Z, V : Array of shape (n, n_out)
            Outputs, and their change.
        targets : Array of shape (n,) or (n, n_out)
            As for :meth:`values`.

        Returns
        -------
        float
        """


class ScaledIdentity:
    """The matrix B = c I for each sample.

    Parameters
    ----------
    factor : float
        c.
    outputs : Array of shape (n, n_out)
        Outputs; B has their shape and their location, host or device.
    """

    def __init__(self, factor: float, outputs: Array) -> None:
        self._factor, self._outputs = factor, outputs

    def matvec(self, V: Array) -> Array:
        """Multiply B of each sample with a vector of outputs."""
        return self._factor * V

    def roots(self, n_roots: int, generator: Draws | None) -> Array:
        """Cotangents whose squares add up to B, of shape (n, k, n_out)."""
        n, n_out = self._outputs.shape
        if generator is None:
            xp = namespace(self._outputs)
            exact: Array = xp.broadcast_to(math.sqrt(self._factor) * xp.eye(n_out), (n, n_out, n_out))
            return exact
        signs: Array = like(self._outputs, random_signs(generator, n, n_roots, n_out))
        return math.sqrt(self._factor / n_roots) * signs


class SoftmaxHessian:
    """The matrix B = diag(p) - p p^T."""

    def __init__(self, p: Array) -> None:
        self._p = p

    def matvec(self, V: Array) -> Array:
        """Multiply B of each sample with a vector of outputs."""
        weighted = self._p * V
        weighted -= self._p * weighted.sum(axis=1, keepdims=True)
        return weighted

    def roots(self, n_roots: int, generator: Draws | None) -> Array:
        """Cotangents whose squares add up to B, of shape (n, k, n_out)."""
        n, n_out = self._p.shape
        xp = namespace(self._p)
        if generator is None:
            exact: Array = xp.sqrt(self._p)[:, :, None] * (self._p[:, None, :] - xp.eye(n_out, dtype=self._p.dtype))
            return exact
        thresholds = xp.cumsum(self._p, axis=1, dtype=np.float64)
        # p sums to 1 only up to rounding; scaled, a number below 1 always falls on a class
        drawn = like(self._p, generator.random((n, n_roots))) * thresholds[:, -1:]
        labels = xp.empty((n, n_roots), dtype=np.intp)
        for a in range(n_roots):
            labels[:, a] = (thresholds <= drawn[:, a, None]).sum(axis=1)
        C: Array = xp.repeat(self._p[:, None, :], n_roots, axis=1)
        C[xp.arange(n)[:, None], xp.arange(n_roots), labels] -= 1
        C /= math.sqrt(n_roots)
        return C


class Diagonal:
    """The matrix B = diag(c), given as a column of factors."""

    def __init__(self, diagonal: Array) -> None:
        self._diagonal = diagonal

    def matvec(self, V: Array) -> Array:
        """Multiply B of each sample with a vector of outputs."""
        return self._diagonal * V

    def roots(self, n_roots: int, generator: Draws | None) -> Array:
        """Cotangents whose squares add up to B, of shape (n, k, n_out)."""
        xp = namespace(self._diagonal)
        root: Array = xp.sqrt(self._diagonal)
        n, n_out = root.shape
        if generator is None:
            roots = xp.eye(n_out, dtype=root.dtype)
        else:
            roots = like(root, random_signs(generator, n, n_roots, n_out))
        cotangents: Array = root[:, None, :] * roots
        if generator is not None:
            cotangents /= math.sqrt(n_roots)
        return cotangents


def random_signs(generator: Draws, *shape: int) -> Array:
    """Random signs, on the host."""
    signs: Array = 2.0 * generator.integers(2, size=shape) - 1.0
    return signs


class Squared(Loss):
    """Sum of squared errors; integer targets are class indices and stand for unit vectors."""

    name, help = "squared", "||z - y||^2"
    tasks = ("regression", "classification")
    torch, scales_targets = "torch.nn.MSELoss", True

    def _error(self, Z: Array, targets: Array) -> Array:
        if targets.dtype.kind == "i":
            error = Z.copy()
            error[namespace(Z).arange(len(Z)), targets] -= 1
            return error
        return Z - targets.reshape(Z.shape)

    def values(self, Z: Array, targets: Array) -> Array:
        """Loss of each sample, in float64."""
        error = self._error(Z, targets).astype(np.float64, copy=False)
        squares: Array = vecdot(error, error)
        return squares

    def gradient(self, Z: Array, targets: Array) -> Array:
        """Gradient of each sample's loss in its outputs, of shape (n, n_out)."""
        error = self._error(Z, targets)
        error *= 2
        return error

    def hessian(self, Z: Array, targets: Array) -> LossHessian:
        """Hessians of the samples' losses in their outputs."""
        return ScaledIdentity(2.0, Z)

    def residuals(self, Z: Array, targets: Array) -> Array | None:
        """Return sqrt(2) (z - y)."""
        error = self._error(Z, targets)
        error *= math.sqrt(2.0)
        return error

    def third(self, Z: Array, targets: Array, V: Array) -> float:
        """Return zero: the loss is quadratic."""
        return 0.0


class CrossEntropy(Loss):
    """Softmax cross-entropy on logits; targets are class indices."""

    name, help = "cross_entropy", "log sum exp z - z_y"
    tasks = ("classification",)
    link = "softmax"
    torch = "torch.nn.CrossEntropyLoss"

    def values(self, Z: Array, targets: Array) -> Array:
        """Loss of each sample, in float64."""
        xp = namespace(Z)
        shifted = Z.astype(np.float64)
        shifted -= shifted.max(axis=1, keepdims=True)
        chosen = shifted[xp.arange(len(Z)), targets]
        values: Array = xp.log(xp.exp(shifted, out=shifted).sum(axis=1))
        values -= chosen
        return values

    def gradient(self, Z: Array, targets: Array) -> Array:
        """Gradient of each sample's loss in its outputs, of shape (n, n_out)."""
        p = softmax(Z)
        p[namespace(Z).arange(len(Z)), targets] -= 1
        return p

    def hessian(self, Z: Array, targets: Array) -> LossHessian:
        """Hessians of the samples' losses in their outputs."""
        return SoftmaxHessian(softmax(Z))

    def third(self, Z: Array, targets: Array, V: Array) -> float:
        """Third cumulant of the change under p, summed over the samples."""
        p = softmax(Z.astype(np.float64))
        centred = V - (p * V).sum(axis=1, keepdims=True)
        # repeated products: a power would take ten times as long
        p *= centred
        return scalar(namespace(p).vdot(p, centred * centred))


class Logistic(Loss):
    """Logistic loss of each output; targets are 0 and 1."""

    name, help = "logistic", "sum_k log(1 + exp z_k) - y_k z_k: for one output, or for one per label"
    tasks = ("binary", "multilabel")
    link = "logistic"
    torch = "torch.nn.BCEWithLogitsLoss"

    def values(self, Z: Array, targets: Array) -> Array:
        """Loss of each sample, in float64."""
        z = Z.astype(np.float64)
        values: Array = (namespace(z).logaddexp(z, 0.0) - targets.reshape(Z.shape) * z).sum(axis=1)
        return values

    def gradient(self, Z: Array, targets: Array) -> Array:
        """Gradient of each sample's loss in its outputs, of shape (n, n_out)."""
        p = logistic(Z)
        p -= targets.reshape(Z.shape)
        return p

    def hessian(self, Z: Array, targets: Array) -> LossHessian:
        """Hessians of the samples' losses in their outputs."""
        p = logistic(Z)
        return Diagonal(p * (1 - p))

    def third(self, Z: Array, targets: Array, V: Array) -> float:
        """Sum of p (1 - p) (1 - 2 p) v^3."""
        p, v = logistic(Z.astype(np.float64)), V.astype(np.float64)
        return scalar((p * (1 - p) * (1 - 2 * p) * v * v * v).sum())


class SquaredHinge(Loss):
    """Squared hinge loss of each class against the rest; targets are class indices."""

    name, help = "squared_hinge", "sum_k max(0, 1 - s_k z_k)^2, each class against the rest"
    tasks = ("classification",)

    def _margins(self, Z: Array, targets: Array) -> tuple[Array, Array]:
        """Amount missing from each margin, 0 if it is kept, and its slope -s."""
        xp = namespace(Z)
        slopes = xp.ones_like(Z)
        slopes[xp.arange(len(Z)), targets] = -1
        missing = slopes * Z
        missing += 1
        return xp.maximum(missing, 0, out=missing), slopes

    def values(self, Z: Array, targets: Array) -> Array:
        """Loss of each sample, in float64."""
        missing = self._margins(Z.astype(np.float64, copy=False), targets)[0]
        squares: Array = vecdot(missing, missing)
        return squares

    def gradient(self, Z: Array, targets: Array) -> Array:
        """Gradient of each sample's loss in its outputs, of shape (n, n_out)."""
        missing, slopes = self._margins(Z, targets)
        missing *= slopes
        missing *= 2
        return missing

    def hessian(self, Z: Array, targets: Array) -> LossHessian:
        """Hessians of the samples' losses in their outputs, 0 where the margin is kept."""
        return Diagonal((2 * (self._margins(Z, targets)[0] > 0)).astype(Z.dtype))

    def third(self, Z: Array, targets: Array, V: Array) -> float:
        """Return zero, which holds except at the margin."""
        return 0.0


def probabilities(link: str, Z: Array, *, each: bool = False) -> Array:
    """Compute probabilities of the classes from outputs.

    Parameters
    ----------
    link : str
        Link that the loss declares: ``softmax`` or ``logistic``.
    Z : Array of shape (n, n_out)
        Outputs.
    each : bool
        Whether each output belongs to a label of its own.

    Returns
    -------
    Array of shape (n, n_classes)
    """
    if each:
        return logistic(Z)
    # the same function for both classes: subtracting from 1 would lose the digits of small probabilities
    return softmax(Z) if link == "softmax" else np.hstack([logistic(-Z), logistic(Z)])


def softmax(Z: Array) -> Array:
    """Row-wise softmax of logits."""
    p: Array = Z - Z.max(axis=1, keepdims=True)
    namespace(p).exp(p, out=p)
    p /= p.sum(axis=1, keepdims=True)
    return p


def logistic(Z: Array) -> Array:
    """Logistic function, element-wise and without overflow."""
    p: Array = namespace(Z).tanh(0.5 * Z)
    p += 1
    p *= 0.5
    return p


LOSSES: Registry[Loss] = Registry(
    "loss", Loss, [Squared(), CrossEntropy(), Logistic(), SquaredHinge()], group="distnewton.losses", objects=True
)
