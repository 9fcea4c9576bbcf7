"""Where each block of a rank's variables lies in its flat vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from distnewton.backend import Array
from distnewton.parallel.partition import Block


class BlockView(NamedTuple):
    """A block's part of a flat vector.

    Attributes
    ----------
    W : Array of shape (n_in_local, n_out_local)
    b : Array of shape (n_out_local,), or None where another rank owns the bias
    """

    W: Array
    b: Array | None


class ParameterLayout:
    """Flat vector of a rank's variables: block by block, each the rows of W and then, where owned, of b.

    Parameters
    ----------
    blocks : mapping of int to Block
        This rank's blocks by layer, ascending.

    Attributes
    ----------
    n_params : int
        Length of the flat vector; directions, gradients and CG work on it as a whole.
    """

    def __init__(self, blocks: Mapping[int, Block]) -> None:
        self.blocks = dict(blocks)
        self.slices: dict[int, slice] = {}
        start = 0
        for layer, block in self.blocks.items():
            self.slices[layer] = slice(start, start + block.n_params)
            start += block.n_params
        self.n_params = start
        # views are made several times a CG step: their shapes are worked out once
        self._shapes = [
            (m, self.slices[m], (block.shape[0] + block.owns_bias, block.shape[1]), block.shape[0], block.owns_bias)
            for m, block in self.blocks.items()
        ]

    def views(self, flat: Array) -> dict[int, BlockView]:
        """Views of a flat vector, by layer.

        Parameters
        ----------
        flat : Array of shape (n_params,)
            A vector of this rank's variables.

        Returns
        -------
        dict of int to BlockView
            Writing to a view writes to ``flat``.

        Raises
        ------
        ValueError
            If ``flat`` has another shape.
        """
        if flat.shape != (self.n_params,):
            raise ValueError(f"expected a vector of this rank's {self.n_params} variables, got shape {flat.shape}")
        views = {}
        for layer, part, shape, n_in, owns_bias in self._shapes:
            rows = flat[part].reshape(shape)
            views[layer] = BlockView(rows[:n_in], rows[n_in]) if owns_bias else BlockView(rows, None)
        return views

    def matrices(self, flat: Array) -> dict[int, Array]:
        """Views as of :meth:`views`, of W with b, where owned, as last row: (n_in_local + owns_bias, n_out_local)."""
        return {layer: flat[part].reshape(shape) for layer, part, shape, _, _ in self._shapes}
