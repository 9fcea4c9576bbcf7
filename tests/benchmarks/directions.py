"""Where the exact dual direction beats CG, and how many CG steps each preconditioner saves.

``mpirun -n 2 python -m benchmarks.directions RECIPE [SECTION.KEY=VALUE ...]`` trains the recipe's network
for a few iterations, stops there, and measures directions at that point. Two tables, printed by rank 0:

* *dual against CG*: for growing samples S, seconds of ``dual`` (K, Cholesky, back) and of ``gauss_newton`` with as
  many CG steps as it takes to reach 99 % of the exact decrease of the quadratic model;
* *preconditioners*: CG steps, and seconds with the preconditioner's own set-up, to relative residuals of 0.1 and 0.01.

Times are the best of a few repeats on the slowest rank; the Jacobian, which both need, is left out.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
from problems import named_direction

from distnewton.backend import Array
from distnewton.config import Config, load_config
from distnewton.curvature.linearization import Linearization
from distnewton.curvature.point import Point
from distnewton.curvature.sample import CurvatureSample
from distnewton.directions.direction import Direction, DirectionResult
from distnewton.launch.startup import world_communicator
from distnewton.method.objective import subsample_size
from distnewton.parallel.collectives import Communicator
from distnewton.parallel.termination import NEVER
from distnewton.runs.session import Session

QUALITY = 0.99
SAMPLES = (16, 32, 64, 128, 256, 512)
MAX_ROWS = 8000
MAX_STEPS = 1000
REPEATS = 3


def point_after(session: Session, config: Config, n_iterations: int) -> Array:
    """Variables of this rank after some iterations with the full Gauss-Newton direction."""
    method = config.method.model_validate({"direction": "gauss_newton", "C": config.method.C})
    run = config.run.model_copy(update={"iterations": n_iterations})
    return session.train(config.model_copy(update={"method": method, "run": run})).model.params


def linearized(session: Session, params: Array, n_samples: int, damping: float, *, rooted: bool) -> Linearization:
    """The model at a point with the curvature of the first samples."""
    objective = session.setup.training.objective
    evaluation = objective.evaluate(params, (0, n_samples))
    activations, targets = evaluation.subsample[1], objective.targets[:n_samples]
    sample = CurvatureSample(
        Point(objective.network, params, activations, objective.loss, targets), np.random.default_rng(0)
    )
    sample.linearize(rooted=rooted)
    gradient = objective.gradient(evaluation)
    return Linearization(gradient, sample, objective.regularization, damping, session.setup.placement.grid)


def decrease(problem: Linearization, d: Array) -> float:
    """-q(d) of the damped quadratic model (collective)."""
    dot = problem.backend.dot
    (Jd,), hessian = problem.sample.products([d])
    slope, squared = problem.grid.sum_of_variables(dot(problem.gradient, d), dot(d, d))
    curvature = float(np.vdot(Jd, hessian.matvec(Jd))) / problem.n_samples + problem.shift * squared
    return -slope - 0.5 * curvature


def best_seconds(comm: Communicator, task: Callable[[], object]) -> float:
    """Best of a few repeats, each as long as its slowest rank."""
    times = []
    for _ in range(REPEATS):
        comm.barrier()
        start = time.perf_counter()
        task()
        times.append(float(comm.allgather(np.array([time.perf_counter() - start])).max()))
    return min(times)


def direction(name: str, **options: object) -> Direction:
    """A direction with options other than the defaults."""
    return named_direction(name, **options)  # type: ignore[arg-type]


def steps_to_quality(problem: Linearization, exact: float) -> int:
    """CG steps of ``gauss_newton`` until the model has decreased by QUALITY of the exact decrease."""

    def reached(n: int) -> bool:
        found = direction("gauss_newton", cg_tolerance=0.0, cg_max=n, cg_min=n).solve(problem, NEVER)
        return decrease(problem, found.direction) >= QUALITY * exact

    low, high = 0, 1
    while not reached(high):
        low, high = high, 2 * high
        if high > MAX_STEPS:
            return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def compare_dual(session: Session, params: Array, damping: float) -> list[str]:
    """Lines of the first table."""
    comm, n_out = session.setup.comm, session.setup.placement.network.n_out
    lines = [f"dual against CG, lambda = {damping:g}, {n_out} outputs, {session.setup.comm.size} rank(s)"]
    lines.append(f"{'|S|':>6} {'rows':>6} {'dual ms':>9} {'CG steps':>9} {'CG ms':>9} {'CG / dual':>10}")
    for n in SAMPLES:
        if n > session.setup.training.objective.n_samples or n * n_out > MAX_ROWS:
            break
        rooted = linearized(session, params, n, damping, rooted=True)
        plain = linearized(session, params, n, damping, rooted=False)
        dual = direction("dual")
        exact = decrease(plain, dual.solve(rooted, NEVER).direction)
        steps = steps_to_quality(plain, exact)
        cg = direction("gauss_newton", cg_tolerance=0.0, cg_max=steps, cg_min=steps)
        slow = best_seconds(comm, lambda cg=cg, plain=plain: cg.solve(plain, NEVER))  # type: ignore[misc]
        fast = best_seconds(comm, lambda rooted=rooted: direction("dual").solve(rooted, NEVER))  # type: ignore[misc]
        lines.append(f"{n:>6} {n * n_out:>6} {1e3 * fast:>9.1f} {steps:>9} {1e3 * slow:>9.1f} {slow / fast:>10.2f}")
    return lines


def compare_preconditioners(session: Session, params: Array, n_samples: int, damping: float) -> list[str]:
    """Lines of the second table."""
    comm = session.setup.comm
    problem = linearized(session, params, n_samples, damping, rooted=False)
    lines = [f"CG steps and ms, lambda = {damping:g}, |S| = {n_samples}, {comm.size} rank(s)"]
    lines.append(f"{'direction':>16} {'preconditioner':>18} {'to 0.1':>16} {'to 0.01':>16}")
    for name in ("gauss_newton", "block_diagonal"):
        for preconditioner in ("none", "diagonal", "kfac", "mini_block_fisher"):
            cells = []
            for tolerance in (0.1, 0.01):
                found: list[DirectionResult] = []

                def task(
                    name: str = name, preconditioner: str = preconditioner, tolerance: float = tolerance,
                    found: list[DirectionResult] = found,
                ) -> None:
                    made = direction(
                        name, cg_tolerance=tolerance, cg_max=MAX_STEPS, cg_min=1, preconditioner=preconditioner
                    )
                    found.append(made.solve(problem, NEVER))

                seconds = best_seconds(comm, task)
                steps = comm.allgather(np.array([float(found[-1].inner_iterations)])).mean()
                cells.append(f"{steps:.0f} ({1e3 * seconds:.0f} ms)")
            lines.append(f"{name:>16} {preconditioner:>18} {cells[0]:>16} {cells[1]:>16}")
    return lines


def main() -> None:
    """Run both."""
    comm = world_communicator()
    config = load_config(sys.argv[1], sys.argv[2:])
    session = Session(config, comm)
    n_samples = session.setup.training.objective.n_samples
    for n_iterations in (5, 40):
        params = point_after(session, config, n_iterations)
        n = subsample_size(n_samples, config.method.subsample, config.method.subsample_min)
        lines = [f"after {n_iterations} iterations"]
        for damping in (1.0, 0.1, 0.01, 0.001):
            lines += ["", *compare_dual(session, params, damping)]
            lines += ["", *compare_preconditioners(session, params, n, damping)]
        if comm.rank == 0:
            print("\n".join(lines), "", sep="\n", flush=True)


if __name__ == "__main__":
    main()
