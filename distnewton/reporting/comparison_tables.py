"""A comparison of methods as one table and one picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distnewton.method.records import IterationRecord
from distnewton.models.metrics import MAIN_METRIC
from distnewton.parallel.partition import splits_title
from distnewton.reporting.drawing import save
from distnewton.reporting.pictures import Chart, Curve, Panels
from distnewton.reporting.scale import Scale
from distnewton.reporting.totals import Totals
from distnewton.runs.comparison import Trial
from distnewton.runs.session import RunSummary

if TYPE_CHECKING:
    from rich.table import Table

_USUAL_LEVELS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995)
_RMSE_FACTORS = (2.0, 1.2, 1.05)


class Comparison:
    """The runs of a comparison, the best of each method, and their table and picture.

    Parameters
    ----------
    summary : RunSummary
        Data, network and ranks.
    seconds : float
        Training time of each run.
    levels : sequence of float
        Values of the metric whose times are shown; if empty, the highest usual ones that a run has reached.
    """

    def __init__(self, summary: RunSummary, seconds: float, levels: Sequence[float] = ()) -> None:
        self._summary, self._seconds, self._levels = summary, seconds, list(levels)
        which = "test" if summary.test else "validation" if summary.validation else "train"
        self.scale = Scale(MAIN_METRIC[summary.task.name], which)
        self.trials: list[Trial] = []

    @property
    def levels(self) -> list[float]:
        """Values of the metric whose times are shown, the hardest last."""
        if self._levels:
            return sorted(self._levels, reverse=self.scale.lower)
        reached = [best for trial in self.trials if not math.isnan(best := self.scale.best(trial.history))]
        if not reached:
            return []
        if self.scale.lower:
            return [float(f"{factor * min(reached):.3g}") for factor in _RMSE_FACTORS]
        return [level for level in _USUAL_LEVELS if level <= max(reached)][-3:]

    def best_trials(self) -> list[Trial]:
        """Choose the best run of each method: it reaches the most levels, and the hardest of these first."""
        methods = dict.fromkeys(trial.entry.method for trial in self.trials)
        return [min((t for t in self.trials if t.entry.method == m), key=self._rank) for m in methods]

    def _rank(self, trial: Trial) -> tuple[float, ...]:
        times = [self.scale.seconds_to(trial.history, level) for level in reversed(self.levels)]
        return *times, self.scale.cost(self.scale.best(trial.history))

    def header(self) -> list[str]:
        """Describe what was compared, in lines."""
        s = self._summary
        test = f", {s.test.n_samples:,} test samples" if s.test else ""
        network, partition, machine = s.config.network, s.partition, s.machine
        return [
            f"data: {s.train.name}, {s.config.data.n_train or s.train.n_samples:,} samples{test}",
            f"network: {s.shape}, {network.activation}, {network.loss}, "
            f"C = {s.config.method.C}, {s.config.run.dtype}, seed {s.config.run.seed}",
            f"ranks: {machine.n_ranks} with {machine.n_threads} BLAS thread(s) each, "
            f"splits {splits_title(partition.splits, machine.n_replicas)}"
            + (f", {machine.mpi_library}" if machine.mpi_library else ""),
            f"{self._seconds:g} seconds of training a run, without evaluation; times are those of the slowest rank",
        ]

    def columns(self) -> list[str]:
        """List the names of the table's columns."""
        times = [f"s to {level:g}" for level in self.levels]
        counts = ["iterations", "steps", "s", "MB", "wait s"]
        return ["method", *times, f"best {self.scale.title}", "last", "objective", *counts]

    def rows(self) -> list[list[str]]:
        """Make a row for each method."""
        return [self._row(trial) for trial in self.best_trials()]

    def _row(self, trial: Trial) -> list[str]:
        history = trial.history
        if not history:
            return [trial.entry.name, *["-"] * (len(self.columns()) - 1)]
        times = [self.scale.seconds_to(history, level) for level in self.levels]
        totals = Totals.of(history)
        return [
            trial.entry.name,
            *("never" if math.isinf(t) else f"{t:.2f}" for t in times),
            self.scale.text(self.scale.best(history)),
            self.scale.text(self.scale.of(history[-1])),
            f"{history[-1].objective:.4g}",
            str(len(history) - 1),
            str(sum(record.steps for record in history[1:])),
            f"{totals.seconds:.1f}",
            f"{totals.sent:.1f}",
            f"{totals.waited:.2f}",
        ]

    def line(self, trial: Trial) -> str:
        """Describe a run in one line."""
        if not trial.history:
            return f"{trial.entry.name}: {trial.failure}"
        last, best = trial.history[-1], self.scale.text(self.scale.best(trial.history))
        text = f"{trial.entry.name}: {last.iteration} iterations in {last.training_seconds:.1f} s, "
        text += f"best {self.scale.title} {best}, objective {last.objective:.4g}"
        return f"{text}; {trial.failure}" if trial.failure else text

    def remarks(self) -> list[str]:
        """Describe wins and losses at each level, the cost of the learning rates, and failures."""
        lines = [self._verdict(level) for level in self.levels]
        lines += filter(None, map(self._cost_of_rates, self.best_trials()))
        return lines + [f"{trial.entry.name}: ended early: {trial.failure}" for trial in self.trials if trial.failure]

    def _cost_of_rates(self, best: Trial) -> str:
        """Describe what a method's learning rates reached and cost; empty if there was one run."""
        trials = [trial for trial in self.trials if trial.entry.method == best.entry.method]
        if len(trials) == 1:
            return ""
        rates = ", ".join(map(self._of_rate, trials))
        seconds = sum(trial.history[-1].training_seconds for trial in trials if trial.history)
        return f"{best.entry.method}: best of {len(trials)} learning rates ({rates}); all of them took {seconds:.0f} s"

    def _of_rate(self, trial: Trial) -> str:
        rate, best = trial.entry.config.method.learning_rate, self.scale.best(trial.history)
        return f"{rate:g}: " + ("nothing" if math.isnan(best) else self.scale.text(best))

    def _verdict(self, level: float) -> str:
        """Say which method reached a level first, and how much later the others did."""
        times = sorted((self.scale.seconds_to(t.history, level), t.entry.name) for t in self.best_trials())
        reached = [(t, name) for t, name in times if not math.isinf(t)]
        if not reached:
            return f"{self.scale.title} {level:g}: nobody"
        first = max(reached[0][0], 1e-9)
        late = [f"{name} {t / first:.3g} times as long" for t, name in reached[1:]]
        never = [f"{name} never" for t, name in times if math.isinf(t)]
        start = f"{self.scale.title} {level:g}: {reached[0][1]} first, {reached[0][0]:.2f} s"
        return "; ".join([start, *late, *never])

    def table(self) -> Table:
        """Make the table for a terminal."""
        from rich.table import Table

        table = Table(title="comparison", title_justify="left")
        for i, column in enumerate(self.columns()):
            table.add_column(column, justify="right" if i else "left", no_wrap=i == 0)
        for row in self.rows():
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """Write the same as a Markdown page."""
        columns = self.columns()
        lines = ["# Comparison", "", *(f"- {line}" for line in self.header()), ""]
        lines += [_markdown_row(columns), _markdown_row(["---", *["---:"] * (len(columns) - 1)])]
        lines += [*(_markdown_row(row) for row in self.rows()), "", *(f"- {line}" for line in self.remarks()), ""]
        return "\n".join(lines)

    def save_picture(self, path: Path) -> None:
        """Draw metric and objective of the best run of each method against seconds and iterations.

        Accuracy and AUC are drawn as 1 minus their value on a logarithmic scale, which shows how methods differ.

        Parameters
        ----------
        path : Path
            PNG or SVG file to write.

        Raises
        ------
        MissingExtraError
            If matplotlib is not installed.
        """
        values: dict[str, Callable[[IterationRecord], float | None]] = {
            self.scale.title if self.scale.lower else f"1 - {self.scale.title}": self.scale.error,
            "objective": lambda record: record.objective,
        }
        # time zero has no logarithm: the axis is linear up to a hundredth of the run
        places: dict[str, tuple[Callable[[IterationRecord], float], float]] = {
            "seconds of training": (lambda record: record.training_seconds, self._seconds / 100),
            "iterations": (lambda record: record.iteration, 1.0),
        }
        shown = [trial for trial in self.best_trials() if trial.history]
        charts = [
            Chart(
                f"{value} against {place}",
                place,
                [Curve(t.entry.name, list(map(x, t.history)), list(map(y, t.history)), k) for k, t in enumerate(shown)],
                log=True,
                linear_x=linear,
            )
            for value, y in values.items()
            for place, (x, linear) in places.items()
        ]
        save(Panels("; ".join(self.header()[:2]), charts, (790.0, 530.0)), path, "the picture of the comparison")


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
