"""Messages, objective and accuracy with sums of half the bytes.

``mpirun -n 4 python -m benchmarks.compression DATA`` (``PYTHONPATH=tests``; DATA is a folder with the public files that
the recipes name) trains some recipes with ``run.compress = none`` and ``bfloat16``, and prints a row for each run.
"""

from __future__ import annotations

import sys

import distnewton
from distnewton.config import load_config
from distnewton.launch.startup import world_communicator

ITERATIONS = {"digits": 20, "pendigits": 12, "usps": 8}


def main(directory: str) -> None:
    """Print the table."""
    comm = world_communicator()
    if comm.rank == 0:
        print("| recipe, iterations | `compress` | MB an iteration | final objective | best test accuracy |")
        print("|---|---|---|---|---|")
    for name, n in ITERATIONS.items():
        for compress in ("none", "bfloat16"):
            settings = [f"data.directory={directory}", f"run.iterations={n}", f"run.compress={compress}"]
            history = distnewton.train(load_config(name, settings), comm).history
            megabytes = sum(record.training_bytes for record in history) / n / 1e6
            best = max(record.test["accuracy"] for record in history)
            cells = f"{name}, {n} | {compress} | {megabytes:.1f} | {history[-1].objective:.4f} | {100 * best:.2f} %"
            if comm.rank == 0:
                print(f"| {cells} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
