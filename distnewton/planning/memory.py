"""What an iteration holds on a rank, part by part: the sum is its peak."""

from __future__ import annotations

from distnewton.network.layers import LINEAR_SIZE, PATCH_SIZE
from distnewton.planning.chunks import rows_kept
from distnewton.planning.kronecker import moment_sizes
from distnewton.planning.problem import Problem, Share
from distnewton.solvers.block_cholesky import system_size
from distnewton.solvers.least_squares import variable_system_bytes

N_VECTORS = 12
"""Vectors of a rank's variables at once: the point and its trial, gradient, directions, and those of CG."""
_PACKED_COLUMN = 96
"""Bytes of a column of genotypes beside its codes: its four values, those that replace them, its scaling and counts."""
_SPARSE_VALUE = 4
"""Bytes of the column number of a non-zero."""


def iteration_memory(problem: Problem, share: Share, width: float) -> dict[str, float]:
    """Bytes that a rank holds, by part: for iterations with the gradient of all samples, and before for reading.

    Parameters
    ----------
    problem, share, width
        Arguments of :class:`~distnewton.planning.messages.Messages`.

    Returns
    -------
    dict of str to float
        ``features`` of training and test, ``variables``, ``activations`` of a point and of a trial or test samples,
        ``outputs`` of all samples, ``jacobian`` with the work arrays of its products, ``factors`` of a preconditioner,
        ``system`` in sample space, and ``work``: what passes forward and backward hold of the samples they are at;
        ``reading``: what reading takes more
        than all of these but the features, which it ends with.

    Notes
    -----
    The interpreter and its libraries are not counted, nor are buffers inside MPI.
    """
    n, itemsize = problem.n_samples, problem.itemsize
    n_rows_kept, chunk_rows = rows_kept(width, itemsize, problem.memory_bytes)
    n_kept = share.n_kept(itemsize)
    own = {m: block.shape[1] * share.layer(m).n_elements for m, block in share.blocks.items()}
    stored = {m: block.shape[1] * share.layer(m).n_values for m, block in share.blocks.items()}
    # neither the identity of the output layer nor, without roots, the factor below it is stored
    full = sum(size for m, size in stored.items() if m < share.n_layers - (not problem.rooted))
    # the curvature's samples are held besides, with their features, where they are not all
    apart = problem.n_curvature if problem.apart else 0
    kept = min(n, max(0, n_rows_kept - apart // 2)) if apart else n
    passing = min(n, chunk_rows)
    dense = problem.nonzeros is None
    stored_rows = 0 if problem.method.recomputed else problem.n_rows
    jacobian = 0.0 if not stored_rows else problem.n_curvature * (problem.n_rows * full + sum(own.values()))
    # the gradient's: there is neither a trial nor a Jacobian then; a chunk that is not kept passes once more
    cotangents = passing * (2 * max(own.values(), default=0) + n_kept * (kept < n))
    beyond = max(0.0, cotangents - kept * n_kept - jacobian)
    buffers = 2 * LINEAR_SIZE + 4 * PATCH_SIZE if problem.shape.image_shape is not None else 0
    # logical blocks that are not the rank's have views of dense tables, and copies of everything else
    several = bool(share.partition.block_splits)
    copied = several and problem.shape.image_shape is not None
    jacobian += copied * problem.n_curvature * (stored_rows * full + n_kept)
    jacobian += several * features_bytes(problem, share, problem.n_curvature) / itemsize * (copied or not dense)
    numbers = {
        "variables": (N_VECTORS + several) * share.n_params,
        # of a point and of a trial; later of a point and of test samples
        "activations": (kept + apart + max(kept, min(problem.n_test, chunk_rows))) * n_kept
        + features_bytes(problem, share, apart) / itemsize,
        "outputs": 3 * (n + problem.n_test) * problem.n_out,
        "jacobian": jacobian,
        "factors": 2 * sum(moment_sizes(problem, share)),
        "system": _system_size(problem, share.partition.n_ranks * problem.n_replicas),
        # a chunk that is not kept; pre-activations, patches and their products; the loss, which is in float64
        "work": passing * n_kept * (kept < n) + buffers + beyond + passing * problem.n_out * 8 // itemsize,
    }
    parts = {name: float(itemsize * count) for name, count in numbers.items()}
    reading = max(0.0, problem.reading_bytes - sum(parts.values()))
    # sparse samples that are all the curvature's are kept in the order of columns, too, where that pays
    n_features_kept = n + problem.n_test + n * (not dense and not problem.apart)
    return {"features": features_bytes(problem, share, n_features_kept)} | parts | {"reading": reading}


def _system_size(problem: Problem, n_ranks: int) -> float:
    """Numbers of an exact direction's system."""
    if problem.for_variables:
        return variable_system_bytes(problem.n_system, problem.shape.n_params) / problem.itemsize
    return system_size(problem.n_system, n_ranks)


def features_bytes(problem: Problem, share: Share, n: int) -> float:
    """Bytes of a rank's features of some samples."""
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
