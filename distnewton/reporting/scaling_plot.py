"""A scaling study as a table and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distnewton.errors import MissingExtraError
from distnewton.parallel.partition import splits_title
from distnewton.planning.plan import Plan
from distnewton.study.measured import Point, efficiency
from distnewton.study.points import Study

_INK, _MODEL, _COMPUTE, _WAIT, _TRANSFER = "#1b4f8a", "#8a8a8a", "#1b4f8a", "#e0a23c", "#c4501b"
_TITLES = {
    "strong": "strong scaling: the same problem on more ranks",
    "weak-weights": "weak scaling: weights per rank constant, hidden layers grow",
    "weak-samples": "weak scaling: samples per rank constant",
}


def as_lines(study: Study, points: Sequence[Point], plans: Sequence[Plan]) -> list[dict[str, Any]]:
    """Points as JSON-able values, with efficiency and prediction."""
    lines = []
    for i, point in enumerate(points):
        line = {"kind": study.kind, **asdict(point)}
        line["efficiency"] = efficiency(study, points, point.seconds, point.n_ranks)
        line["predicted_seconds"] = training_seconds(plans[i]) if plans else None
        lines.append(line)
    return lines


def training_seconds(plan: Plan) -> float:
    """Predicted seconds of an iteration without its evaluation."""
    return plan.seconds - plan.phases["evaluation"].seconds


def markdown(study: Study, points: Sequence[Point], plans: Sequence[Plan], missing: Sequence[str]) -> str:
    """The study as a table, with what does not count and why.

    Parameters
    ----------
    study : Study
        What was run.
    points : sequence of Point
        What was measured, from the fewest ranks on.
    plans : sequence of Plan
        Predictions for them, or none.
    missing : sequence of str
        Runs that have not ended.

    Returns
    -------
    str
    """
    head = ["ranks", "hosts", "threads", "splits", "seconds", "95 %", "efficiency", "waiting", "MB sent", "objective"]
    rows = [head + ["predicted"] * bool(plans), ["---"] * (len(head) + bool(plans))]
    for i, point in enumerate(points):
        share = efficiency(study, points, point.seconds, point.n_ranks)
        cells = [
            f"{point.n_ranks}", f"{point.n_hosts}", f"{point.n_threads}", splits_title(point.splits, point.n_replicas),
            f"{point.seconds:.4g}", f"{point.low:.4g} to {point.high:.4g}",
            "refused" if point.refused else f"{share:.1%}",
            f"{point.wait / point.seconds:.1%}", f"{point.sent_bytes / 1e6:.3g}", f"{point.objective:.6g}",
        ]  # fmt: skip
        rows.append(cells + ([f"{training_seconds(plans[i]):.4g}"] if plans else []))
    base = points[0]
    text = [f"# {_TITLES[study.kind]}", ""]
    text += ["| " + " | ".join(row) + " |" for row in rows]
    text += [
        "",
        f"Seconds of an iteration (evaluation left out): the median of {study.n_measured} iterations of {base.n_runs} "
        f"runs after {study.n_warmup} to warm up, with its 95 % bootstrap interval. Waiting is time inside MPI, "
        "transfer included, the mean of ranks.",
    ]
    text += [f"- {point.n_ranks} ranks are refused: {point.refused}" for point in points if point.refused]
    text += [f"- missing: {line}" for line in missing]
    return "\n".join(text) + "\n"


def save_picture(study: Study, points: Sequence[Point], plans: Sequence[Plan], path: Path, caption: str) -> None:
    """Draw efficiency over the number of ranks, and where the seconds go.

    Parameters
    ----------
    study : Study
        What was run.
    points : sequence of Point
        What was measured; refused ones are left out.
    plans : sequence of Plan
        Predictions for them, or none.
    path : Path
        PNG or SVG file to write.
    caption : str
        Machine and version.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("the picture of a scaling study", "plot") from None
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    counted = [i for i, point in enumerate(points) if not point.refused]
    ranks = [points[i].n_ranks for i in counted]
    share = [efficiency(study, points, points[i].seconds, points[i].n_ranks) for i in counted]
    ends = [[efficiency(study, points, t, points[i].n_ranks) for i in counted for t in (getattr(points[i], end),)]
            for end in ("low", "high")]  # fmt: skip
    errors = [[max(0.0, s - e) for s, e in zip(share, ends[1], strict=True)],
              [max(0.0, e - s) for s, e in zip(share, ends[0], strict=True)]]  # fmt: skip
    left.axhline(1.0, color="#bbbbbb", linewidth=1, label="ideal")
    base = points[0]
    label = f"measured ({base.n_ranks} rank{'s' * (base.n_ranks > 1)}: {base.seconds:.3g} s an iteration)"
    left.errorbar(ranks, share, yerr=errors, marker="o", color=_INK, capsize=3, label=label)
    if plans:
        # against its own base: the shape of the curve, not the seconds, is compared here
        first = training_seconds(plans[0])
        growth = [base.n_ranks / n if study.kind == "strong" else 1.0 for n in ranks]
        model = [first / training_seconds(plans[i]) * factor for i, factor in zip(counted, growth, strict=True)]
        left.plot(ranks, model, "--", color=_MODEL, label="model")
    left.set_xscale("log", base=2)
    left.set_xticks(ranks, [str(n) for n in ranks])
    left.minorticks_off()
    left.set_ylim(0, 1.15 * max(1.0, *share))
    left.set_xlabel("ranks")
    left.set_ylabel("parallel efficiency")
    left.legend(frameon=False, loc="lower left")
    _stack(right, [points[i] for i in counted], [plans[i] for i in counted] if plans else [])
    for axis in (left, right):
        axis.grid(alpha=0.25, axis="y")
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(_TITLES[study.kind])
    figure.supxlabel(caption, fontsize=8, color="#666666")
    figure.savefig(path, dpi=130)


def _stack(axis: Any, points: Sequence[Point], plans: Sequence[Plan]) -> None:
    """Bars of seconds in computing, transfer by the model, and waiting for others."""
    names = [str(point.n_ranks) for point in points]
    compute = [point.seconds - point.wait for point in points]
    transfer = [0.0] * len(points)
    if plans:
        modelled = [plan.total("transfer") + plan.total("latency") for plan in plans]
        transfer = [min(point.wait, seconds) for point, seconds in zip(points, modelled, strict=True)]
    wait = [point.wait - t for point, t in zip(points, transfer, strict=True)]
    axis.bar(names, compute, color=_COMPUTE, label="compute")
    axis.bar(names, transfer, bottom=compute, color=_TRANSFER, label="transfer (by the model)") if plans else None
    below = [a + b for a, b in zip(compute, transfer, strict=True)]
    axis.bar(names, wait, bottom=below, color=_WAIT, label="wait" if plans else "wait and transfer")
    axis.set_xlabel("ranks")
    axis.set_ylabel("seconds of an iteration, mean of ranks")
    axis.legend(frameon=False)
