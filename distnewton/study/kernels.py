"""Rate of the Gauss-Newton product against a matrix product, the best of interleaved repeats, on one rank."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from distnewton.backend import Array, Backend
from distnewton.curvature.jacobian import linearize
from distnewton.curvature.operators import BlockGaussNewton
from distnewton.launch.threads import limit_blas_threads
from distnewton.network.losses import LOSSES
from distnewton.network.network import PartitionedNetwork
from distnewton.parallel.collectives import Communicator
from distnewton.parallel.grid import ProcessGrid
from distnewton.parallel.partition import Partition

Task = Callable[[], Any]


def interleaved_best(tasks: dict[str, Task], repeats: int) -> dict[str, float]:
    """Return the best seconds of each task; tasks take turns, so a slow spell of the machine affects all of them."""
    best = dict.fromkeys(tasks, float("inf"))
    for _ in range(repeats):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def serial_network(widths: tuple[int, ...], backend: Backend) -> PartitionedNetwork:
    """Make a network on one rank."""
    grid = ProcessGrid(Communicator(), Partition(widths, (1,) * len(widths)))
    return PartitionedNetwork(grid, "tanh", backend)


def damped_matrix(network: PartitionedNetwork, params: Array, X: Array) -> BlockGaussNewton:
    """Make G + I of some samples, with the cross-entropy, whose Hessians do not depend on targets."""
    activations = network.forward(params, X)
    hessian = LOSSES["cross_entropy"].hessian(activations.output, np.zeros(len(X), dtype=np.int64))
    return BlockGaussNewton(linearize(network, params, activations), hessian, 1.0)


def product_flops(widths: tuple[int, ...], n: int) -> float:
    """Count the operations of a Gauss-Newton product on factors Z and D: 4 n n_m (n_{m-1} + n_L) for each layer."""
    return float(sum(4 * n * b * (a + widths[-1]) for a, b in pairwise(widths)))


def benchmark_product(widths: tuple[int, ...], n: int, dtype: str, gemm: tuple[int, int, int], repeats: int) -> None:
    """Print the rate of the product relative to that of a matrix product."""
    network = serial_network(widths, Backend.of(dtype))
    rng = np.random.default_rng(0)
    X = network.backend.asarray(rng.uniform(-1, 1, (n, widths[0])))
    matrix = damped_matrix(network, network.initial_params(0, "he"), X)
    v = network.backend.asarray(rng.standard_normal(network.layout.n_params))
    A = network.backend.asarray(rng.standard_normal(gemm[:2]))
    B = network.backend.asarray(rng.standard_normal(gemm[1:]))
    C = network.backend.empty(gemm[0], gemm[2])
    best = interleaved_best(
        {"gemm": lambda: np.matmul(A, B, out=C), "product": lambda: matrix.matvec(v)}, repeats
    )
    rate = 2.0 * gemm[0] * gemm[1] * gemm[2] / best["gemm"]
    achieved = product_flops(widths, n) / best["product"]
    print(
        f"Gauss-Newton product {'-'.join(map(str, widths))}, {n} samples, {dtype}: {1e3 * best['product']:.1f} ms, "
        f"{achieved / 1e9:.0f} GFLOP/s = {100 * achieved / rate:.0f} % of the {'x'.join(map(str, gemm))} product's "
        f"{rate / 1e9:.0f}"
    )


def main() -> None:
    """Run all benchmarks with one BLAS thread."""
    with limit_blas_threads(1):
        benchmark_product((784, 512, 512, 10), 3000, "float32", (3000, 512, 512), 15)
        benchmark_product((16, 300, 300, 26), 750, "float32", (750, 300, 300), 40)
        benchmark_product((16, 300, 300, 26), 750, "float64", (750, 300, 300), 40)
