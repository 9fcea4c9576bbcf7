"""Choose the splits of a network with the least predicted time for forward passes, gradient and products.

Only the order of the candidates matters, not the seconds, so one sample, one core for each rank, and the bandwidth
between ranks are enough. Splits may differ from layer to layer: a narrow output layer can divide its input rows over
all ranks, and none is idle. :func:`~distnewton.planning.plan.make_plans` compares the result with regular grids.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from distnewton.guards.ledger import allreduce_bytes
from distnewton.network.shapes import LayerShape, NetworkShape
from distnewton.parallel.cuts import FileOwners
from distnewton.parallel.partition import divisors
from distnewton.planning.rates import Rates

_ITEMSIZE = 4
_PASSES = 4.5
"""Passes over a layer's weights for each sample: one forward, two for the gradient, and half as many for products."""
_ONE_CORE = Rates(sparse_products=2.57e9)
"""Rate of sparse products on a core that does not share its memory bandwidth."""
_Endings = dict[tuple[int, int, bool], tuple[float, tuple[int, ...]]]
"""Maps the last two splits, and whether all ranks have been used, to seconds and splits of the cheapest choice."""


def auto_splits(
    shape: NetworkShape, n_ranks: int, *, density: float | None = None, rates: Rates = _ONE_CORE,
    owners: FileOwners | None = None,
) -> tuple[int, ...]:  # fmt: skip
    """Find the splits with the least predicted time for a sample on a number of ranks.

    Parameters
    ----------
    shape : NetworkShape
        Layers 1..L.
    n_ranks : int
        Number of ranks; the largest product of neighbouring splits equals it.
    density : float or None
        Share of nonzeros in sparse features; None for dense.
    rates : Rates
        Rates of computation and communication.
    owners : FileOwners or None
        Ranks that own each file by columns, which the splits of the features must respect.

    Returns
    -------
    tuple of int
        Splits, of length L + 1.
    """
    choices = divisors(n_ranks)
    pairs = {a: [b for b in choices if a * b <= n_ranks] for a in choices}
    # dynamic programming over layers
    endings = _of_first_layer(shape.layers[0], n_ranks, pairs, rates, density)
    if owners is not None:
        endings = {ending: way for ending, way in endings.items() if owners.suits(ending[:2])}
    for below, layer in pairwise(shape.layers):
        blocks = {b: {c: _block_seconds(rates, layer, b, c) for c in pairs[b]} for b in choices}
        endings = _extended(endings, n_ranks, rates, below, blocks)
    return min(value for (_, _, full), value in endings.items() if full)[1]


def _of_first_layer(
    first: LayerShape, n_ranks: int, pairs: Mapping[int, Sequence[int]], rates: Rates, density: float | None
) -> _Endings:
    """List all ways to split the first layer, with their seconds."""
    # splitting the few channels of an image would send the largest pre-activations of all layers
    few_channels = first.kernel is not None and first.n_in < n_ranks
    return {
        (a, b, a * b == n_ranks): (_first_layer_seconds(rates, first, a, b, density), (a, b))
        for a in ([1] if few_channels else pairs)
        for b in pairs[a]
    }


def _extended(
    endings: _Endings, n_ranks: int, rates: Rates, below: LayerShape, blocks: Mapping[int, Mapping[int, float]]
) -> _Endings:
    """Extend the cheapest choices by one layer; ``blocks[b][c]`` is the time of its largest block."""
    longer: _Endings = {}
    for (a, b, full), (cost, splits) in endings.items():
        for c, seconds in blocks[b].items():
            way = (cost + seconds + _sum_seconds(rates, below, b, max(a, c)), (*splits, c))
            ending = b, c, full or b * c == n_ranks
            longer[ending] = min(way, longer.get(ending, way))
    return longer


def _first_layer_seconds(rates: Rates, layer: LayerShape, a: int, b: int, density: float | None) -> float:
    """Return the seconds as in :func:`_block_seconds`, with the features."""
    n_in = math.ceil(layer.n_in / a)
    if density is not None:
        return rates.sparse_product(_PASSES * density * n_in, math.ceil(layer.n_out / b))
    return _block_seconds(rates, layer, a, b) + 3 * n_in * rates.stream(2 * _ITEMSIZE)


def _block_seconds(rates: Rates, layer: LayerShape, a: int, b: int) -> float:
    """Return the seconds for a sample in the largest block of a layer."""
    n_in, n_out = math.ceil(layer.n_in / a), math.ceil(layer.n_out / b)
    # a dense layer multiplies the rows of a unit once, a convolution at every place
    n_products = layer.rows_per_unit * layer.n_linear
    # patches are read and written in the forward pass, for the gradient, and to add up cotangents
    n_gathered = 0 if layer.kernel is None else 4 * n_in * n_products
    return 2 * _PASSES * n_in * n_out * n_products / rates.products + n_gathered * rates.stream(2 * _ITEMSIZE)


def _sum_seconds(rates: Rates, layer: LayerShape, n_groups: int, n_members: int) -> float:
    """Return the seconds for a sample to sum a group of units over its boundary, forward and backward."""
    n_numbers = math.ceil(layer.n_out / n_groups) * (layer.n_linear + layer.n_values)
    return allreduce_bytes(_ITEMSIZE * n_numbers, n_members) / rates.bandwidth
