"""Splits by themselves: the factorisation with the least predicted time for forward, gradient and products.

A simple alpha-beta model with round rates: what matters is the order of the candidates, not the seconds. Splits may
differ from layer to layer, so that a narrow output layer cuts its input rows over all ranks and nobody idles there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from distnewton.parallel.partition import divisors


@dataclass(frozen=True)
class Rates:
    """Round figures of one core and of memory that ranks share.

    Attributes
    ----------
    flops : float
        Matrix products, operations a second.
    bandwidth : float
        Between ranks, bytes a second.
    seconds_per_nonzero, seconds_per_nonzero_column : float
        Sparse products: to fetch a value, and for each output column it is multiplied into.
    seconds_per_feature : float
        To stream a dense feature value from memory.
    """

    flops: float = 7e10
    bandwidth: float = 5e9
    seconds_per_nonzero: float = 5e-9
    seconds_per_nonzero_column: float = 7e-10
    seconds_per_feature: float = 4e-10


@dataclass(frozen=True)
class LayerCost:
    """What a layer costs a sample, by its units.

    Attributes
    ----------
    n_in, n_out : int
        Units below and above.
    products : int
        Multiplications for a pair of units: the pixels of a kernel times its places; 1 between neurons.
    gathered : int
        Numbers that are copied before the products for an input unit: those of the patches; 0 between neurons.
    forward, backward : int
        Numbers of an output unit in a message forward, and backward.
    """

    n_in: int
    n_out: int
    products: int = 1
    gathered: int = 0
    forward: int = 1
    backward: int = 1


def dense_costs(widths: Sequence[int]) -> list[LayerCost]:
    """Costs of fully connected layers."""
    return [LayerCost(a, b) for a, b in pairwise(widths)]


def auto_splits(layers: Sequence[LayerCost], n_ranks: int, *, density: float | None = None) -> tuple[int, ...]:
    """Splits with the least predicted time a sample on a number of ranks.

    Parameters
    ----------
    layers : sequence of LayerCost
        Layers 1..L.
    n_ranks : int
        Ranks to use; the largest product of neighbouring splits is exactly this.
    density : float or None
        Share of non-zeros of sparse features; None for dense.

    Returns
    -------
    tuple of int
        Of length L + 1.
    """
    rates, choices = Rates(), divisors(n_ranks)
    # dynamic programming over layers; a state is the last two splits and whether all ranks have been used
    best: dict[tuple[int, int, bool], tuple[float, tuple[int, ...]]] = {}
    # cutting the few channels of an image would put the largest pre-activations of all into messages
    few_channels = layers[0].gathered > 0 and layers[0].n_in < n_ranks
    for a in choices[:1] if few_channels else choices:
        for b in (b for b in choices if a * b <= n_ranks):
            cost = _block_seconds(rates, layers[0], a, b, density)
            cost += 3 * math.ceil(layers[0].n_in / a) * rates.seconds_per_feature if density is None else 0.0
            best[a, b, a * b == n_ranks] = (cost, (a, b))
    for below, layer in pairwise(layers):
        following: dict[tuple[int, int, bool], tuple[float, tuple[int, ...]]] = {}
        for (a, b, full), (cost, splits) in best.items():
            for c in (c for c in choices if b * c <= n_ranks):
                total = cost + _block_seconds(rates, layer, b, c, None)
                total += _sum_seconds(rates, below, b, max(a, c))
                state = b, c, full or b * c == n_ranks
                if state not in following or (total, (*splits, c)) < following[state]:
                    following[state] = (total, (*splits, c))
        best = following
    return min(value for (_, _, full), value in best.items() if full)[1]


def _block_seconds(rates: Rates, layer: LayerCost, a: int, b: int, density: float | None) -> float:
    """Seconds a sample in the largest block of a layer: forward and gradient, and half as much for products."""
    n_in, n_out = math.ceil(layer.n_in / a), math.ceil(layer.n_out / b)
    if density is not None:
        n_values = density * n_in
        return 4.5 * n_values * (rates.seconds_per_nonzero + rates.seconds_per_nonzero_column * n_out)
    # patches are made forward, for the gradient, and added up backward
    gathering = 4 * n_in * layer.gathered * rates.seconds_per_feature
    return 9.0 * n_in * n_out * layer.products / rates.flops + gathering


def _sum_seconds(rates: Rates, layer: LayerCost, n_groups: int, n_members: int) -> float:
    """Seconds a sample to sum a group of units over its boundary, forward and backward."""
    if n_members == 1:
        return 0.0
    n_numbers = math.ceil(layer.n_out / n_groups) * (layer.forward + layer.backward)
    return 4 * n_numbers * 2 * (n_members - 1) / n_members / rates.bandwidth
