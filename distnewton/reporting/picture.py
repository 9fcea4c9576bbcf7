"""The convergence picture of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distnewton.reporting.figure import four_panels

_MAIN_METRICS = ("auc", "accuracy", "rmse")


def save_convergence(records: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Draw objective and metric of a run against iterations and seconds.

    Parameters
    ----------
    records : sequence of dict
        Lines of ``metrics.jsonl``.
    path : Path
        PNG or SVG file to write.
    title : str
        Above the picture.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    figure, axes = four_panels("the convergence picture", 9, 6.4)
    metric = next((name for name in _MAIN_METRICS if name in records[0]["train"]), "accuracy")
    for column, (key, label) in enumerate((("iteration", "iteration"), ("elapsed_seconds", "seconds"))):
        x = [record[key] for record in records]
        top, bottom = axes[0, column], axes[1, column]
        top.semilogy(x, [record["objective"] for record in records], color="#1b4f8a", label="objective")
        sets = ("train", "--", "#8a8a8a"), ("validation", "-.", "#2e7d4f"), ("test", "-", "#c4501b")
        for name, style, colour in sets:
            values = [record.get(name, {}).get(metric) for record in records]
            if any(value is not None for value in values):
                bottom.plot(x, [float("nan") if v is None else v for v in values], style, color=colour, label=name)
        bottom.set_xlabel(label)
    axes[0, 0].set_ylabel("objective")
    axes[1, 0].set_ylabel(metric.upper() if metric in ("auc", "rmse") else metric)
    axes[1, 0].legend(frameon=False)
    figure.suptitle(title)
    figure.savefig(path, dpi=130)
