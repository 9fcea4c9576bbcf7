"""Groups of variables, along which grouped Newton differentiates and scales a direction ([GN3])."""

from __future__ import annotations

from collections.abc import Iterator

from distnewton.backend import Array, namespace
from distnewton.network.layout import ParameterLayout
from distnewton.parallel.partition import Partition

GROUPS = ("tensor", "kind", "rank", "all")


class ParameterGroups:
    """A partition of the variables into groups; a block's weights, and its bias, each belong to one.

    Parameters
    ----------
    kind : str
        ``tensor``: the weights and the bias of each layer; ``kind``: all weights, all biases; ``rank``: each logical
        block, by default what a rank owns; ``all``: one group.
    partition : Partition
        Partition of the network over the ranks.
    rank : int
        This rank.

    Attributes
    ----------
    n_groups : int
        S, including groups without variables.
    weights, biases : dict of int to dict of int to int
        Groups of this rank's own non-empty weights and biases, by layer and number of the logical block.
    first_layers : list of int
        Lowest layer in which each group has variables; beyond the last layer if it has none.
    order : list of int
        Groups with variables, sorted by the lowest layer in which they have some.
    n_active : list of int
        For each layer from 0, the number of groups in ``order`` with variables up to it: these change its outputs.
    """

    def __init__(self, kind: str, partition: Partition, rank: int) -> None:
        if kind not in GROUPS:
            raise ValueError(f"groups must be one of {', '.join(GROUPS)}, got {kind!r}")
        self._kind, L = kind, partition.n_layers
        self.n_groups = {"tensor": 2 * L, "kind": 2, "rank": partition.logical.n_ranks, "all": 1}[kind]
        self.weights: dict[int, dict[int, int]] = {}
        self.biases: dict[int, dict[int, int]] = {}
        first = self.first_layers = [L + 1] * self.n_groups
        logical = partition.logical
        for number, block in [(p, block) for p in range(logical.n_ranks) for block in logical.blocks(p)]:
            n_in, n_out = block.shape
            for own, size in ((self.weights, n_in * n_out), (self.biases, n_out * block.owns_bias)):
                if size:
                    group = self._group(block.layer, own is self.biases, number)
                    first[group] = min(first[group], block.layer)
                    if partition.holder(number) == rank:
                        own.setdefault(block.layer, {})[number] = group
        self.order = sorted((s for s in range(self.n_groups) if first[s] <= L), key=lambda s: first[s])
        self.n_active = [sum(first[s] <= m for s in self.order) for m in range(L + 1)]

    def _group(self, layer: int, is_bias: bool, number: int) -> int:
        """Return the group of the weights or the bias of a block."""
        return {"tensor": 2 * (layer - 1) + is_bias, "kind": int(is_bias), "rank": number, "all": 0}[self._kind]

    def scaled(self, layout: ParameterLayout, factors: Array, v: Array) -> Array:
        """Multiply each group of a vector by its own factor.

        Parameters
        ----------
        layout : ParameterLayout
            Layout of the blocks.
        factors : Array of shape (n_groups,)
            Factor of each group.
        v : Array of shape (n_params_local,)
            Any vector of this rank's variables.

        Returns
        -------
        Array of shape (n_params_local,)
        """
        scaled = v.copy()
        for m, view in layout.views(scaled).items():
            for of_layer, array in ((self.weights, view.W), (self.biases, view.b)):
                groups = of_layer.get(m, {})
                for block in layout.parts:
                    if array is not None and block.number in groups:
                        block.part(m, array)[...] *= float(factors[groups[block.number]])
        return scaled

    def parts(
        self, layout: ParameterLayout, m: int, array: Array | None, *, biases: bool = False
    ) -> Iterator[tuple[int, Array]]:
        """Yield each group's part of an own layer's weights or biases.

        Parameters
        ----------
        layout : ParameterLayout
            Layout of the blocks.
        m : int
            The layer.
        array : Array or None
            Weights of shape (n_in_local, n_out_local), or biases; None if another rank owns them.
        biases : bool
            Whether the array holds biases.

        Yields
        ------
        tuple of int and Array
            Number of the group, and an array of the same shape that is zero outside the group.
        """
        groups = (self.biases if biases else self.weights).get(m, {})
        if array is None:
            return
        if len(set(groups.values())) == 1:
            yield next(iter(groups.values())), array
            return
        for block in layout.parts:
            if block.number in groups:
                alone = namespace(array).zeros_like(array)
                block.part(m, alone)[...] = block.part(m, array)
                yield groups[block.number], alone
