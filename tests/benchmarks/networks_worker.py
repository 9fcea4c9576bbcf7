"""One host's part of :mod:`~benchmarks.networks`: it trains, and writes what each pass cost.

``python -m benchmarks.networks_worker newton|ddp PROBLEM OUT OPTIONS`` on each of four hosts, as
:mod:`~benchmarks.networks` starts it. OPTIONS is JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

ADDRESS, PORT, INTERFACE = "10.77.0.1", "29517", "e0"
HALF_COLLECTIVES = 3
"""Gathers in gloo's sum of sparse gradients: how many they are, where, and which."""


class Clock:
    """What this host has spent on training since its start: evaluation and waiting are left out.

    Attributes
    ----------
    points : list of dict
        After each pass: seconds of the processor, elapsed seconds, bytes that the interface has sent, and messages.
    """

    def __init__(self) -> None:
        self.points: list[dict[str, float]] = []
        self.n_messages = 0
        self._spent = np.zeros(4)
        self._since: np.ndarray | None = None
        self._away = 0.0  # seconds of the processor inside MPI, which polls

    def start(self) -> None:
        """Begin to count."""
        self._since = self._now()

    def stop(self) -> None:
        """Count no more until the next start."""
        if self._since is not None:
            self._spent += self._now() - self._since
        self._since = None

    def inside(self, seconds: float) -> None:
        """A message took so many seconds of the processor, by a library that polls while it waits."""
        self.n_messages += 1
        self._away += seconds

    def note(self, accuracy: float) -> None:
        """A pass has ended, and the model was evaluated."""
        names = ("compute_seconds", "elapsed_seconds", "sent_bytes", "n_messages")
        self.points.append({**dict(zip(names, self._spent.tolist(), strict=True)), "accuracy": accuracy})

    def _now(self) -> np.ndarray:
        sent = int(Path(f"/sys/class/net/{INTERFACE}/statistics/tx_bytes").read_text())
        return np.array([time.thread_time() - self._away, time.perf_counter(), sent, self.n_messages])


def load(path: str) -> dict[str, Any]:
    """Features, sparse or dense, and labels of training and test."""
    with np.load(path) as file:
        found = dict(file)
    if "X_indptr" not in found:
        return found
    for which in ("X", "T"):
        parts = (found[f"{which}_{part}"] for part in ("data", "indices", "indptr"))
        found[which] = csr_array(tuple(parts), shape=tuple(found[f"{which}_shape"]))
    return found


def newton(problem: dict[str, Any], options: dict[str, Any]) -> list[dict[str, float]]:
    """Train by distnewton, features partitioned over the hosts."""
    import distnewton
    from distnewton.guards import watchdog as module
    from distnewton.launch.startup import world_communicator
    from distnewton.runs.evaluator import MetricsEvaluator

    clock, kind = Clock(), type(module.watchdog)
    enter, leave, measure = kind.__enter__, kind.__exit__, MetricsEvaluator.measure
    began: list[float] = []

    def enter_timed(self: Any) -> Any:
        began.append(time.thread_time())
        return enter(self)

    def leave_timed(self: Any, *error: Any) -> Any:
        left = leave(self, *error)
        clock.inside(time.thread_time() - began.pop())
        return left

    def measure_apart(self: Any, *given: Any) -> Any:
        clock.stop()
        metrics = measure(self, *given)
        clock.note(metrics["test"]["accuracy"])
        clock.start()
        return metrics

    kind.__enter__, kind.__exit__, MetricsEvaluator.measure = enter_timed, leave_timed, measure_apart
    comm = world_communicator()
    config = distnewton.make_config({
        "network": {"layers": ["auto", options["hidden"], "auto"], "activation": "tanh", "loss": "cross_entropy"},
        "method": options["method"], "data": {"scale": "none"},
        "run": {"iterations": options["passes"], "threads": 1, **options.get("run", {})},
    })  # fmt: skip
    sets = {"train_data": (problem["X"], problem["y"]), "test_data": (problem["T"], problem["t"])}
    distnewton.train(config, comm, **sets)
    return clock.points


