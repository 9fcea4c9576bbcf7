"""Peak memory of Newton iterations against its prediction, on each rank.

``mpirun -n N python -m benchmarks.iteration_memory RECIPE [SECTION.KEY=VALUE ...]`` reads the data, resets
the peak that the system keeps of each process (Linux), trains, and prints the peak above what a process took before
there was any data, and the predicted parts. For full-batch directions with a stored Jacobian.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from mpi4py import MPI

from distnewton.config import load_config
from distnewton.curvature.sketch import auto_sketch
from distnewton.method.objective import subsample_size
from distnewton.parallel.collectives import Communicator
from distnewton.planning.memory import iteration_memory
from distnewton.planning.messages import widest_kept
from distnewton.planning.problem import PlannedMethod, Problem, Share
from distnewton.runs.data_size import nonzeros_of
from distnewton.runs.session import Session


def resident(name: str) -> float:
    """A figure of /proc/self/status, in bytes: ``VmRSS`` now, ``VmHWM`` at its peak."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024.0 * next(float(line.split()[1]) for line in lines if line.startswith(name))


def main() -> None:
    """Measure on all ranks; rank 0 prints."""
    config = load_config(sys.argv[1], sys.argv[2:])
    before = resident("VmRSS")
    session = Session(config, Communicator(MPI.COMM_WORLD))
    objective, method, network = session.setup.training.objective, config.method, session.setup.placement.network
    n = subsample_size(objective.n_samples, method.subsample, method.subsample_min)
    itemsize = network.backend.dtype.itemsize
    rows = auto_sketch(network.shape, network.grid.partition, n, itemsize, objective.memory_bytes)
    rows = (rows if method.sketch == "auto" else method.sketch) or network.n_out
    partition, data = network.grid.partition, session.setup.data
    n_test = sum(description.n_samples for description in data.descriptions.values())
    nonzeros = nonzeros_of(data.train, dense=session.setup.placement.architecture.dense)
    sizes = objective.n_samples, n, min(rows, network.n_out), itemsize, objective.memory_bytes
    recomputed = method.inner_direction == "gauss_newton" and method.jacobian == "recomputed"
    problem = Problem(network.shape, *sizes, n_test, PlannedMethod(recomputed=recomputed), nonzeros)
    shares = [Share(network.shape, partition, rank) for rank in range(partition.n_ranks)]
    parts = iteration_memory(problem, shares[session.setup.comm.rank], widest_kept(problem, shares))
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    session.train(config)
    figures = np.array([resident("VmHWM") - before, sum(parts.values()), *parts.values()]) / 2**20
    every = session.setup.comm.allgather(figures)
    if session.setup.comm.rank == 0:
        print(f"{network.shape}; {objective.n_samples:,} samples, {n} of curvature, {rows} rows each")
        print("rank  measured  predicted  ratio  " + "  ".join(parts))
        for rank, (measured, predicted, *sizes) in enumerate(every):
            cells = "  ".join(f"{size:{len(name)}.0f}" for name, size in zip(parts, sizes, strict=True))
            print(f"{rank:4}  {measured:6.0f} MB  {predicted:6.0f} MB  {measured / predicted:5.2f}  {cells}")


if __name__ == "__main__":
    main()
