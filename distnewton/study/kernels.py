"""Rate of the Gauss-Newton product against a matrix product, and overhead of the package against plain numpy.

``python -m distnewton.study.kernels`` prints ratios from one run, each the best of interleaved repeats, with
one thread and on one rank.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from distnewton.backend import Array, Backend
from distnewton.curvature.jacobian import linearize
from distnewton.curvature.operators import BlockGaussNewton
from distnewton.directions.block_diagonal import BlockDiagonal, BlockDiagonalOptions
from distnewton.method.newton import NewtonStep, StepOptions
from distnewton.method.objective import Objective
from distnewton.method.stages import FullBatch
from distnewton.method.trainer import Trainer
from distnewton.network.losses import LOSSES
from distnewton.network.network import PartitionedNetwork
from distnewton.parallel.collectives import Communicator
from distnewton.parallel.grid import ProcessGrid
from distnewton.parallel.partition import Partition
from distnewton.solvers.damping import LevenbergMarquardt
from distnewton.study.plain_numpy import PlainNewton

Task = Callable[[], Any]


def interleaved_best(tasks: dict[str, Task], repeats: int) -> dict[str, float]:
    """Best seconds of each task, the tasks taking turns so that a slow spell of the machine meets all of them."""
    best = dict.fromkeys(tasks, float("inf"))
    for _ in range(repeats):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def serial_network(widths: tuple[int, ...], backend: Backend) -> PartitionedNetwork:
    """A network on one rank."""
    grid = ProcessGrid(Communicator(), Partition(widths, (1,) * len(widths)))
    return PartitionedNetwork(grid, "tanh", backend)


def damped_matrix(network: PartitionedNetwork, params: Array, X: Array) -> BlockGaussNewton:
    """G + I of some samples, with the cross-entropy, whose Hessians know no targets."""
    activations = network.forward(params, X)
    hessian = LOSSES["cross_entropy"].hessian(activations.output, np.zeros(len(X), dtype=np.int64))
    return BlockGaussNewton(linearize(network, params, activations), hessian, 1.0)


def block_diagonal_trainer(
    network: PartitionedNetwork, X: Array, y: Array, params: Array, options: BlockDiagonalOptions,
    subsample: float, n: int,
) -> Trainer:  # fmt: skip
    """So many iterations on all samples, with the curvature of some."""
    objective = Objective(network, LOSSES["cross_entropy"], X, y, 1 / len(y), 4e9)
    newton = NewtonStep(BlockDiagonal(options), LevenbergMarquardt(1.0), StepOptions())
    stage = FullBatch(objective, newton, subsample=subsample, subsample_min=1, seed=0)
    return Trainer(objective, params, [(stage, n)], lambda params, evaluation: {})


def product_flops(widths: tuple[int, ...], n: int) -> float:
    """Operations of a Gauss-Newton product on factors Z and D: 4 n n_m (n_{m-1} + n_L) a layer."""
    return float(sum(4 * n * b * (a + widths[-1]) for a, b in pairwise(widths)))


def benchmark_product(widths: tuple[int, ...], n: int, dtype: str, gemm: tuple[int, int, int], repeats: int) -> None:
    """Print the rate of the product against that of a matrix product."""
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


def benchmark_overhead(widths: tuple[int, ...], n: int, dtype: str, n_iterations: int, cg_steps: int) -> None:
    """Print seconds of whole iterations in the package and in plain numpy, and whether the objectives agree."""
    network = serial_network(widths, Backend.of(dtype))
    rng = np.random.default_rng(0)
    X = network.backend.asarray(rng.uniform(-1, 1, (n, widths[0])))
    y = (X @ rng.standard_normal((widths[0], widths[-1]))).argmax(axis=1)
    params = network.initial_params(0, "he")
    options = BlockDiagonalOptions(cg_tolerance=0.0, cg_max=cg_steps, cg_min=1)
    trainer = block_diagonal_trainer(network, X, y, params.copy(), options, 0.05, n_iterations + 1)
    plain = PlainNewton(X, y, widths, params.copy(), int(np.ceil(0.05 * n)), cg_steps)
    records = trainer.iterations(n_iterations + 1)
    next(records)
    next(records)
    plain.step()
    ours, theirs, value = [], [], 0.0
    for _ in range(n_iterations):
        start = time.perf_counter()
        value = next(records).objective
        middle = time.perf_counter()
        plain.step()
        ours.append(middle - start)
        theirs.append(time.perf_counter() - middle)
    ratio = float(np.median(np.array(ours) / np.array(theirs)))
    print(
        f"iteration {'-'.join(map(str, widths))}, {n} samples, {dtype}, {cg_steps} CG steps: package "
        f"{1e3 * np.median(ours):.1f} ms, plain numpy {1e3 * np.median(theirs):.1f} ms, median ratio {ratio:.3f}; "
        f"objectives after it {value:.8g} and {plain.objectives[-1]:.8g}"
    )


def main() -> None:
    """Run all, with one BLAS thread."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        benchmark_product((784, 512, 512, 10), 3000, "float32", (3000, 512, 512), 15)
        benchmark_product((16, 300, 300, 26), 750, "float32", (750, 300, 300), 40)
        benchmark_product((16, 300, 300, 26), 750, "float64", (750, 300, 300), 40)
        benchmark_overhead((64, 128, 128, 10), 1438, "float32", 40, 8)
        benchmark_overhead((16, 300, 300, 26), 15000, "float32", 12, 8)
        benchmark_overhead((784, 300, 300, 10), 10000, "float32", 8, 8)


if __name__ == "__main__":
    main()
