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
"""The scheme of no weights, which suits networks without hidden layers."""


def weight_rows(seed: int, layer: int, rows: NDArray[np.int64], n: int) -> Iterator[Array]:
    """Normal random numbers for each of some rows of weights: counter-based, the same whoever owns the row."""
    numbers = np.random.Philox(key=seed)
    generator, state = np.random.Generator(numbers), numbers.state
    for row in rows.tolist():
        # a fresh generator of this counter would take three times as long
        state["state"]["counter"][:] = 0, 0, layer, row
        numbers.state = state
        yield generator.standard_normal(n)


def standard_deviation(scheme: str, n_in: int, n_out: int) -> float:
    """Standard deviation of the weights of a layer.

    Parameters
    ----------
    scheme : str
        ``glorot``: sqrt(2 / (n_in + n_out)); ``he``: sqrt(2 / n_in), simpleNN's; ``lecun``: sqrt(1 / n_in).
    n_in, n_out : int
        Inputs of a unit and outputs of an input in the whole layer, never in a block; a kernel counts all its pixels.

    Returns
    -------
    float
    """
    variance = {"glorot": 2.0 / (n_in + n_out), "he": 2.0 / n_in, "lecun": 1.0 / n_in}[scheme]
    return float(np.sqrt(variance))


def initial_block(
    block: Block, shape: NetworkShape, seed: int, scheme: str, rows: NDArray[np.int64]
) -> Array:
    """Initial weights of one block, of shape (n_in_local, n_out_local), float64; ``rows`` are its own, globally."""
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
    """Initial variables of a rank: normal weights, zero biases.

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
        As of :func:`standard_deviation`; or ``zero``.
    rows_of : callable
        Own layer to the global rows of this rank's block of its weights.

    Returns
    -------
    Array of shape (n_params,)
    """
    flat = backend.zeros(layout.n_params)
    if scheme == ZERO:
        return flat
    for layer, view in layout.views(flat).items():
        # drawn on the host, by the same keys whatever the device
        view.W[...] = backend.asarray(initial_block(layout.blocks[layer], shape, seed, scheme, rows_of(layer)))
    return flat
