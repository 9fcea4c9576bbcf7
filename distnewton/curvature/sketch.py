"""How many random cotangents a sample stand for its outputs where nobody says so."""

from __future__ import annotations

from distnewton.parallel.partition import Partition

FEW_OUTPUTS = 64
"""Networks with at most so many outputs keep them all. With the factor below the output kept as two small parts, a
sketch of 4 saved no time on 26 outputs, and its noise cost some iterations."""
ENOUGH = 16
"""On 676 outputs (pairs of letters, 5 % of 40,000 samples) 4 and 16 reached the same accuracy in the same seconds, 60
took 2.2 times as long and all outputs more than 3 times; the Jacobian of 16 rows costs a quarter of the gradient
there. More rows are the safer of two equals: they are less noisy."""
_FEWEST = 4


def auto_sketch(partition: Partition, n_curvature: int, itemsize: int, memory_bytes: float) -> int:
    """Random cotangents a sample, 0 for all outputs.

    Parameters
    ----------
    partition : Partition
        Widths, and who owns what.
    n_curvature : int
        Samples of the curvature.
    itemsize : int
        Bytes of a number.
    memory_bytes : float
        What a rank may use for the Jacobian.

    Returns
    -------
    int
        For more than :data:`FEW_OUTPUTS` outputs :data:`ENOUGH`, or as many as memory holds if that is less.
    """
    if partition.widths[-1] <= FEW_OUTPUTS:
        return 0
    widths = [sum(block.shape[1] for block in partition.blocks(rank)) for rank in range(partition.n_ranks)]
    fitting = int(memory_bytes / (max(1, n_curvature) * max(1, *widths) * itemsize))
    return max(_FEWEST, min(ENOUGH, fitting))
