"""The page on what :mod:`~benchmarks.peers` has measured, from its file."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

OURS, ADAM = "distnewton auto", ("Adam", "Adam, cosine", "AdamW", "AdamW, cosine")
TREES = ("HistGradientBoosting", "LightGBM", "XGBoost")
CLOSE = 0.003
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
_BESIDE_ADAM = """## Until Adam's best

The least test error of any iteration, until the time at which Adam has its own: the best of its rates, with and
without weight decay and cosine. Nobody could choose that iteration: this compares optimisers rather than models.
"Others" is the best of the other networks in the same time, each with its best rate. Errors of numbers are shares of
the test targets' standard deviation. {summary}

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
    if len({row["seconds"] for row in rows.values()}) > 1:
        lines.append(_line("seconds for each", (f"{row['seconds']:g}" for row in rows.values())))
    for method in methods:
        lines.append(_line(method, (_error(row, method) for row in rows.values())))
        if seconds:
            runs = (runs_of(row, method) for row in rows.values())
            lines.append(_line("its seconds", (f"{median(found, 'seconds'):.2f}" if found else "" for found in runs)))
    return "\n".join(lines) + "\n"


def _line(name: str, cells: Iterable[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"


def beside_adam(row: dict[str, Any]) -> dict[str, Any]:
    """Medians over the seeds: Adam's best error and its seconds, the others' errors until then, and our seconds to it.

    Where that error is never reached, the share of Adam's seconds is at least 1: giving up early gains nothing.
    """
    of_seed: dict[int, dict[str, float]] = {}
    for run in runs_of(row, OURS):
        seed = run["seed"]
        least = min(r["least"] for m in ADAM for r in runs_of(row, m) if r["seed"] == seed)
        others = [
            r["within"] for m in row["methods"] if m not in (OURS, *ADAM, *TREES) for r in runs_of(row, m)
            if r["seed"] == seed and r["within"] is not None
        ]  # fmt: skip
        reached = run["reached"]
        of_seed[seed] = {
            "adam": least[0], "others": min(others, default=math.inf), "ours": run["within"],
            "seconds": least[1],
            "share": max(1.0, run["spent"] / least[1]) if reached is None else reached / least[1],
            "reached": float(reached is not None),
        }  # fmt: skip
    medians = {key: statistics.median(one[key] for one in of_seed.values()) for key in next(iter(of_seed.values()))}
    scale = row["deviation"]
    return medians | {key: medians[key] / scale for key in ("adam", "others", "ours")}


def _beside_adam_table(rows: dict[str, Any]) -> str:
    """What :func:`beside_adam` says of each set, and the sum of it."""
    found = {name: beside_adam(row) for name, row in rows.items()}
    close = [f["ours"] - min(f["adam"], f["others"]) <= CLOSE for f in found.values()]
    better = [f["ours"] < f["adam"] for f in found.values()]
    mean = math.exp(statistics.mean(math.log(f["share"]) for f in found.values()))
    summary = (
        f"`auto` is within {CLOSE} of the best\nnetwork on {sum(close)} of {len(found)} sets, better than Adam on "
        f"{sum(better)}, and takes {mean:.2f} times Adam's seconds to Adam's best (geometric\nmean; where it does not "
        "reach that error, all that it took, and at least 1)."
    )
    lines = ["| | Adam | its seconds | others | `auto` | its seconds to Adam's best / Adam's |", "|---" * 6 + "|"]
    for name, f in found.items():
        share = f"{f['share']:.2f}" if f["reached"] else f"not reached ({f['share']:.2f})"
        errors = [f"{f[key]:.4f}" if math.isfinite(f[key]) else "" for key in ("adam", "others", "ours")]
        lines.append(_line(name, [errors[0], f"{f['seconds']:.2f}", *errors[1:], share]))
    return _BESIDE_ADAM.format(summary=summary) + "\n".join(lines) + "\n\n"


def page(table: dict[str, Any]) -> str:
    """The page as Markdown."""
    kinds = {kind: {n: r for n, r in table["sets"].items() if _kind(r) == kind} for kind in ("wrong", "root", "sparse")}
    dense = {name: row for name, row in table["sets"].items() if not row["sparse"]}
    with_adam = {name: row for name, row in dense.items() if any("least" in run for run in runs_of(row, ADAM[0]))}
    budgets = sorted({row["seconds"] for row in dense.values()})
    seconds = " to ".join(f"{b:g}" for b in dict.fromkeys((budgets[0], budgets[-1])))
    text = _HEAD.format(seconds=seconds, seeds=_seeds({len(row["methods"][OURS]) for row in dense.values()}))
    titles = {
        "wrong": ("Classes", "Test samples that are put into a wrong class."),
        "root": ("Numbers", "Root mean square error of the test samples."),
        "sparse": (
            "Sparse sets",
            "Test samples that are put into a wrong class, by commands without options; seconds with reading and\n"
            "start ({seeds}). Neither's models have a bias.",
        ),
    }
    for kind, (title, what) in titles.items():
        if kind == "sparse" and with_adam:
            text += _beside_adam_table(with_adam)
        if kinds[kind]:
            what = what.format(seeds=_number_of_runs(kinds[kind]))
            text += f"## {title}\n\n{what}\n\n{_table(kinds[kind], seconds=kind == 'sparse')}\n"
    where = table["machine"]
    sets_of: dict[str, list[str]] = {}
    for name, row in table["sets"].items():
        sets_of.setdefault(row["processor"], []).append(name)
    processors = [
        processor if len(sets_of) == 1 else f"{processor} ({', '.join(names)})" for processor, names in sets_of.items()
    ]
    packages = ", ".join(f"{name} {number}" for name, number in where["packages"].items())
    return (
        f"{text}## Measured on\n\n{'; '.join(processors)}.\n{where['cores']} cores that other programs used as well; "
        f"Python {where['python']},\n{packages}.\n`PYTHONPATH=tests python -m benchmarks.peers DATA` measures,\n"
        "`PYTHONPATH=tests python -m benchmarks.peers --render docs/benchmarks` writes this page, and\n"
        "`python docs/pictures/draw.py` its picture, from `peers.json` beside it.\n"
    )


def _kind(row: dict[str, Any]) -> str:
    return "sparse" if row["sparse"] else row["metric"].split()[0]


def _number_of_runs(rows: dict[str, Any]) -> str:
    """Say over how many seeds the figures of some sets are medians."""
    return _seeds({len(runs) for row in rows.values() for runs in row["methods"].values()})


def _seeds(numbers: set[int]) -> str:
    return "one seed" if numbers == {1} else f"medians of {' or '.join(map(str, sorted(numbers)))} seeds"


def render(folder: Path) -> None:
    """Write the page beside the file."""
    table = json.loads((folder / "peers.json").read_text())
    (folder / "peers.md").write_text(page(table), encoding="utf-8")
