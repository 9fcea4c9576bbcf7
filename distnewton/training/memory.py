"""What a Newton iteration holds on a rank, part by part: the sum bounds its peak."""

from __future__ import annotations

from typing import Any

import numpy as np

from distnewton.network.layers import LINEAR_SIZE, PATCH_SIZE
from distnewton.network.network import PartitionedNetwork
from distnewton.training.objective import Objective

_N_VECTORS = 12
"""Vectors of a rank's variables at once: the point and its trial, gradient, directions, and those of CG."""


def iteration_memory(objective: Objective, n_curvature: int, n_rows: int, n_test: int = 0) -> dict[str, float]:
    """Bytes that iterations with the gradient of all samples and a stored Jacobian hold on this rank, by part.

    Parameters
    ----------
    objective : Objective
        Data, network, and what may be kept of an evaluation.
    n_curvature : int
        Samples of the curvature.
    n_rows : int
        Rows of the Jacobian a sample: outputs, or random cotangents.
    n_test : int
        Test samples.

    Returns
    -------
    dict of str to float
        ``features`` of training and test, ``variables``, ``activations`` of a point and of a trial, ``outputs`` of all
        samples, ``jacobian`` with the work arrays of its products, and ``work``: what passes forward and backward hold
        of the samples they are at.

    Notes
    -----
    The interpreter and its libraries are not counted, nor are buffers inside MPI.
    """
    features = _bytes_of(objective.X)
    return memory_parts(
        objective.network, objective.n_samples, objective.n_rows_kept, objective.chunk_rows, features, n_curvature,
        n_rows, n_test,
    )  # fmt: skip


def memory_parts(
    network: PartitionedNetwork,
    n: int,
    n_rows_kept: int,
    chunk_rows: int,
    features: float,
    n_curvature: int,
    n_rows: int,
    n_test: int,
) -> dict[str, float]:
    """The same from sizes alone, for a network that may only be planned.

    Parameters
    ----------
    network : PartitionedNetwork
        The network; its grid need not have a communicator.
    n, n_rows_kept, chunk_rows : int
        Samples, those whose activations are kept, and those that pass at a time.
    features : float
        Bytes of the training features.
    n_curvature, n_rows, n_test : int
        As of :func:`iteration_memory`.

    Returns
    -------
    dict of str to float
    """
    itemsize, shape = network.backend.dtype.itemsize, network.shape
    own = {m: block.shape[1] * shape.layers[m - 1].n_elements for m, block in network.grid.blocks.items()}
    stored = {m: block.shape[1] * shape.layers[m - 1].n_values for m, block in network.grid.blocks.items()}
    # neither the identity of the output layer nor, without roots, the factor below it is stored
    full = sum(size for m, size in stored.items() if m < network.n_layers - (n_rows == network.n_out))
    kept = 2 * min(n, max(n_rows_kept, n_curvature))
    passing = min(n, chunk_rows)
    numbers = {
        "variables": _N_VECTORS * network.layout.n_params,
        "activations": kept * network.n_kept,
        "outputs": 3 * (n + n_test) * network.n_out,
        "jacobian": n_curvature * (n_rows * full + sum(own.values())),
        # a chunk's activations and two layers' cotangents; pre-activations, patches and their products
        "work": passing * (network.n_kept + 2 * max(own.values(), default=0)) + 2 * LINEAR_SIZE + 4 * PATCH_SIZE,
    }
    return {"features": features * (1 + n_test / n)} | {
        name: float(itemsize * count) for name, count in numbers.items()
    }


def _bytes_of(X: Any) -> float:
    """Bytes of dense or sparse features."""
    if isinstance(X, np.ndarray):
        return float(X.nbytes)
    return float(X.data.nbytes + X.indices.nbytes + X.indptr.nbytes)
