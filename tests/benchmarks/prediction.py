"""Seconds of an iteration against those that a plan predicts, phase by phase.

``mpirun -n N python -m benchmarks.prediction RECIPE [SECTION.KEY=VALUE ...]`` measures the rates of this
machine as the doctor does, trains 7 iterations with one BLAS thread, and prints the median of the last ones beside the
prediction for the same CG steps and trials. For the directions that plans know; data with a test set or without.
"""

from __future__ import annotations

import sys

import numpy as np
from mpi4py import MPI
from threadpoolctl import threadpool_limits

from distnewton.cluster.cluster_file import Cluster
from distnewton.cluster.doctor.machine_bench import measure
from distnewton.cluster.measured_rates import cluster_rates
from distnewton.config import load_config
from distnewton.parallel.collectives import Communicator
from distnewton.planning.plan import make_plan
from distnewton.runs.data_size import DataSize, nonzeros_of
from distnewton.runs.planned import planned_problem
from distnewton.runs.session import Session

_SECONDS = 0.5
_LEFT_OUT = 3
"""Iterations at the start, in which memory is taken for the first time."""


def main() -> None:
    """Measure on all ranks; rank 0 prints."""
    config = load_config(sys.argv[1], ["run.threads=1", "run.deterministic=true", "run.iterations=7", *sys.argv[2:]])
    comm = Communicator(MPI.COMM_WORLD)
    with threadpool_limits(1):
        cluster = Cluster.model_validate({"name": "here", **measure(comm, _SECONDS)})
    session = Session(config, comm)
    records = session.train(config).history[_LEFT_OUT:]
    found = [record.direction for record in records if record.direction is not None]
    n_steps = float(np.mean([np.mean(direction.inner_iterations) for direction in found]))
    n_trials = float(np.mean([record.line_search_trials for record in records]))
    data, placement = session.setup.data, session.setup.placement
    shape, nonzeros = placement.network.shape, nonzeros_of(data.train, dense=placement.architecture.dense)
    size = DataSize(data.n_train, data.train.n_features, data.task.n_out, nonzeros=nonzeros)
    problem = planned_problem(config, shape, size, n_steps=n_steps, n_trials=n_trials)
    plan = make_plan(problem, placement.grid.partition.splits, cluster_rates(cluster, config.run.array_dtype)[0])
    if comm.rank:
        return
    print(f"{shape}, splits {plan.title}, {n_steps:.1f} CG steps, {n_trials:.1f} trials: milliseconds")
    print("phase        measured  predicted  ratio")
    measured = {phase: [record.seconds[phase] for record in records] for phase in plan.phases if phase != "evaluation"}
    rows = {phase: (float(np.median(times)), plan.phases[phase].seconds) for phase, times in measured.items()}
    iteration = float(np.median(np.diff([record.training_seconds for record in records])))
    rows["iteration"] = iteration, sum(predicted for _, predicted in rows.values())
    for name, (seconds, predicted) in rows.items():
        if seconds > 0:
            print(f"{name:12} {1e3 * seconds:8.2f} {1e3 * predicted:10.2f} {predicted / seconds:6.2f}")


if __name__ == "__main__":
    main()
