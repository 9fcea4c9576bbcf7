"""Residual problems beyond the recipes: products with channels, and systems that ranks share.

    PYTHONPATH=tests python -m benchmarks.residual_scale product [POINTS]
    PYTHONPATH=tests mpirun -n 4 python -m benchmarks.residual_scale system [RESIDUALS]

``product``: processor seconds of products with the Gauss-Newton matrix of 5-512-512-512-1, whose seven channels ride
along, beside those of the same matrix products by numpy alone. ``system``: an iteration of the exact direction on so
many residuals of 5-32-32-1, and the peak of each rank's memory beside N^2 / P numbers.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from mpi4py import MPI

import distnewton
from benchmarks.iteration_memory import resident
from distnewton.directions.composition import make_direction
from distnewton.method.linearizer import Linearizer
from distnewton.parallel.collectives import Communicator
from distnewton.physics import examples
from distnewton.physics.network import check_residuals
from distnewton.runs.session import Session


def prepared(layers, direction, n):
    """A session on Poisson's equation in five dimensions, and its configuration."""
    method = {"direction": direction, "subsample": 1.0, "C": float("inf"), "damping": 1.0}
    config = distnewton.make_config({"network": {"layers": layers}, "method": method, "run": {"iterations": 1}})
    problem = examples.poisson5d(n - n // 7)
    given = {"train": problem, "validation": None, "test": None}
    return Session(config, Communicator(MPI.COMM_WORLD), given=given), config


def product(n):
    """Print the rates of both."""
    session, config = prepared([5, 512, 512, 512, 1], "gauss_newton", n)
    setup = session.setup
    objective, network = setup.training.objective, setup.training.objective.network
    params = setup.placement.network.initial_params(0, "he")
    check_residuals(setup.data.residuals, network, params)
    evaluation = objective.evaluate(params, (0, objective.n_samples))
    direction = make_direction(setup.settle(config).method)
    _, problem = Linearizer(direction, 0, 0, 0).model(objective, evaluation, 1.0)
    v = np.random.default_rng(0).standard_normal(len(params))
    pairs = []
    for part, view in zip(problem.jacobian.parts.values(), network.layout.views(v).values(), strict=True):
        Z = part.inputs.reshape(-1, view.W.shape[0])
        pairs.append((Z, view.W, np.empty((len(Z), view.W.shape[1])), np.empty_like(view.W)))

    def alone():
        for Z, W, S, G in pairs:
            np.matmul(Z, W, out=S)
            np.matmul(Z.T, S, out=G)

    n_operations = sum(4 * Z.size * W.shape[1] for Z, W, _, _ in pairs)
    seconds = {alone: [], lambda: problem.matvec(v): []}
    for _ in range(5):
        for run, taken in seconds.items():
            start = time.process_time()
            run()
            taken.append(time.process_time() - start)
    plain, own = (n_operations / min(taken) / 1e9 for taken in seconds.values())
    print(f"{objective.n_samples} points: {own:.1f} GFLOP/s, products alone {plain:.1f}: {100 * own / plain:.0f} %")


def system(n):
    """Print each rank's peak; collective."""
    session, config = prepared([5, 32, 32, 1], "dual", n)
    comm = session.setup.comm
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    start = time.process_time()
    record = session.train(config).last
    peaks = comm.allgather(np.array([resident("VmHWM") - before, time.process_time() - start]))
    if comm.rank == 0:
        share = 8.0 * session.setup.data.n_train**2 / comm.size
        print(f"{session.setup.data.n_train} residuals, {comm.size} ranks, objective {record.objective:.6g}")
        for rank, (peak, seconds) in enumerate(peaks):
            megabytes = f"peak {peak / 2**20:.0f} MB, N^2 / P numbers {share / 2**20:.0f} MB"
            print(f"rank {rank}: {megabytes}; {seconds:.0f} processor s")


if __name__ == "__main__":
    {"product": product, "system": system}[sys.argv[1]](int(sys.argv[2]) if len(sys.argv) > 2 else 2000)
