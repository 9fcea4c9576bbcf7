"""How many random cotangents a sample stand for its outputs where nobody says so."""

from __future__ import annotations

from distnewton.parallel.partition import Partition

FEW_OUTPUTS = 64
"""Networks with at most so many outputs keep them all: exact curvature is cheap there, and noise is not."""
_GRADIENT_COST = 3
"""A gradient costs three products with the weights a sample, the Jacobian's recursion one a row."""
_FEWEST = 8


def auto_sketch(
    partition: Partition, n_gradient: int, n_curvature: int, itemsize: int, memory_bytes: float
) -> int:
    """Random cotangents a sample, 0 for all outputs.

    Networks of many outputs get as many as make the Jacobian about as dear as the gradient, so that an iteration costs
    at most about twice its gradient and CG, whatever the number of outputs; and no more than memory holds.

    Parameters
    ----------
    partition : Partition
        Widths, and who owns what.
    n_gradient, n_curvature : int
        Samples of the gradient and of the curvature.
    itemsize : int
        Bytes of a number.
    memory_bytes : float
        What a rank may use.

    Returns
    -------
    int
    """
    n_out = partition.widths[-1]
    if n_out <= FEW_OUTPUTS or n_curvature == 0:
        return 0
    widths = [sum(block.shape[1] for block in partition.blocks(rank)) for rank in range(partition.n_ranks)]
    fitting = int(memory_bytes / (n_curvature * max(1, *widths) * itemsize))
    k = max(_FEWEST, min(_GRADIENT_COST * n_gradient // n_curvature, fitting))
    return k if k < n_out else 0
