"""Rates of a cluster file for predictions."""

from __future__ import annotations

from distnewton.cluster.cluster_file import Cluster
from distnewton.planning.rates import Rates


def cluster_rates(cluster: Cluster | None, dtype: str) -> tuple[Rates, list[str]]:
    """How fast a cluster's ranks are.

    Parameters
    ----------
    cluster : Cluster or None
        Its file; None for round figures of a core in one memory.
    dtype : str
        ``float32`` or ``float64``.

    Returns
    -------
    Rates
        With round figures for what the file leaves out.
    list of str
        Keys that it leaves out.
    """
    if cluster is None:
        return Rates(), []
    network, compute = cluster.network, cluster.compute
    # a file without rates of a network is of one machine
    several = cluster.launch.nodes > 1 or len(cluster.launch.hosts) > 1 or network.bandwidth_gb_s is not None
    given = {
        "products": (f"compute.{dtype}_gflop_s", getattr(compute, f"{dtype}_gflop_s"), 1e9),
        "sparse_products": ("compute.sparse_gflop_s", compute.sparse_gflop_s, 1e9),
        "memory": ("compute.memory_gb_s", compute.memory_gb_s, 1e9),
        "functions": ("compute.exponentials_g_s", compute.exponentials_g_s, 1e9),
        "latency": ("network.node_latency_us", network.node_latency_us, 1e-6),
        "bandwidth": ("network.node_bandwidth_gb_s", network.node_bandwidth_gb_s, 1e9),
    }
    if several:
        given["far_latency"] = ("network.latency_us", network.latency_us, 1e-6)
        given["far_bandwidth"] = ("network.bandwidth_gb_s", network.bandwidth_gb_s, 1e9)
    found = {name: value * unit for name, (_, value, unit) in given.items() if value is not None}
    missing = [key for key, value, _ in given.values() if value is None]
    per_node = cluster.launch.ranks_per_node if several else Rates().ranks_per_node
    return Rates(**found, ranks_per_node=per_node), missing
