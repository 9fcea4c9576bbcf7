r"""A network restricted to the features that occur in some sample.

Weights of other features change no output: their part of the objective is theta^2 / (2C), whose minimiser is 0, and
their part of a direction is

.. math:: d = -\frac{g}{1/C + \lambda}, \qquad g = \frac{\theta}{C}

in all methods that solve (G + lambda I) d = -g. If they start at the minimiser they stay there, whatever the method. So
they need not be variables: vectors, products, factors, messages and checkpoints contain the rows of the other features
only. A text has a few hundred of very many features, and a small set of texts has a small part of them together.
"""

from __future__ import annotations

import copy
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnewton.backend import Array, like, namespace
from distnewton.network.initialization import initial_params
from distnewton.network.network import PartitionedNetwork


class ActiveNetwork(PartitionedNetwork):
    """The part of a network that some of its features reach, on the same ranks and with the same division into groups.

    Parameters
    ----------
    whole : PartitionedNetwork
        The network, of fully connected layers.
    active : Array of bool, of shape (n_features,)
        Features that occur; the same on all ranks, and at least one.

    Attributes
    ----------
    columns : Array of int
        This rank's features among them, counted from its first feature of the whole network.
    title : str
        Number of features over all ranks, with a checksum.
    """

    def __init__(self, whole: PartitionedNetwork, active: NDArray[np.bool_]) -> None:
        grid, (start, stop) = copy.copy(whole.grid), whole.grid.feature_range()
        first, *others = whole.shape.layers
        n_active = int(active.sum())
        shape = replace(
            whole.shape,
            layers=(replace(first, n_in=n_active), *others),
            listed=(n_active, *whole.shape.listed[1:]),
        )
        grid.partition = whole.grid.partition.of_features(active)
        grid.blocks = {block.layer: block for block in grid.partition.blocks(grid.rank)}
        super().__init__(grid, whole.activation.name, whole.backend, shape, whole.n_pieces)
        self._active = active
        self._whole, self.columns = whole, np.flatnonzero(active[start:stop])
        self.title = f"{n_active} (checksum {zlib.crc32(np.packbits(active).tobytes()):08x})"

    def on(self, whole: PartitionedNetwork) -> PartitionedNetwork:
        """Restrict another whole network to the same features."""
        return ActiveNetwork(whole, self._active)

    def initial_params(self, seed: int, scheme: str) -> Array:
        """Initialise this rank's variables as in the whole network; shape (n_params_local,)."""
        return initial_params(self.layout, self._whole.shape, self.backend, seed, scheme, self.input_rows)

    def input_rows(self, m: int) -> NDArray[np.int64]:
        """Global rows of the weights of this rank's block of a layer, in the whole network."""
        rows = self._whole.input_rows(m)
        return rows[self.columns] if m == 1 else rows

    def choose(self, X: Any) -> Any:
        """Select this rank's columns of X from those of the whole network; a new csr_array of the same values.

        Parameters
        ----------
        X : csr_array of shape (n, n_features_local)
            Without values in other columns.

        Returns
        -------
        csr_array of shape (n, len(columns))
        """
        places = np.zeros(X.shape[1], X.indices.dtype)
        places[self.columns] = np.arange(len(self.columns))
        chosen = type(X)((X.data, places[X.indices], X.indptr), shape=(X.shape[0], len(self.columns)))
        chosen.has_canonical_format = X.has_canonical_format
        return chosen

    def reduced(self, params: Array) -> Array:
        """Return this rank's variables of a point of the whole network, without those that it lacks here."""
        flat = self.backend.empty(self.layout.n_params)
        self._copy(flat, params, inwards=True)
        return flat

    def expanded(self, params: Array, out: Array | None = None) -> Array:
        """Extend a point to the whole network, with weights of 0 for missing variables.

        Parameters
        ----------
        params : Array of shape (n_params_local,)
            This rank's variables.
        out : Array or None
            Result of an earlier call, to be overwritten.

        Returns
        -------
        Array
        """
        flat = self.backend.zeros(self._whole.layout.n_params) if out is None else out
        self._copy(params, flat, inwards=False)
        return flat

    def _copy(self, own: Array, whole: Array, *, inwards: bool) -> None:
        """Copy between vectors of both networks."""
        rows = like(own, self.columns)
        of_whole = self._whole.layout.matrices(whole)
        for m, matrix in self.layout.matrices(own).items():
            other = of_whole[m]
            if m == 1:
                n = len(self.columns)
                # the bias, if the block owns it, comes last
                pairs = [(slice(0, n), rows), (slice(n, None), slice(len(other) - (len(matrix) - n), None))]
            else:
                pairs = [(slice(None), slice(None))]
            for mine, others in pairs:
                if inwards:
                    matrix[mine] = other[others]
                else:
                    other[others] = matrix[mine]


def active_network(whole: PartitionedNetwork, X: Any, params: Array | None) -> PartitionedNetwork:
    """Restrict a network to the features that occur in some sample; returns the whole one if all or none occur.

    Parameters
    ----------
    whole : PartitionedNetwork
        The network.
    X : csr_array of shape (n, n_features_local)
        This rank's features of its replica's samples.
    params : Array of shape (n_params_local,) or None
        Start of training, if not the weights of :meth:`PartitionedNetwork.initial_params`: features with nonzero
        weights there are kept.

    Returns
    -------
    PartitionedNetwork

    Notes
    -----
    Collective: one sum of one number per feature.
    """
    counts = np.zeros(whole.grid.partition.n_features, np.float32)
    own = counts[slice(*whole.grid.feature_range())]
    own[X.indices] = 1
    if params is not None and 1 in whole.grid.blocks:
        W = whole.layout.views(params)[1].W
        own += namespace(W).any(W != 0, axis=1)
    active = whole.grid.world.sum_inplace(counts) > 0
    return ActiveNetwork(whole, active) if 0 < active.sum() < len(active) else whole
