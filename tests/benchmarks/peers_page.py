"""The page on what :mod:`~benchmarks.peers` has measured, from its file."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

OURS = ("distnewton auto", "distnewton-train")
TREES = ("HistGradientBoosting", "LightGBM", "XGBoost")
_HEAD = """# Beside other methods

What `auto` reaches beside what people would pick, wins and losses alike. Each method has the same network (100 hidden
neurons; 20 and 20 for `wave`), weights to start with, samples, and {seconds} seconds of the processor, one thread,
evaluation left out. A tenth of the training samples chooses the iteration that counts, and the best of two or three
learning rates, each of which has these seconds to itself; the figures are of the test samples ({seeds}). Trees take the
time that they need, and least squares twenty evaluations at least.

```{{image}} ../pictures/peers-light.svg
:class: only-light
:alt: Test error of each method relative to the best one, a row a data set
```

```{{image}} ../pictures/peers-dark.svg
:class: only-dark
:alt: Test error of each method relative to the best one, a row a data set
```

"""


def runs_of(row: dict[str, Any], method: str) -> list[dict[str, Any]]:
    """Runs of a method on a set; none where it was missing."""
    return [run for run in row["methods"].get(method, []) if "test" in run]


def median(runs: list[dict[str, Any]], key: str) -> float:
    """Median over the seeds."""
    return statistics.median(run[key] for run in runs)


def _error(row: dict[str, Any], method: str) -> str:
    """A cell: percent of wrong answers or root mean square error, and its seconds; the best network's in bold."""
    runs = runs_of(row, method)
    if not runs:
        return "missing" if method in row["methods"] else ""
    networks = [median(runs_of(row, m), "test") for m in row["methods"] if m not in TREES and runs_of(row, m)]
    value = median(runs, "test")
    text = f"{100 * value:.2f} %" if row["metric"] == "wrong answers" else f"{value:.3g}"
    return f"**{text}**" if method not in TREES and value <= min(networks) else text


def _table(rows: dict[str, Any], *, seconds: bool) -> str:
    """Methods by sets."""
    methods = list(dict.fromkeys(method for row in rows.values() for method in row["methods"]))
    lines = ["| | " + " | ".join(rows) + " |", "|---" * (len(rows) + 1) + "|"]
    lines.append(_line("samples x features", (f"{row['samples']} x {row['features']}" for row in rows.values())))
    for method in methods:
        lines.append(_line(method, (_error(row, method) for row in rows.values())))
        if seconds:
            runs = (runs_of(row, method) for row in rows.values())
            lines.append(_line("its seconds", (f"{median(found, 'seconds'):.2f}" if found else "" for found in runs)))
    return "\n".join(lines) + "\n"


def _line(name: str, cells: Iterable[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"


def page(table: dict[str, Any]) -> str:
    """The page as Markdown."""
    kinds = {kind: {n: r for n, r in table["sets"].items() if _kind(r) == kind} for kind in ("wrong", "root", "sparse")}
    dense = [row for row in table["sets"].values() if not row["sparse"]]
    budgets, seeds = ({f(row) for row in dense} for f in (lambda r: r["seconds"], lambda r: len(r["methods"][OURS[0]])))
    text = _HEAD.format(seconds=" or ".join(f"{b:g}" for b in sorted(budgets)), seeds=_seeds(seeds))
    titles = {
        "wrong": ("Classes", "Test samples that are put into a wrong class."),
        "root": ("Numbers", "Root mean square error of the test samples."),
        "sparse": (
            "Sparse sets",
            "Test samples that are put into a wrong class, by commands without options; seconds with reading and\n"
            "start. LIBLINEAR's models have no bias unless asked for.",
        ),
    }
    for kind, (title, what) in titles.items():
        if kinds[kind]:
            text += f"## {title}\n\n{what}\n\n{_table(kinds[kind], seconds=kind == 'sparse')}\n"
    where = table["machine"]
    packages = ", ".join(f"{name} {number}" for name, number in where["packages"].items())
    return (
        f"{text}## Measured on\n\n{where['processor']}, {where['cores']} cores that other programs used as well; "
        f"Python {where['python']},\n{packages}.\n`PYTHONPATH=tests python -m benchmarks.peers DATA` measures,\n"
        "`PYTHONPATH=tests python -m benchmarks.peers --render docs/benchmarks` writes this page, and\n"
        "`python docs/pictures/draw.py` its picture, from `peers.json` beside it.\n"
    )


def _kind(row: dict[str, Any]) -> str:
    return "sparse" if row["sparse"] else row["metric"].split()[0]


def _seeds(numbers: set[int]) -> str:
    return "one seed" if numbers == {1} else f"medians of {' or '.join(map(str, sorted(numbers)))} seeds"


def render(folder: Path) -> None:
    """Write the page beside the file."""
    table = json.loads((folder / "peers.json").read_text())
    (folder / "peers.md").write_text(page(table), encoding="utf-8")
