"""What numbering and watching of collectives costs: ``mpirun -n 4 python -m benchmarks.watchdog``."""

from __future__ import annotations

import time

import numpy as np

from distnewton.config import make_config
from distnewton.data.in_memory import ArraySource
from distnewton.guards.watchdog import Watchdog, watchdog
from distnewton.launch.startup import world_communicator
from distnewton.runs.session import Session

_N_CALLS, _N_TRIES, _N_ITERATIONS = 20_000, 7, 10


def announcing_seconds() -> float:
    """Seconds that one collective is announced in, the best of several tries."""
    dog, best = Watchdog(), np.inf
    for _ in range(_N_TRIES):
        start = time.perf_counter()
        for _ in range(_N_CALLS):
            with dog.inside("sum", 100, "world", "rank 0-3", 1):
                pass
        best = min(best, (time.perf_counter() - start) / _N_CALLS)
    return best


def main() -> None:
    """Train a network as wide as that of letter on random data, and compare."""
    comm = world_communicator()
    rng = np.random.default_rng(0)
    y = rng.integers(26, size=4000)
    X = rng.standard_normal((26, 16))[y] + rng.standard_normal((4000, 16))
    config = make_config({"network": {"layers": ["auto", 300, 300, "auto"]}, "run": {"iterations": _N_ITERATIONS}})
    session = Session(config, comm, given={"train": ArraySource(X, y)})
    before = watchdog.number
    result = session.train(config)
    a_call, n_calls = announcing_seconds(), (watchdog.number - before) / _N_ITERATIONS
    iteration = result.last.elapsed_seconds / _N_ITERATIONS
    if comm.rank == 0:
        print(
            f"{a_call * 1e6:.2f} us a collective, {n_calls:.0f} collectives and {iteration * 1e3:.1f} ms an iteration: "
            f"{100 * a_call * n_calls / iteration:.4f} % of it"
        )
    session.free()


if __name__ == "__main__":
    main()
