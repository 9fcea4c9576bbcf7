"""Groups of variables, along which grouped Newton differentiates and scales a direction ([GN3])."""

from __future__ import annotations

from distnewton.backend import Array
from distnewton.network.layout import ParameterLayout
from distnewton.parallel.partition import Partition

GROUPS = ("tensor", "kind", "rank", "all")


class ParameterGroups:
    """A partition of the variables into groups; a block's weights, and its bias, each belong to one.

    Parameters
    ----------
    kind : str
        ``tensor``: the weights and the bias of each layer; ``kind``: all weights, all biases; ``rank``: what each
        rank owns; ``all``: one group.
    partition : Partition
        Who owns what.
    rank : int
        This rank.

    Attributes
    ----------
    n_groups : int
        S, groups without variables included.
    weights, biases : dict of int to int
        Groups of this rank's own weights and biases that are not empty, by layer.
    first_layers : list of int
        By group, the lowest layer in which it has variables; beyond the last where it has none.
    order : list of int
        Groups that have variables, by the lowest layer in which they have some.
    n_active : list of int
        By layer from 0 on, how many of ``order`` have variables up to it: those change the outputs of that layer.
    """

    def __init__(self, kind: str, partition: Partition, rank: int) -> None:
        if kind not in GROUPS:
            raise ValueError(f"groups must be one of {', '.join(GROUPS)}, got {kind!r}")
        self._kind, L = kind, partition.n_layers
        self.n_groups = {"tensor": 2 * L, "kind": 2, "rank": partition.n_ranks, "all": 1}[kind]
        self.weights: dict[int, int] = {}
        self.biases: dict[int, int] = {}
        first = self.first_layers = [L + 1] * self.n_groups
        blocks = [(owner, block) for owner in range(partition.n_ranks) for block in partition.blocks(owner)]
        for owner, block in blocks:
            n_in, n_out = block.shape
            for own, size in ((self.weights, n_in * n_out), (self.biases, n_out * block.owns_bias)):
                if size:
                    group = self._group(block.layer, own is self.biases, owner)
                    first[group] = min(first[group], block.layer)
                    if owner == rank:
                        own[block.layer] = group
        self.order = sorted((s for s in range(self.n_groups) if first[s] <= L), key=lambda s: first[s])
        self.n_active = [sum(first[s] <= m for s in self.order) for m in range(L + 1)]

    def _group(self, layer: int, is_bias: bool, owner: int) -> int:
        """Group of the weights or the bias of a block."""
        return {"tensor": 2 * (layer - 1) + is_bias, "kind": int(is_bias), "rank": owner, "all": 0}[self._kind]

    def scaled(self, layout: ParameterLayout, factors: Array, v: Array) -> Array:
        """A vector with each group multiplied by its own factor.

        Parameters
        ----------
        layout : ParameterLayout
            Where the blocks lie.
        factors : Array of shape (n_groups,)
            By group.
        v : Array of shape (n_params_local,)
            Any vector of this rank's variables.

        Returns
        -------
        Array of shape (n_params_local,)
        """
        scaled = v.copy()
        for m, view in layout.views(scaled).items():
            if m in self.weights:
                view.W[...] *= float(factors[self.weights[m]])
            if view.b is not None and m in self.biases:
                view.b[...] *= float(factors[self.biases[m]])
        return scaled
