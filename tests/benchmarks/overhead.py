"""Overhead of the package against plain numpy: seconds of whole iterations, with one thread and on one rank.

``PYTHONPATH=tests python -m benchmarks.overhead``
"""

import time

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.plain_numpy import PlainNewton
from distnewton.backend import Array, Backend
from distnewton.directions.block_diagonal import BlockDiagonal, BlockDiagonalOptions
from distnewton.method.newton import NewtonStep, StepOptions
from distnewton.method.objective import Objective
from distnewton.method.stages import FullBatch
from distnewton.method.trainer import Trainer
from distnewton.network.losses import LOSSES
from distnewton.network.network import PartitionedNetwork
from distnewton.solvers.damping import LevenbergMarquardt
from distnewton.study.kernels import serial_network


def block_diagonal_trainer(
    network: PartitionedNetwork, X: Array, y: Array, params: Array, options: BlockDiagonalOptions,
    subsample: float, n: int,
) -> Trainer:  # fmt: skip
    """So many iterations on all samples, with the curvature of some."""
    objective = Objective(network, LOSSES["cross_entropy"], X, y, 1 / len(y), 4e9)
    newton = NewtonStep(BlockDiagonal(options), LevenbergMarquardt(1.0), StepOptions())
    stage = FullBatch(objective, newton, subsample=subsample, subsample_min=1, seed=0)
    return Trainer(objective, params, [(stage, n)], lambda params, evaluation: {})


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


if __name__ == "__main__":
    with threadpool_limits(1):
        benchmark_overhead((64, 128, 128, 10), 1438, "float32", 40, 8)
        benchmark_overhead((16, 300, 300, 26), 15000, "float32", 12, 8)
        benchmark_overhead((784, 300, 300, 10), 10000, "float32", 8, 8)
