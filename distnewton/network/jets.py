r"""Derivatives of a network in its inputs, carried along with its values: a truncated Taylor expansion per sample.

Besides the value s a neuron has *channels*: first derivatives s_i in some directions, and sums of second derivatives,
s_q with weights w_{qi}. Such a sum can be a single second derivative, or the forward Laplacian (arXiv 2307.08214).
Weights act on all channels alike but the bias only on the value, so a channel is to a dense layer what a place is to a
convolution. An activation a couples the channels of one neuron:

.. math:: z_i = a' s_i, \qquad z_q = a' s_q + a'' Q_q, \qquad Q_q = \sum_i w_{qi} s_i^2

This needs no communication, so blocks and boundary sums stay as they are. With the ratios r_2 = a''/a' and
r_3 = a'''/a', cotangents E of the activations give those of the pre-activations,

.. math:: D_q = a' E_q, \quad D_i = a' \Big(E_i + 2 r_2 s_i \sum_q w_{qi} E_q\Big), \quad
    D_0 = a' \Big(E_0 + r_2 \Big(\sum_i E_i s_i + \sum_q E_q s_q\Big) + r_3 \sum_q E_q Q_q\Big)
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from distnewton.backend import Array, namespace
from distnewton.frozen import frozen
from distnewton.network.activations import Activation

_STRIP = 1 << 15
"""Numbers of the derivatives processed at a time, few enough to stay in the cache with their temporaries."""


@frozen
class Jet:
    """The set of derivatives that are carried along.

    Attributes
    ----------
    directions : tuple of tuple of float
        Directions of the first derivatives, each with one number per feature.
    seconds : tuple of tuple of float
        Weights over the directions: a channel is the sum of the directions' second derivatives with these weights.
    n_constants : int
        Number of last outputs that are constants: biases alone, whose weights have no effect.
    """

    directions: tuple[tuple[float, ...], ...] = ()
    seconds: tuple[tuple[float, ...], ...] = ()
    n_constants: int = 0

    @property
    def size(self) -> int:
        """Number of channels, including the value."""
        return 1 + len(self.directions) + len(self.seconds)

    def seed(self, X: Array, first: int) -> Array:
        """Compute the channels of the features themselves.

        Parameters
        ----------
        X : Array of shape (n, n_features_local)
            This rank's features.
        first : int
            Number of the first of these features among all.

        Returns
        -------
        Array of shape (n, size * n_features_local)
            Channel by channel: values, directions, and second derivatives, which are 0.
        """
        n, width = X.shape
        seeded = np.zeros((n, self.size, width), X.dtype)
        seeded[:, 0] = X
        for i, direction in enumerate(self.directions):
            seeded[:, 1 + i] = direction[first : first + width]
        return seeded.reshape(n, self.size * width)


class JetActivation:
    """An activation applied to all channels of a neuron.

    Parameters
    ----------
    activation : Activation
        Activation of the values.
    jet : Jet
        Definition of the channels.
    """

    def __init__(self, activation: Activation, jet: Jet) -> None:
        self._activation, self._jet = activation, jet
        n = len(jet.directions)
        self._firsts = slice(1, 1 + n)
        self._terms = [
            (1 + n + q, [(1 + i, w) for i, w in enumerate(weights) if w]) for q, weights in enumerate(jet.seconds)
        ]

    def apply(self, S: Array, Z: Array) -> None:
        """Activate all channels.

        Parameters
        ----------
        S : Array of shape (n, size * width)
            Pre-activations; activated values overwrite the values, the derivatives stay.
        Z : Array of shape (n, size * width)
            Overwritten with the activations.
        """
        for rows in self._strips(S):
            s, z = self._split(S[rows]), self._split(Z[rows])
            value = self._activation.apply(s[..., 0, :].copy())
            slope, (second, _) = self._activation.derivative(value), self._activation.derivative_ratios(value)
            z[...] = s
            for q, parts in self._terms:
                z[..., q, :] += second * self._squares(s, parts)
            z[..., 1:, :] *= slope[..., None, :]
            s[..., 0, :] = z[..., 0, :] = value

    def pull_back(self, E: Array, elements: Array) -> None:
        """Convert cotangents of the activations to those of the pre-activations, in place.

        Parameters
        ----------
        E : Array of shape (n, ..., size * width)
            Cotangents; axes between the first and the last are broadcast.
        elements : Array of shape (n, size * width)
            Pre-activations as modified by :meth:`apply`.
        """
        for rows in self._strips(E):
            D, s, slope, second, third = self._at(E[rows], elements[rows])
            coupled = (D[..., 1:, :] * s[..., 1:, :]).sum(axis=-2)
            coupled *= second
            for q, parts in self._terms:
                coupled += third * self._squares(s, parts) * D[..., q, :]
                for i, w in parts:
                    D[..., i, :] += (2.0 * w) * second * s[..., i, :] * D[..., q, :]
            D[..., 0, :] += coupled
            D *= slope[..., None, :]

    def push_forward(self, P: Array, elements: Array) -> None:
        """Convert changes of pre-activations to those of activations, in place: the adjoint of :meth:`pull_back`."""
        for rows in self._strips(P):
            T, s, slope, second, third = self._at(P[rows], elements[rows])
            value = T[..., 0, :]
            for q, parts in self._terms:
                change = s[..., q, :] * value
                for i, w in parts:
                    change += (2.0 * w) * s[..., i, :] * T[..., i, :]
                T[..., q, :] += second * change + third * self._squares(s, parts) * value
            T[..., self._firsts, :] += (second * value)[..., None, :] * s[..., self._firsts, :]
            T *= slope[..., None, :]

    def _at(self, A: Array, elements: Array) -> tuple[Array, Array, Array, Array, Array]:
        """Channels of A and of the pre-activations, the activation's derivative, and the ratios to it."""
        s = self._split(elements)
        s = s.reshape(len(s), *[1] * (A.ndim - 2), *s.shape[1:])
        value = namespace(s).ascontiguousarray(s[..., 0, :])
        return (self._split(A), s, self._activation.derivative(value), *self._activation.derivative_ratios(value))

    def _split(self, A: Array) -> Array:
        """View an array with a channel axis before the last."""
        size = self._jet.size
        return A.reshape(*A.shape[:-1], size, A.shape[-1] // size)

    @staticmethod
    def _squares(s: Array, parts: list[tuple[int, float]]) -> Array:
        """Compute Q_q."""
        total = 0.0 * s[..., 0, :]
        for i, w in parts:
            total += w * s[..., i, :] * s[..., i, :]
        return total

    @staticmethod
    def _strips(A: Array) -> Iterator[slice]:
        """Yield some samples at a time."""
        step = max(1, _STRIP // max(1, A[:1].size))
        yield from (slice(start, start + step) for start in range(0, len(A), step))
