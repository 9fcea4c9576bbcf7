"""A scaling study as lines, as a table and as a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from distnewton.frozen import frozen
from distnewton.parallel.partition import splits_title
from distnewton.planning.plan import Plan
from distnewton.reporting.drawing import save
from distnewton.reporting.pictures import colour, numbers
from distnewton.reporting.style import LIGHT
from distnewton.study.measured import MeasuredPoint, efficiency
from distnewton.study.points import Study

_TITLES = {
    "strong": "strong scaling: the same problem on more ranks",
    "weak-weights": "weak scaling: weights per rank constant, hidden layers grow",
    "weak-samples": "weak scaling: samples per rank constant",
}


def training_seconds(plan: Plan) -> float:
    """Return the predicted seconds of an iteration without evaluation."""
    return plan.seconds - plan.phases["evaluation"].seconds


@frozen
class ScalingResult:
    """The measurements of a study, beside the predictions of the model."""

    study: Study  # what was run
    points: Sequence[MeasuredPoint]  # measured points, from the fewest ranks on
    plans: Sequence[Plan] = ()  # predictions for the points, or none

    @property
    def planned(self) -> Sequence[Plan | None]:
        """A prediction for each point; None without plans."""
        return self.plans or [None] * len(self.points)

    def efficiency(self, point: MeasuredPoint, seconds: float | None = None) -> float:
        """Compute the parallel efficiency of a point, or of as many ranks that take other seconds for an iteration."""
        return efficiency(self.study, self.points, point.seconds if seconds is None else seconds, point.n_ranks)

    def lines(self) -> list[dict[str, Any]]:
        """Return the points as JSON values, with efficiency and prediction."""
        predicted = [None if plan is None else training_seconds(plan) for plan in self.planned]
        return [
            {"kind": self.study.kind} | asdict(point)
            | {"efficiency": self.efficiency(point), "predicted_seconds": seconds}
            for point, seconds in zip(self.points, predicted, strict=True)
        ]  # fmt: skip

    def markdown(self, missing: Sequence[str]) -> str:
        """Write the study as a table, with the points that do not count and the reasons.

        Parameters
        ----------
        missing : sequence of str
            Runs that have not finished.

        Returns
        -------
        str
        """
        head = ["ranks", "hosts", "threads", "splits", "seconds", "95 %", "efficiency", "waiting", "MB sent"]
        head += ["objective", "predicted"] if self.plans else ["objective"]
        rows = [head, ["---"] * len(head)]
        for i, point in enumerate(self.points):
            cells = [
                f"{point.n_ranks}", f"{point.n_hosts}", f"{point.n_threads}",
                splits_title(point.splits, point.n_replicas), f"{point.seconds:.4g}",
                f"{point.low:.4g} to {point.high:.4g}",
                "refused" if point.refused else f"{self.efficiency(point):.1%}",
                f"{point.wait / point.seconds:.1%}", f"{point.sent_bytes / 1e6:.3g}", f"{point.objective:.6g}",
            ]  # fmt: skip
            rows.append(cells + ([f"{training_seconds(self.plans[i]):.4g}"] if self.plans else []))
        text = [f"# {_TITLES[self.study.kind]}", "", *("| " + " | ".join(row) + " |" for row in rows)]
        text += [
            "",
            f"Seconds of an iteration (evaluation left out): the median of {self.study.n_measured} iterations of "
            f"{self.points[0].n_runs} runs after {self.study.n_warmup} to warm up, with its 95 % bootstrap interval. "
            "Waiting is time inside MPI, transfer included, the mean of ranks.",
        ]
        text += [f"- {point.n_ranks} ranks are refused: {point.refused}" for point in self.points if point.refused]
        text += [f"- missing: {line}" for line in missing]
        return "\n".join(text) + "\n"

    def save_picture(self, path: Path, caption: str) -> None:
        """Draw the efficiency over the number of ranks, and the parts of the seconds.

        Parameters
        ----------
        path : Path
            PNG or SVG file to write.
        caption : str
            Machine and version.

        Raises
        ------
        MissingExtraError
            If matplotlib is not installed.
        """
        save(_ScalingPicture(self, caption), path, "the picture of a scaling study")


@frozen
class _ScalingPicture:
    """Efficiency beside the parts of an iteration; refused points are left out."""

    scaling: ScalingResult
    caption: str
    size: tuple[float, float] = (1020.0, 340.0)

    @property
    def title(self) -> str:
        return _TITLES[self.scaling.study.kind]

    def table(self) -> Iterator[Sequence[Any]]:
        yield "ranks", "cores", "seconds", "efficiency", "refused"
        for point in self.scaling.points:
            yield point.n_ranks, point.n_cores, point.seconds, self.scaling.efficiency(point), point.refused

    def draw(self, figure: Any) -> tuple[()]:
        left, middle, right = figure.subplots(1, 3)
        self._draw_times(left)
        self._draw_efficiency(middle)
        self._draw_seconds(right)
        for axes in (left, middle, right):
            axes.grid(visible=False, axis="x")
            axes.set_xlabel("ranks (cores)")
        figure.supxlabel(self.caption, fontsize=9, color=LIGHT["dim"])
        return ()

    @property
    def _counted(self) -> list[tuple[MeasuredPoint, Plan | None]]:
        pairs = zip(self.scaling.points, self.scaling.planned, strict=True)
        return [(point, plan) for point, plan in pairs if not point.refused]

    @property
    def _names(self) -> list[str]:
        """Names of the points: ranks and cores."""
        return [f"{point.n_ranks} ({point.n_cores})" for point, _ in self._counted]

    def _scale_ranks(self, axes: Any) -> None:
        """Put the ranks on a logarithmic axis, with room beside a single point."""
        ranks = [point.n_ranks for point, _ in self._counted]
        axes.set_xscale("log", base=2)
        axes.set_xlim(ranks[0] / 1.3, ranks[-1] * 1.3)
        axes.set_xticks(ranks, self._names)
        axes.minorticks_off()

    def _draw_times(self, axes: Any) -> None:
        """Draw seconds of an iteration on logarithmic axes, with the speed-up on the right, and the ideal."""
        points, base = [point for point, _ in self._counted], self.scaling.points[0]
        ranks, seconds = [point.n_ranks for point in points], [point.seconds for point in points]
        errors = [[s - p.low for s, p in zip(seconds, points, strict=True)],
                  [p.high - s for s, p in zip(seconds, points, strict=True)]]  # fmt: skip
        ideal = [base.seconds * (base.n_ranks / n if self.scaling.study.kind == "strong" else 1.0) for n in ranks]
        axes.plot(ranks, ideal, color=LIGHT["dim"], linewidth=1, linestyle=":", label="ideal")
        axes.errorbar(ranks, seconds, yerr=np.maximum(errors, 0.0), marker="o", color=colour(0), capsize=3,
                      label="measured")  # fmt: skip
        axes.set_yscale("log")
        self._scale_ranks(axes)
        axes.margins(y=0.25)
        axes.set_ylabel("seconds of an iteration")
        if self.scaling.study.kind == "strong":
            right = axes.secondary_yaxis("right", functions=(lambda s: base.seconds / s, lambda u: base.seconds / u))
            right.set_ylabel("speed-up")
            numbers(right.yaxis)
        numbers(axes.yaxis)
        axes.legend()

    def _draw_efficiency(self, axes: Any) -> None:
        points, base, of = [point for point, _ in self._counted], self.scaling.points[0], self.scaling.efficiency
        ranks, share = [point.n_ranks for point in points], [of(point) for point in points]
        # the higher end of the seconds is the lower end of the efficiency
        errors = [
            [max(0.0, of(point) - of(point, point.high)) for point in points],
            [max(0.0, of(point, point.low) - of(point)) for point in points],
        ]
        axes.axhline(1.0, color=LIGHT["dim"], linewidth=1, linestyle=":", label="ideal")
        label = f"measured ({base.n_ranks} rank{'s' * (base.n_ranks > 1)}: {base.seconds:.3g} s an iteration)"
        axes.errorbar(ranks, share, yerr=errors, marker="o", color=colour(0), capsize=3, label=label)
        if self.scaling.plans:
            # relative to its own base: this compares the shape of the curve, not the seconds
            scale = base.seconds / training_seconds(self.scaling.plans[0])
            model = [of(point, scale * training_seconds(plan)) for point, plan in self._counted if plan]
            axes.plot(ranks, model, "--", color=colour(5), label="model")
        self._scale_ranks(axes)
        highest = [value + error for value, error in zip(share, errors[1], strict=True)]
        axes.set_ylim(0, 1.15 * max(1.0, *highest))
        axes.set_ylabel("parallel efficiency")
        axes.legend(loc="lower left")

    def _draw_seconds(self, axes: Any) -> None:
        """Draw bars of the seconds of computing, of transfer by the model, and of waiting for others."""
        parts: dict[str, list[float]] = {"compute": [], "transfer (by the model)": [], "wait": []}
        for point, plan in self._counted:
            transfer = min(point.wait, plan.total("transfer") + plan.total("latency")) if plan else 0.0
            seconds = point.seconds - point.wait, transfer, point.wait - transfer
            for name, value in zip(parts, seconds, strict=True):
                parts[name].append(value)
        colours = [LIGHT["work"], LIGHT["p1"], LIGHT["wait"]]
        if not self.scaling.plans:
            parts, colours = {"compute": parts["compute"], "wait and transfer": parts["wait"]}, colours[::2]
        below = [0.0] * len(self._counted)
        for name, values, shade in zip(parts, parts.values(), colours, strict=True):
            axes.bar(self._names, values, bottom=below, color=shade, label=name)
            below = [a + b for a, b in zip(below, values, strict=True)]
        axes.set_ylabel("seconds of an iteration, mean of ranks")
        axes.legend()
