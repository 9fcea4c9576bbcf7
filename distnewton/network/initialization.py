"""Initial weights as functions of (seed, layer, global row): the same on every grid."""

from __future__ import annotations

import numpy as np

from distnewton.backend import Array, Backend
from distnewton.network.layout import ParameterLayout
from distnewton.parallel.partition import Block, Partition

SCHEMES = ("glorot", "he", "lecun")


def row_generator(seed: int, layer: int, row: int) -> np.random.Generator:
    """Counter-based random numbers of one weight row, whoever owns it."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, layer, row]))


def standard_deviation(scheme: str, n_in: int, n_out: int) -> float:
    """Standard deviation of the weights of a layer.

    Parameters
    ----------
    scheme : str
        ``glorot``: sqrt(2 / (n_in + n_out)); ``he``: sqrt(2 / n_in), simpleNN's; ``lecun``: sqrt(1 / n_in).
    n_in, n_out : int
        Widths of the whole layer, never of a block.

    Returns
    -------
    float
    """
    variance = {"glorot": 2.0 / (n_in + n_out), "he": 2.0 / n_in, "lecun": 1.0 / n_in}[scheme]
    return float(np.sqrt(variance))


def initial_block(block: Block, widths: tuple[int, ...], seed: int, scheme: str) -> Array:
    """Initial weights of one block, of shape (n_in_local, n_out_local), float64."""
    n_in, n_out = widths[block.layer - 1], widths[block.layer]
    scale = standard_deviation(scheme, n_in, n_out)
    W = np.empty(block.shape)
    for k, row in enumerate(range(*block.inputs)):
        W[k] = row_generator(seed, block.layer, row).standard_normal(n_out)[slice(*block.outputs)]
    W *= scale
    return W


def initial_params(
    layout: ParameterLayout, partition: Partition, backend: Backend, seed: int, scheme: str
) -> Array:
    """Initial variables of a rank: normal weights, zero biases.

    Parameters
    ----------
    layout : ParameterLayout
        This rank's blocks.
    partition : Partition
        Gives the widths of the whole network.
    backend : Backend
        Gives the dtype; numbers are drawn in float64.
    seed : int
        Seed of the run.
    scheme : str
        One of :data:`SCHEMES`.

    Returns
    -------
    Array of shape (n_params,)
    """
    flat = backend.zeros(layout.n_params)
    for layer, view in layout.views(flat).items():
        view.W[...] = initial_block(layout.blocks[layer], partition.widths, seed, scheme)
    return flat
