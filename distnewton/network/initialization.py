"""Initial weights as functions of (seed, layer, global row): the same on every grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from distnewton.backend import Array, Backend
from distnewton.network.layout import ParameterLayout
from distnewton.network.shapes import NetworkShape
from distnewton.parallel.partition import Block

ZERO = "zero"
"""The scheme with all weights zero, which suits networks without hidden layers."""


def weight_rows(seed: int, layer: int, rows: NDArray[np.int64], n: int) -> Iterator[Array]:
    """Draw normal random numbers for some rows of weights: counter-based, independent of the rows' owners."""
    numbers = np.random.Philox(key=seed)
    generator, state = np.random.Generator(numbers), numbers.state
    for row in rows.tolist():
        # creating a generator with this counter would take three times as long
        state["state"]["counter"][:] = 0, 0, layer, row
        numbers.state = state
        yield generator.standard_normal(n)


def standard_deviation(scheme: str, n_in: int, n_out: int) -> float:
    """Compute the standard deviation of a layer's weights.

    Parameters
    ----------
    scheme : str
        ``glorot``: sqrt(2 / (n_in + n_out)); ``he``: sqrt(2 / n_in), as in simpleNN; ``lecun``: sqrt(1 / n_in).
    n_in, n_out : int
        Inputs per unit and outputs per input in the whole layer, not in a block; all pixels of a kernel count.

    Returns
    -------
    float
    """
    variance = {"glorot": 2.0 / (n_in + n_out), "he": 2.0 / n_in, "lecun": 1.0 / n_in}[scheme]
    return float(np.sqrt(variance))


def initial_block(
    block: Block, shape: NetworkShape, seed: int, scheme: str, rows: NDArray[np.int64]
) -> Array:
    """Draw a block's initial weights, of shape (n_in_local, n_out_local), float64; ``rows`` are its global rows."""
    layer = shape.layers[block.layer - 1]
    W = np.empty(block.shape)
    for k, numbers in enumerate(weight_rows(seed, block.layer, rows, layer.n_out)):
        W[k] = numbers[slice(*block.outputs)]
    W *= standard_deviation(scheme, *layer.fans)
    return W


def initial_params(
    layout: ParameterLayout,
    shape: NetworkShape,
    backend: Backend,
    seed: int,
    scheme: str,
    rows_of: Callable[[int], NDArray[np.int64]],
) -> Array:
    """Draw the initial variables of a rank: normal weights, zero biases.

    Parameters
    ----------
    layout : ParameterLayout
        This rank's blocks.
    shape : NetworkShape
        All layers.
    backend : Backend
        Gives the dtype; numbers are drawn in float64.
    seed : int
        Seed of the run.
    scheme : str
        Scheme of :func:`standard_deviation`, or ``zero``.
    rows_of : callable
        Maps an own layer to the global rows of this rank's block of its weights.

    Returns
    -------
    Array of shape (n_params,)
    """
    flat = backend.zeros(layout.n_params)
    if scheme == ZERO:
        return flat
    for layer, view in layout.views(flat).items():
        # drawn on the host, from the same keys on any device
        view.W[...] = backend.asarray(initial_block(layout.blocks[layer], shape, seed, scheme, rows_of(layer)))
    return flat
