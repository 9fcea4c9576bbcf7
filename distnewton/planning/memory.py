"""Memory of an iteration on a rank, by part; the sum is its peak."""

from __future__ import annotations

from distnewton.network.layers import LINEAR_SIZE, PATCH_SIZE
from distnewton.planning.chunks import rows_kept
from distnewton.planning.kronecker import moment_sizes
from distnewton.planning.problem import Problem, Share
from distnewton.solvers.block_cholesky import system_size
from distnewton.solvers.least_squares import variable_system_bytes

N_VECTORS = 12
"""Number of vectors of a rank's variables at once: point and trial, gradient, directions, and those of CG."""
_PACKED_COLUMN = 96
"""Bytes of a column of genotypes besides its codes: four values, their replacements, scaling and counts."""
_SPARSE_VALUE = 4
"""Bytes of the column number of a nonzero."""


def iteration_memory(problem: Problem, share: Share, width: float) -> dict[str, float]:
    """Predict the bytes that a rank holds, by part, in iterations with the gradient of all samples and while reading.

    Parameters
    ----------
    problem, share, width
        Arguments of :class:`~distnewton.planning.messages.Messages`.

    Returns
    -------
    dict of str to float
        ``features`` of training and test, ``variables``, ``activations`` of a point and of a trial or test samples,
        ``outputs`` of all samples, ``jacobian`` with the work arrays of its products, ``factors`` of a preconditioner,
        ``system`` in sample space, ``work`` of the chunk that passes forward and backward, and ``reading``: what
        reading takes beyond all of these except the features.

    Notes
    -----
    The interpreter, its libraries and buffers inside MPI are not counted.
    """
    n, itemsize = problem.n_samples, problem.itemsize
    n_rows_kept, chunk_rows = rows_kept(width, itemsize, problem.memory_bytes)
    n_kept = share.n_kept(itemsize)
    own = {m: block.shape[1] * share.layer(m).n_elements for m, block in share.blocks.items()}
    stored = {m: block.shape[1] * share.layer(m).n_values for m, block in share.blocks.items()}
    # neither the identity of the output layer nor, without roots, the factor below it is stored
    full = sum(size for m, size in stored.items() if m < share.n_layers - (not problem.rooted))
    # a curvature subsample is a copy, with its features
    apart = problem.n_curvature if problem.apart else 0
    kept = min(n, max(0, n_rows_kept - apart // 2)) if apart else n
    passing = min(n, chunk_rows)
    dense = problem.nonzeros is None
    stored_rows = 0 if problem.method.recomputed else problem.n_rows
    jacobian = 0.0 if not stored_rows else problem.n_curvature * (problem.n_rows * full + sum(own.values()))
    # in the gradient there is neither a trial nor a Jacobian; a chunk that is not kept passes again
    cotangents = passing * (2 * max(own.values(), default=0) + n_kept * (kept < n))
    beyond = max(0.0, cotangents - kept * n_kept - jacobian)
    buffers = 2 * LINEAR_SIZE + 4 * PATCH_SIZE if problem.shape.image_shape is not None else 0
    # several logical blocks of a rank use views of dense tables, and copies of everything else
    several = bool(share.partition.block_splits)
    copied = several and problem.shape.image_shape is not None
    jacobian += copied * problem.n_curvature * (stored_rows * full + n_kept)
    jacobian += several * features_bytes(problem, share, problem.n_curvature) / itemsize * (copied or not dense)
    numbers = {
        "variables": (N_VECTORS + several) * share.n_params,
        # for a point and a trial; later for a point and test samples
        "activations": (kept + apart + max(kept, min(problem.n_test, chunk_rows))) * n_kept
        + features_bytes(problem, share, apart) / itemsize,
        "outputs": 3 * (n + problem.n_test) * problem.n_out,
        "jacobian": jacobian,
        "factors": 2 * sum(moment_sizes(problem, share)),
        "system": _system_size(problem, share.partition.n_ranks * problem.n_replicas),
        # a chunk that is not kept; pre-activations, patches and their products; the loss, in float64
        "work": passing * n_kept * (kept < n) + buffers + beyond + passing * problem.n_out * 8 // itemsize,
    }
    parts = {name: float(itemsize * count) for name, count in numbers.items()}
    reading = max(0.0, problem.reading_bytes - sum(parts.values()))
    # if the curvature uses all samples, sparse ones are also kept in column order where that pays
    n_features_kept = n + problem.n_test + n * (not dense and not problem.apart)
    return {"features": features_bytes(problem, share, n_features_kept)} | parts | {"reading": reading}


def _system_size(problem: Problem, n_ranks: int) -> float:
    """Return the number of elements of an exact direction's system."""
    if problem.for_variables:
        return variable_system_bytes(problem.n_system, problem.shape.n_params) / problem.itemsize
    return system_size(problem.n_system, n_ranks)


def features_bytes(problem: Problem, share: Share, n: int) -> float:
    """Return the bytes of a rank's features of some samples."""
    block = share.blocks.get(1)
    if block is None:
        return 0.0
    per_unit = share.partition.features_per_unit
    n_features = (block.inputs[1] - block.inputs[0]) * per_unit
    if problem.packed:
        return n_features * (n / 4.0 + _PACKED_COLUMN * (n > 0))
    if problem.nonzeros is None:
        return float(n * n_features * problem.itemsize)
    share_of_all = n_features / (share.partition.widths[0] * per_unit)
    return n * (problem.nonzeros * share_of_all * (problem.itemsize + _SPARSE_VALUE) + _SPARSE_VALUE)
