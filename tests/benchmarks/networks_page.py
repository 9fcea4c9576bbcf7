"""The page on what :mod:`~benchmarks.networks` has measured, from its file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NETWORKS = {
    "1 Gbit/s, 0.1 ms": (1e9, 1e-4), "1 Gbit/s, 1 ms": (1e9, 1e-3), "1 Gbit/s, 10 ms": (1e9, 1e-2),
    "100 Mbit/s, 0.1 ms": (1e8, 1e-4), "100 Mbit/s, 10 ms": (1e8, 1e-2),
}  # fmt: skip
ROUNDS = 4
"""Messages that follow each other in a sum over four hosts: two halvings, two doublings."""
_HEAD = """# Behind slow networks

distnewton beside PyTorch's data-parallel training (DistributedDataParallel over gloo) on four hosts. distnewton
distributes the features and sends sums of activations; data-parallel training distributes the samples and sends the
gradient of all variables, or where PyTorch can, of those that a batch touches (`EmbeddingBag` with sparse gradients,
SparseAdam). Both have the same network (tanh), one thread a host, and no evaluation in their times.

The hosts are network namespaces of one machine with two cores, which other programs used as well, behind `tc` at
1 Gbit/s; their interfaces count what is sent. That machine cannot tell how long four hosts would take, and its kernel
cannot delay packets. The seconds below are therefore **a model from counts**: seconds of the processor of the slowest
host (its training thread, without messages), plus the bytes that a host has sent over the rate, plus four latencies a
message. Elapsed seconds on this machine stand beside them.

DDP has no regularisation, and is tuned by its rate. distnewton's `adam` is the same first-order method, on distnewton's
partition, without regularisation and tuned likewise: what it gains is the partition's. `auto` chooses a method with
curvature and regularises (C = l) without being told anything; on both problems its best accuracy is below DDP's.

```{image} ../pictures/networks-light.svg
:class: only-light
:alt: Test accuracy by seconds at 1 Gbit/s and 1 ms of each method
```

```{image} ../pictures/networks-dark.svg
:class: only-dark
:alt: Test accuracy by seconds at 1 Gbit/s and 1 ms of each method
```

"""
_NAMES = {"news20": "news20: sparse words", "dense": "A dense wide problem"}


def seconds(point: dict[str, float], network: tuple[float, float]) -> float:
    """Seconds until a point on four hosts behind a network of a rate in bits/s and a latency in s."""
    rate, latency = network
    return point["compute_seconds"] + 8 * point["sent_bytes"] / rate + ROUNDS * latency * point["n_messages"]


def first(points: list[dict[str, float]], accuracy: float) -> dict[str, float] | None:
    """The first point of at least this accuracy."""
    return next((point for point in points if point["accuracy"] >= accuracy), None)


def best(methods: dict[str, Any], kind: str) -> float:
    """Best test accuracy of the methods whose names begin so."""
    return max(p["accuracy"] for name, method in methods.items() if name.startswith(kind) for p in method["points"])


def fastest(methods: dict[str, Any], kind: str, level: float, network: tuple[float, float]) -> float | None:
    """Seconds of the fastest of these methods to an accuracy; None where none reaches it."""
    found = (first(method["points"], level) for name, method in methods.items() if name.startswith(kind))
    return min((seconds(point, network) for point in found if point), default=None)


def _section(name: str, problem: dict[str, Any]) -> Iterator[str]:
    methods = problem["methods"]
    yield f"## {_NAMES[name]}\n"
    yield (
        f"{problem['samples']} samples, {problem['features']} features, {problem['hidden']} hidden neurons. DDP's best "
        f"test accuracy, of all rates, is {best(methods, 'DDP'):.4f}; distnewton's {best(methods, 'distnewton'):.4f}.\n"
    )
    yield "Seconds of the fastest run of each kind to a test accuracy, and their ratio:\n"
    yield "| accuracy | network | DDP | distnewton | distnewton / DDP |\n|---|---|---|---|---|"
    top = best(methods, "DDP")
    for share in (0.97, 1.0):
        level = share * top
        for title, network in NETWORKS.items():
            theirs, ours = (fastest(methods, kind, level, network) for kind in ("DDP", "distnewton"))
            ratio = "" if ours is None or theirs is None else f"{ours / theirs:.2f}"
            cells = ["never" if value is None else f"{value:.1f} s" for value in (theirs, ours)]
            yield f"| {level:.4f} | {title} | {' | '.join(cells)} | {ratio} |"
    yield "\nEach run, per pass over the samples:\n"
    yield ("| | passes | best accuracy | processor s a host | MB sent by a host | messages | elapsed s here |\n"
           "|---|---|---|---|---|---|---|")  # fmt: skip
    for title, method in methods.items():
        points = method["points"]
        n, last = len(points) - (title.startswith("distnewton")), points[-1]
        figures = (last["compute_seconds"] / n, last["sent_bytes"] / 1e6 / n, last["n_messages"] / n)
        columns = f"{figures[0]:.2f} | {figures[1]:.1f} | {figures[2]:.0f} | {last['elapsed_seconds'] / n:.1f}"
        yield f"| {title} | {n} | {max(p['accuracy'] for p in points):.4f} | {columns} |"
    where = problem["machine"]
    packages = ", ".join(f"{name} {where['packages'][name]}" for name in ("distnewton", "numpy", "torch"))
    yield (
        f"\nMeasured on {where['processor']}, {where['cores']} cores that other programs used as well; "
        f"Python {where['python']},\n{packages}.\n"
    )


def page(table: dict[str, Any]) -> str:
    """The page as Markdown."""
    text = "\n".join(line for name, problem in table["problems"].items() for line in _section(name, problem))
    return (
        f"{_HEAD}{text}\n## Measure again\n\n"
        "`PYTHONPATH=tests python -m benchmarks.networks DATA` measures (as root), "
        "`PYTHONPATH=tests python -m benchmarks.networks --render docs/benchmarks`\nwrites this page, and "
        "`python docs/pictures/draw.py` its picture, from `networks.json` beside it.\n"
    )


def render(folder: Path) -> None:
    """Write the page beside the file."""
    table = json.loads((folder / "networks.json").read_text())
    (folder / "networks.md").write_text(page(table), encoding="utf-8")
