"""distnewton beside PyTorch's data-parallel training, on four hosts behind slow networks.

``python -m benchmarks.networks DATA [PROBLEM ...] [--passes 8] [--out docs/benchmarks/networks.json]``
(``PYTHONPATH=tests``; as root, with iproute2 and ``pip install torch``; DATA is a folder with the public files of
:mod:`~benchmarks.data_sets`). The hosts are network namespaces of this machine, whose interfaces ``tc`` limits to
1 Gbit/s. Each method trains once; its interfaces count what it sends. All hosts share this machine's cores, and
kernels may lack the delay of ``tc``: so the table has the processor's seconds of the slowest host's training, messages
left out, plus the time that a network of each kind needs for the bytes and messages that were counted. Elapsed seconds
are recorded, too. Problems that the file has already are replaced.

``python -m benchmarks.networks --render docs/benchmarks`` writes the page from the file.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from network_hosts import NetworkHosts, why_not
from scipy.sparse import csr_array

from benchmarks.data_sets import sparse_sets
from benchmarks.networks_page import render
from benchmarks.peers import machine

N_HOSTS, LIMIT_SECONDS = 4, 1500
RATE, BURST = "1gbit", "512kb"
RATES = (1e-3, 3e-3, 1e-2)
HIDDEN = {"news20": 64, "dense": 1000}
TUNED: dict[str, dict[str, dict[str, Any]]] = {
    "news20": {
        "adam, rate 0.01": {"direction": "adam", "learning_rate": 1e-2, "batch": 512, "C": math.inf},
        "adam, rate 0.015": {"direction": "adam", "learning_rate": 1.5e-2, "batch": 512, "C": math.inf},
        "adam, rate 0.02": {"direction": "adam", "learning_rate": 2e-2, "batch": 1024, "C": math.inf},
    },
    "dense": {
        "block_diagonal": {"direction": "block_diagonal"},
        "adam, rate 0.001": {"direction": "adam", "learning_rate": 1e-3, "batch": 256, "C": math.inf},
        "adam, rate 0.003": {"direction": "adam", "learning_rate": 3e-3, "batch": 256, "C": math.inf},
    },
}  # fmt: skip
"""Settings that take the place of those by which DDP is tuned, its rates."""
BATCH = {"news20": 128, "dense": 64}
"""Samples of a host in a step of PyTorch."""


def dense_problem() -> tuple[Any, Any, Any, Any]:
    """20,000 features that mix twenty hidden ones, with noise; ten classes by a random network of the hidden ones."""
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((4000, 20))
    X = hidden @ rng.standard_normal((20, 20_000)) / np.sqrt(20) + 0.5 * rng.standard_normal((4000, 20_000))
    y = (np.tanh(hidden @ rng.standard_normal((20, 40)) / 3) @ rng.standard_normal((40, 10))).argmax(axis=1)
    X = (X / np.sqrt(20_000)).astype(np.float32)
    return X[:1000], y[:1000], X[1000:], y[1000:]


def problems(data: Path) -> dict[str, Callable[[], tuple[Any, Any, Any, Any]]]:
    """Features and labels of training and test."""
    return {"news20": sparse_sets(data)["news20"], "dense": dense_problem}


def methods(name: str, passes: int) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Names of methods, their kinds, and options."""
    common = {"hidden": HIDDEN[name], "passes": passes}
    for title, method in TUNED[name].items():
        yield f"distnewton {title}", "newton", {**common, "method": method}
    yield "distnewton auto", "newton", {**common, "method": {}}
    for sparse in (True, False) if name == "news20" else (False,):
        for rate in RATES:
            title = f"DDP, {'sparse gradients' if sparse else 'Adam'}, rate {rate:g}"
            yield title, "ddp", {**common, "sparse_gradients": sparse, "rate": rate, "batch": BATCH[name]}


def save(path: Path, sets: tuple[Any, Any, Any, Any]) -> None:
    """Write a problem as the workers read it."""
    X, y, T, t = sets
    arrays = {"y": np.unique(y, return_inverse=True)[1], "t": np.unique(t, return_inverse=True)[1]}
    for which, matrix in (("X", X), ("T", T)):
        if isinstance(matrix, np.ndarray):
            arrays[which] = matrix.astype(np.float32)
            continue
        rows = csr_array(matrix)
        arrays |= {f"{which}_data": rows.data.astype(np.float32), f"{which}_indices": rows.indices.astype(np.int32)}
        arrays |= {f"{which}_indptr": rows.indptr.astype(np.int64), f"{which}_shape": np.array(rows.shape)}
    np.savez(path, **arrays)


