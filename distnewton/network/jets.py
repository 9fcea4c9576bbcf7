r"""Derivatives of a network in its inputs, carried along with its values: a truncated Taylor expansion of each sample.

Beside the value s a neuron has *channels*: first derivatives s_i in some directions, and sums of second derivatives in
them, s_q with weights w_{qi}: a second derivative each, or the forward Laplacian (arXiv 2307.08214) as one channel.
Weights act on all channels alike, and the bias on the value, so that a channel is to a dense layer what a place is to
a convolution. An activation a couples the channels of one neuron:

.. math:: z_i = a' s_i, \qquad z_q = a' s_q + a'' Q_q, \qquad Q_q = \sum_i w_{qi} s_i^2

It sends nothing, so blocks and boundary sums stay as they are. With the ratios r_2 = a''/a' and r_3 = a'''/a',
cotangents E of the activations give those of the pre-activations,

.. math:: D_q = a' E_q, \quad D_i = a' \Big(E_i + 2 r_2 s_i \sum_q w_{qi} E_q\Big), \quad
    D_0 = a' \Big(E_0 + r_2 \Big(\sum_i E_i s_i + \sum_q E_q s_q\Big) + r_3 \sum_q E_q Q_q\Big)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from distnewton.backend import Array, namespace
from distnewton.network.activations import Activation

_STRIP = 1 << 15
"""Numbers of the derivatives that are worked on at a time: they and their temporaries stay in the cache."""


@dataclass(frozen=True)
class Jet:
    """Which derivatives ride along.

    Attributes
    ----------
    directions : tuple of tuple of float
        Of the first derivatives, each with a number for each feature.
    seconds : tuple of tuple of float
        A weight for each direction: the channel is the sum of the second derivatives in them with these weights.
    n_constants : int
        The last outputs of the network that are constants: biases alone, whose weights have no effect.
    """

    directions: tuple[tuple[float, ...], ...] = ()
    seconds: tuple[tuple[float, ...], ...] = ()
    n_constants: int = 0

    @property
    def size(self) -> int:
        """Channels, the value included."""
        return 1 + len(self.directions) + len(self.seconds)

    def seed(self, X: Array, first: int) -> Array:
        """Channels of the features themselves.

        Parameters
        ----------
        X : Array of shape (n, n_features_local)
            This rank's features.
        first : int
            Number of the first of them among all.

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
    """An activation on all channels of a neuron.

    Parameters
    ----------
    activation : Activation
        Of the values.
    jet : Jet
        The channels.
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
            Pre-activations; their values are overwritten by the activated ones, their derivatives stay.
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
        """Turn cotangents of the activations into those of the pre-activations, in place.

        Parameters
        ----------
        E : Array of shape (n, ..., size * width)
            Cotangents; axes between the first and the last are broadcast over.
        elements : Array of shape (n, size * width)
            What :meth:`apply` has left of the pre-activations.
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
        """Turn changes of the pre-activations into those of the activations, in place: adjoint to :meth:`pull_back`."""
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
        """View with an axis of the channels before the last."""
        size = self._jet.size
        return A.reshape(*A.shape[:-1], size, A.shape[-1] // size)

    @staticmethod
    def _squares(s: Array, parts: list[tuple[int, float]]) -> Array:
        """Q_q."""
        total = 0.0 * s[..., 0, :]
        for i, w in parts:
            total += w * s[..., i, :] * s[..., i, :]
        return total

    @staticmethod
    def _strips(A: Array) -> Iterator[slice]:
        """Some samples at a time."""
        step = max(1, _STRIP // max(1, A[:1].size))
        yield from (slice(start, start + step) for start in range(0, len(A), step))
