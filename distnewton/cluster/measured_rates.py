"""Rates of a cluster file for predictions."""

from __future__ import annotations

from operator import attrgetter

from distnewton.cluster.cluster_file import Cluster
from distnewton.planning.rates import Rates


def cluster_rates(cluster: Cluster | None, dtype: str) -> tuple[Rates, list[str]]:
    """Return the rates of a cluster's ranks.

    Parameters
    ----------
    cluster : Cluster or None
        The cluster; None for round figures of a core and of shared memory.
    dtype : str
        ``float32`` or ``float64``.

    Returns
    -------
    Rates
        Rates of a rank, with round figures for those that the file lacks.
    list of str
        Keys that the file lacks.
    """
    if cluster is None:
        return Rates(), []
    keys = {
        "products": f"compute.{dtype}_gflop_s", "sparse_products": "compute.sparse_gflop_s",
        "memory": "compute.memory_gb_s", "functions": "compute.exponentials_g_s",
        "latency": "network.node_latency_us", "bandwidth": "network.node_bandwidth_gb_s",
    }  # fmt: skip
    if cluster.has_network:
        keys |= {"far_latency": "network.latency_us", "far_bandwidth": "network.bandwidth_gb_s"}
    given = {name: attrgetter(key)(cluster) for name, key in keys.items()}
    rates = {
        name: value * (1e-6 if name.endswith("latency") else 1e9) for name, value in given.items() if value is not None
    }
    missing = [keys[name] for name, value in given.items() if value is None]
    per_node = cluster.launch.ranks_per_node if cluster.has_network else Rates().ranks_per_node
    return Rates(**rates, ranks_per_node=per_node), missing