def run(hosts: NetworkHosts, folder: Path, kind: str, problem: Path, options: dict[str, Any]) -> list[dict[str, float]]:
    """Train on all hosts; returns the points of the run: the most that any host has spent, and the accuracy."""
    out = folder / f"points-{time.monotonic_ns()}"
    worker = [sys.executable, "-m", "benchmarks.networks_worker", kind, str(problem), str(out), json.dumps(options)]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    env = os.environ | threads | {"GLOO_SOCKET_IFNAME": "e0", "WORLD_SIZE": str(N_HOSTS)}
    with (folder / "output").open("w") as output:
        if kind == "newton":
            # MPI may not find out that the hosts share a memory
            variables = {"UCX_TLS": "tcp,self", "UCX_NET_DEVICES": "e0", "MPIR_CVAR_ENABLE_HEAVY_YIELD": "1"}
            start = ["mpirun", "-hosts", ",".join(f"{a}:1" for a in hosts.addresses), "-launcher", "ssh",
                     "-launcher-exec", str(hosts.agent), "-iface", "e0", "-n", str(N_HOSTS)]  # fmt: skip
            commands = [(hosts.command(0, [*start, *worker]), variables)]
        else:
            commands = [(hosts.command(k, worker), {"RANK": str(k)}) for k in range(N_HOSTS)]
        started = [
            subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=env | more)
            for command, more in commands
        ]
        codes = [process.wait(timeout=LIMIT_SECONDS) for process in started]
    if any(codes):
        raise RuntimeError(f"{kind} {options} failed: {(folder / 'output').read_text()[-3000:]}")
    parts = [json.loads(Path(f"{out}.{k}.json").read_text()) for k in range(N_HOSTS)]
    return [{key: max(part[key] for part in of_hosts) for key in of_hosts[0]} for of_hosts in zip(*parts, strict=True)]


def limit(hosts: NetworkHosts) -> None:
    """Limit what each host's interface sends."""
    for k in range(hosts.n):
        shaped = ["tc", "qdisc", "add", "dev", "e0", "root", "tbf", "rate", RATE, "burst", BURST, "latency", "100ms"]
        subprocess.run(["ip", "netns", "exec", f"{hosts.prefix}{k}", *shaped], check=True, timeout=20)


def measure(name: str, sets: tuple[Any, Any, Any, Any], passes: int, only: str) -> Iterator[tuple[str, Any]]:
    """Points of each method on a problem, as they come."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        save(folder / "problem.npz", sets)
        with NetworkHosts(N_HOSTS, folder, prefix="bench") as hosts:
            limit(hosts)
            for title, kind, options in methods(name, passes):
                if only in title:
                    points = run(hosts, folder, kind, folder / "problem.npz", options)
                    yield title, {"options": options, "points": points}


def main() -> None:
    """Measure, or write page and picture."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("problems", nargs="*")
    parser.add_argument("--passes", type=int, default=8)
    parser.add_argument("--only", default="", help="part of the names of the methods to measure")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/networks.json"))
    parser.add_argument("--render", type=Path)
    arguments = parser.parse_args()
    if arguments.render:
        render(arguments.render)
        return
    if reason := why_not():
        raise SystemExit(reason)
    known = problems(arguments.data)
    for name in arguments.problems or known:
        sets = known[name]()
        for title, found in measure(name, sets, arguments.passes, arguments.only):
            table = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"problems": {}}
            entry = table["problems"].setdefault(name, {"methods": {}})
            entry |= {"samples": len(sets[1]), "features": sets[0].shape[1], "hidden": HIDDEN[name],
                      "machine": machine()}  # fmt: skip
            entry["methods"][title] = found
            arguments.out.write_text(json.dumps(table, indent=1) + "\n")
            accuracies = [round(point["accuracy"], 4) for point in found["points"]]
            print(name, title, accuracies, found["points"][-1], flush=True)


if __name__ == "__main__":
    main()
