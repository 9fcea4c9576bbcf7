"""The default number of random cotangents that replace the outputs of a sample."""

from __future__ import annotations

from distnewton.network.shapes import NetworkShape
from distnewton.parallel.partition import Partition

FEW_OUTPUTS = 64
"""Networks with at most this many outputs keep them all. With the factor below the output kept as two small parts, a
sketch of 4 saved no time on 26 outputs, and its noise cost some iterations."""
ENOUGH = 16
"""On 676 outputs (pairs of letters, 5 % of 40,000 samples) sketches of 4 and 16 reached the same accuracy in the same
time; 60 took 2.2 times as long and all outputs more than 3 times. The Jacobian of 16 rows cost a quarter of the
gradient. Of the two equally fast sketches the larger is safer, since it is less noisy."""
_FEWEST = 4


def auto_sketch(
    shape: NetworkShape, partition: Partition, n_curvature: int, itemsize: int, memory_bytes: float
) -> int:
    """Choose the number of random cotangents per sample, 0 for all outputs; the same on all ranks.

    Parameters
    ----------
    shape : NetworkShape
        Layers.
    partition : Partition
        Partition of the network over the ranks.
    n_curvature : int
        Size of the curvature sample.
    itemsize : int
        Bytes per number.
    memory_bytes : float
        Memory that a rank may use for the Jacobian.

    Returns
    -------
    int
        0 for up to :data:`FEW_OUTPUTS` outputs, and for images if all rows, which are as large as the images of each
        layer, fit in memory; else :data:`ENOUGH`, or fewer if memory holds fewer.
    """
    fitting = int(memory_bytes / (max(1, n_curvature) * widest_row(shape, partition) * itemsize))
    if partition.widths[-1] <= (FEW_OUTPUTS if shape.image_shape is None else min(FEW_OUTPUTS, fitting)):
        return 0
    return max(_FEWEST, min(ENOUGH, fitting))


def widest_row(shape: NetworkShape, partition: Partition) -> int:
    """Numbers per sample in a row of the Jacobian's factors, on the rank with the most."""
    sizes = [
        sum(block.shape[1] * shape.layers[block.layer - 1].n_values for block in partition.blocks(rank))
        for rank in range(partition.n_ranks)
    ]
    return max(1, *sizes)