def ddp(problem: dict[str, Any], options: dict[str, Any]) -> list[dict[str, float]]:
    """Train by PyTorch's DistributedDataParallel over gloo, samples distributed over the hosts."""
    torch: Any = import_module("torch")
    parallel: Any = import_module("torch.nn.parallel")
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"tcp://{ADDRESS}:{PORT}", rank=rank, world_size=size)
    torch.manual_seed(0)
    X, y = problem["X"], torch.from_numpy(problem["y"].astype(np.int64))
    n_classes, sparse = int(problem["y"].max()) + 1, isinstance(X, csr_array)
    network = _network(torch, X.shape[1], options["hidden"], n_classes, options["sparse_gradients"], sparse)
    # buckets as they are by default: 1 MiB, then 25 MiB
    model = parallel.DistributedDataParallel(network)
    first, rest = network.first_parameters(), network.other_parameters()
    optimizers = [torch.optim.Adam(rest, lr=options["rate"])]
    of_first = torch.optim.SparseAdam if options["sparse_gradients"] else torch.optim.Adam
    optimizers.append(of_first(first, lr=options["rate"]))
    dense_bytes = sum(4 * p.numel() for p in rest + ([] if options["sparse_gradients"] else first))
    per_step = 1 + int(dense_bytes // (25 << 20)) + HALF_COLLECTIVES * options["sparse_gradients"]
    loss, clock, orders = torch.nn.CrossEntropyLoss(), Clock(), np.random.default_rng(0)
    batch = options["batch"]
    for _ in range(options["passes"]):
        order = orders.permutation(len(y))
        torch.distributed.barrier()
        clock.start()
        for start in range(0, len(y) - batch * size + 1, batch * size):
            rows = order[start + rank * batch : start + (rank + 1) * batch]
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss(model(*_inputs(torch, X[rows])), y[torch.from_numpy(rows)]).backward()
            for optimizer in optimizers:
                optimizer.step()
            clock.n_messages += per_step
        clock.stop()
        clock.note(_accuracy(torch, network, problem) if rank == 0 else 0.0)
    torch.distributed.destroy_process_group()
    return clock.points


def _network(torch: Any, n_features: int, hidden: int, n_classes: int, sparse_gradients: bool, sparse: bool) -> Any:
    """A tanh network; sparse rows meet the first layer as bags of weighted embeddings."""
    nn = torch.nn

    class Network(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            if sparse:
                self.first = nn.EmbeddingBag(n_features, hidden, mode="sum", sparse=sparse_gradients)
                self.bias = nn.Parameter(torch.zeros(hidden))
            else:
                self.first, self.bias = nn.Linear(n_features, hidden), None
            self.last = nn.Linear(hidden, n_classes)
            for layer in (self.first, self.last):
                nn.init.xavier_uniform_(layer.weight)

        def forward(self, *inputs: Any) -> Any:
            if self.bias is None:
                return self.last(torch.tanh(self.first(*inputs)))
            columns, starts, values = inputs
            return self.last(torch.tanh(self.first(columns, starts, per_sample_weights=values) + self.bias))

        def first_parameters(self) -> list[Any]:
            return [self.first.weight]

        def other_parameters(self) -> list[Any]:
            return [p for p in self.parameters() if p is not self.first.weight]

    return Network()


def _inputs(torch: Any, X: Any) -> tuple[Any, ...]:
    """Rows as the network takes them."""
    if not isinstance(X, csr_array):
        return (torch.from_numpy(np.ascontiguousarray(X)),)
    return tuple(torch.from_numpy(np.ascontiguousarray(a)) for a in (
        X.indices.astype(np.int64), X.indptr[:-1].astype(np.int64), X.data.astype(np.float32)
    ))  # fmt: skip


def _accuracy(torch: Any, network: Any, problem: dict[str, Any]) -> float:
    """Share of the test samples that are right."""
    with torch.no_grad():
        outputs = network(*_inputs(torch, problem["T"])).numpy()
    return float(np.mean(outputs.argmax(axis=1) == problem["t"]))


def main() -> None:
    """Train, and write the points of this host."""
    kind, path, out, options = sys.argv[1:]
    points = {"newton": newton, "ddp": ddp}[kind](load(path), json.loads(options))
    rank = os.environ.get("RANK") or os.environ.get("PMI_RANK") or os.environ["OMPI_COMM_WORLD_RANK"]
    Path(f"{out}.{rank}.json").write_text(json.dumps(points))


if __name__ == "__main__":
    main()
