"""Rates of computation and communication: the alpha-beta model of messages, and a roofline for products."""

from __future__ import annotations

import math

from distnewton.frozen import frozen
from distnewton.planning.messages import Message

# share of the rate of large square products that products of a network's shapes reach, without passes over memory
_OF_SQUARE = 0.95
# number of weight columns at which the rate of sparse products is given
_SPARSE_COLUMNS = 64
# 5 ns for a value and 0.7 ns for a column, measured on one core with scipy
_FETCH_COLUMNS = 7.0


@frozen
class Rates:
    """Rates of a rank while all ranks compute.

    Attributes
    ----------
    products : float
        Dense matrix products, operations a second.
    sparse_products : float
        Products of sparse features with 64 columns of weights, operations a second.
    memory : float
        Bytes a second that pass between a core and memory.
    functions : float
        Exponentials a second.
    latency, bandwidth : float
        Seconds of an empty message, and bytes a second, between ranks of one node.
    far_latency, far_bandwidth : float
        The same between nodes; the ranks of a node share its bandwidth.
    ranks_per_node : int
        Number of consecutive ranks on a node.
    call : float
        Seconds of interpreter time for a layer in a pass, or for a message.
    """

    products: float = 7e10
    sparse_products: float = 2e9
    memory: float = 2e10
    functions: float = 2e9
    latency: float = 2e-6
    bandwidth: float = 5e9
    far_latency: float = 2e-6
    far_bandwidth: float = 1e10
    ranks_per_node: int = 1 << 30
    call: float = 2.5e-5

    def product(self, m: float, k: float, n: float, itemsize: int) -> float:
        """Return the seconds of a product of m x k and k x n: its operations, and packing its matrices."""
        return 2.0 * m * k * n / (_OF_SQUARE * self.products) + self.stream(2.0 * itemsize * (m * k + k * n + m * n))

    def sparse_product(self, nonzeros: float, n_out: float) -> float:
        """Return the seconds of a product of sparse features and dense weights, or of its adjoint."""
        # fetching a value takes as long as multiplying it into this many columns, whatever their number
        per_column = 2.0 * _SPARSE_COLUMNS / self.sparse_products / (_FETCH_COLUMNS + _SPARSE_COLUMNS)
        return nonzeros * per_column * (_FETCH_COLUMNS + n_out)

    def stream(self, n_bytes: float) -> float:
        """Return the seconds to move bytes through memory."""
        return n_bytes / self.memory

    def compute(self, n: float) -> float:
        """Return the seconds of n exponentials, or of work that takes as long."""
        return n / self.functions

    def transfer(self, message: Message) -> tuple[float, float]:
        """Return the seconds of a message's sums: of their latencies, and of their bytes."""
        hops = math.ceil(math.log2(message.n_ranks)) * message.n_calls
        called = self.call * message.n_calls
        if message.first // self.ranks_per_node == message.last // self.ranks_per_node:
            return called + hops * self.latency, message.sent_bytes / self.bandwidth
        # the ranks of a node send over similar boundaries at the same time
        sharing = min(self.ranks_per_node, message.n_ranks)
        return called + hops * self.far_latency, message.sent_bytes * sharing / self.far_bandwidth
