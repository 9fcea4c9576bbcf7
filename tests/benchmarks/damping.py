"""How fast Newton iterations on all samples gain with one damping or another.

``python -m benchmarks.damping DATA [--sets NAME,...] [--seeds N] METHOD ...`` (``PYTHONPATH=tests``; DATA is a folder
with the public files that the recipes name). A METHOD is a list of settings of ``[method]``, such as
``damping_threshold=0.75,damping=0.1``, or ``default``; the direction is ``block_diagonal`` unless it names another. A
line for each set and method: the objective after 10, 30 and 100 iterations, the best test metric of the 100, and the
processor's seconds of all; medians over the seeds. Under ``mpirun`` each rank has its blocks, with all ranks running to
their own rule, so that runs repeat.
"""

from __future__ import annotations

import argparse
import bz2
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import datasets
from sklearn.model_selection import train_test_split

import distnewton
from benchmarks.data_sets import REGRESSION, sets
from distnewton.config import apply_settings
from distnewton.launch.startup import world_communicator

SETS = ("digits", "letter5k", "rcv1", "smooth8", "abalone", "diabetes", "protein5k")
LAYERS = {"letter5k": [16, 100, 100, 26], "digits": [64, 50, 50, 10]}
AFTER = (10, 30, 100)


def _rcv1(data: Path) -> tuple[Any, Any, Any, Any]:
    text = bz2.decompress((data / "rcv1_small/rcv1_small.libsvm.bz2").read_bytes())
    X, y = datasets.load_svmlight_file(io.BytesIO(text))
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.25, random_state=0)
    return X_train, y_train, X_test, y_test


def read(data: Path, name: str) -> tuple[Any, Any, Any, Any]:
    """Features and labels of training and test; ``NAMEnk`` are the first n thousand training samples of a set."""
    known: dict[str, Callable[[], tuple[Any, Any, Any, Any]]] = {**sets(data), "rcv1": lambda: _rcv1(data)}
    if name in known:
        return known[name]()
    X, y, *test = known[name[:-2]]()
    n = 1000 * int(name[-2])
    return X[:n], y[:n], test[0], test[1]


def train(name: str, data: tuple[Any, Any, Any, Any], method: dict[str, str], seed: int, comm: Any) -> list[float]:
    """Objectives after so many iterations, the best test metric, and seconds."""
    X, y, X_test, y_test = data
    regression = name.rstrip("0123456789k") in REGRESSION or name in REGRESSION
    n_classes = len(np.unique(y))
    loss, metric = "logistic" if n_classes == 2 else "cross_entropy", "accuracy"
    if regression:
        loss, metric = "squared", "rmse"
    n_out = 1 if n_classes == 2 or regression else n_classes
    tree: dict[str, Any] = {
        "data": {"scale": "none" if name == "rcv1" else "standard"},
        "network": {"layers": LAYERS.get(name, [X.shape[1], 100, n_out]), "activation": "tanh", "loss": loss},
        "method": {"direction": "block_diagonal"},
        "run": {"iterations": AFTER[-1], "threads": 1, "seed": seed, "deterministic": True, "memory_mb": 500},
    }
    settings = [f"method.{key}={value}" for key, value in method.items()]
    config = distnewton.make_config(apply_settings(tree, settings))
    start = time.process_time()
    records = distnewton.train(config, comm, train_data=(X, y), test_data=(X_test, y_test)).history
    seconds = time.process_time() - start
    objectives = [records[min(k, len(records) - 1)].objective for k in AFTER]
    tests = [record.test[metric] for record in records]
    return [*objectives, min(tests) if regression else max(tests), seconds]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("methods", nargs="+")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    comm = world_communicator()
    if comm.rank == 0:
        print("| set | method | f after 10 | 30 | 100 | best test metric | seconds |")
        print("|---|---|---|---|---|---|---|", flush=True)
    for name in arguments.sets.split(","):
        data = read(arguments.data, name)
        for text in arguments.methods:
            method = dict(part.split("=") for part in text.split(",")) if text != "default" else {}
            runs = [train(name, data, method, seed, comm) for seed in range(arguments.seeds)]
            cells = " | ".join(f"{value:.4g}" for value in np.median(runs, axis=0))
            if comm.rank == 0:
                print(f"| {name} | {text} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
