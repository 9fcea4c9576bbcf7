"""Progress of a run: a header, a line for each iteration or a live one, and a table at the end; on rank 0 only."""

from __future__ import annotations

import itertools
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from distnewton.method.records import IterationRecord
from distnewton.models.metrics import LOWER_IS_BETTER, main_metric, metric_text
from distnewton.parallel.partition import splits_title
from distnewton.printable import printable
from distnewton.reporting.headline import share_of_cores
from distnewton.reporting.slowest import slowest_rank
from distnewton.reporting.stragglers import Stragglers
from distnewton.reporting.totals import Totals
from distnewton.runs.summary import Machine, Result, RunSummary

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

_COLUMNS = (
    "iter", "objective", "|grad|", "lambda", "rho", "step", "CG", "stopped", "train", "valid", "test",
    "seconds", "wait", "left",
)  # fmt: skip
_LAST = 10
"""Number of iterations from which the remaining time is estimated."""


class Progress:
    """Shows a run: by a live bar on a terminal, by plain lines without carriage returns in a batch job's log.

    Parameters
    ----------
    console : rich.console.Console
        Console to print on; colours are used only if it is a terminal.
    live : bool
        Whether to show a moving bar in place of a line for each iteration.
    """

    def __init__(self, console: Console, *, live: bool = False) -> None:
        self._console, self._is_live = console, live
        self._task = ""
        self._columns: list[str] = []
        self._times: list[float] = []
        self._live: Live | None = None
        self._record: IterationRecord | None = None
        self._stragglers = Stragglers([])

    def start(self, summary: RunSummary) -> None:
        """Show the summary of the run."""
        self._task, self._config = summary.task.name, summary.config
        machine = summary.machine
        shared = share_of_cores(machine.n_ranks, machine.n_cores)
        self._stragglers = Stragglers(machine.hosts, machine.crowding)
        # leave out columns that would be empty
        self._columns = [name for name in _COLUMNS if name != "valid" or summary.validation]
        notes = [f"{shared}: ranks wait for each other"] if shared else []
        for name, text in [*_header(summary).items(), *(("note", note) for note in [*notes, *summary.notes])]:
            if text:
                self._print(f"{name:<8} {text}")
        if self._is_live:
            self._begin_live()

    def _begin_table(self, record: IterationRecord) -> None:
        """Print the names of the columns, and of the metric if it is not the accuracy."""
        sets = {"train": record.train, "valid": record.validation, "test": record.test}
        measured: dict[str, list[str]] = {}
        for name in self._columns:
            if name in sets:
                measured.setdefault(main_metric(self._task, sets[name]), []).append(name)
        if [*measured] != ["accuracy"]:
            words = (f"{', '.join(names)}: {metric}" for metric, names in measured.items())
            self._print(f"{'columns':<8} {'; '.join(words)}")
        first, second, *rest = self._columns
        self._print(f"{first:>5} {second:>12} " + " ".join(f"{name:>8}" for name in rest))

    def iteration(self, record: IterationRecord) -> None:
        """Show the iteration."""
        if self._record is None and not self._is_live:
            self._begin_table(record)
        self._record, self._shown_at = record, time.monotonic()
        self._times.append(record.elapsed_seconds)
        if self._live is not None:
            if record.note:
                self._console.print(f"iteration {record.iteration}: {record.note}", highlight=False, markup=False)
            self._live.refresh()
            return
        note = f"  {record.note}" if record.note else ""
        cells = " ".join(f"{cell:>8}" for cell in self._cells(record))
        self._print(f"{record.iteration:>5} {record.objective:>12.6g} {cells}{note}")
        slow = self._stragglers.look(record)
        if slow:
            self._print(f"note     {slow}")

    def _cells(self, record: IterationRecord) -> list[str]:
        """Return the texts of the columns after iteration and objective."""
        direction = record.direction
        stopped = f"{len(direction.inner_iterations) - len(direction.finished_ranks)}" if direction else ""
        return [
            _number(record.gradient_norm, ".2e"),
            _number(record.damping if direction else None, ".2e"),
            _number(record.reduction_ratio, ".2f"),
            _number(record.step_size if direction else None, "g"),
            _steps(record),
            stopped,
            self._format(record.train),
            *([self._format(record.validation)] if "valid" in self._columns else []),
            self._format(record.test),
            f"{record.training_seconds:.2f}",
            f"{record.seconds.get('wait', 0.0):.3f}",
            _clock(self._left()),
        ]

    def finish(self, result: Result) -> None:
        """Show the table of the run, and the rank for which the others waited."""
        from rich.table import Table

        self.close()
        table = Table(title="run", show_header=False, title_justify="left")
        for name, value in _summary_rows(result):
            table.add_row(name, value)
        self._console.print(table)
        machine = result.summary.machine
        slowest = slowest_rank(result.history, machine.crowding)
        if slowest is not None:
            self._print(f"note     {slowest.text(machine.hosts)}")

    def close(self) -> None:
        """End the live bar, even after an error."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _begin_live(self) -> None:
        from rich.live import Live

        self._shown_at = time.monotonic()
        # only twice a second: the drawing thread takes time from this rank, for which the others would wait
        self._live = Live(get_renderable=self._bar, console=self._console, refresh_per_second=2, transient=True)
        self._live.start()
        # a job that MPI ends could not restore the cursor
        self._console.show_cursor(True)

    def _bar(self) -> RenderableType:
        """Make the live bar: the share done, and the figures of the last iteration."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        record, config = self._record, self._config
        if record is None:
            return Text("evaluating the start")
        since = time.monotonic() - self._shown_at
        left = self._left()
        line = Table.grid(padding=(0, 1))
        done = max(record.iteration / max(1, config.run.n_iterations), record.training_seconds / config.run.seconds)
        line.add_row(
            Text(f"iteration {config.run.of_iterations(record.iteration, '/')}"),
            ProgressBar(total=1.0, completed=min(1.0, done), width=30),
            Text(f"{_clock(record.elapsed_seconds + since)} gone"),
            Text("" if left is None else f"about {_clock(max(0.0, left - since))} left"),
        )
        rows = _packed(self._figures(record), self._console.width)
        return Group(line, *(Text(row, overflow="ellipsis", no_wrap=True) for row in rows))

    def _figures(self, record: IterationRecord) -> list[str]:
        """List the figures of an iteration for the live bar, the most important first."""
        figures = [f"objective {record.objective:.5g}"]
        for name, metrics in (("validation", record.validation), ("test", record.test), ("train", record.train)):
            if text := self._format(metrics):
                figures.append(f"{name} {main_metric(self._task, metrics)} {text}")
                break
        if record.gradient_norm is not None:
            figures.append(f"|grad| {record.gradient_norm:.2e}")
        if record.direction is not None:
            figures += [f"lambda {record.damping:.2g}", f"CG {_steps(record)}"]
        compute = sum(record.compute_seconds) / max(1, len(record.compute_seconds))
        figures.append(f"compute {compute:.2f} s")
        if len(record.compute_seconds) > 1:
            figures.append(f"wait {record.seconds.get('wait', 0.0):.2f} s")
        return figures

    def _left(self) -> float | None:
        """Estimate the seconds to the last iteration, or to an earlier limit; None before there are two records."""
        record, run, recent = self._record, self._config.run, self._times[-_LAST - 1 :]
        if record is None or len(recent) < 2:
            return None
        typical = statistics.median(b - a for a, b in itertools.pairwise(recent))
        return min(
            typical * (run.n_iterations - record.iteration),
            max(0.0, run.seconds - record.training_seconds),
            max(0.0, run.max_seconds - record.elapsed_seconds),
        )

    def _format(self, metrics: dict[str, float]) -> str:
        metric = main_metric(self._task, metrics)
        value = metrics.get(metric)
        if value is None:
            return ""
        return f"{value:.4g}" if metric in LOWER_IS_BETTER else f"{100 * value:.2f}%"

    def _print(self, line: str) -> None:
        print(printable(line), file=self._console.file, flush=True)


def _packed(figures: Sequence[str], width: int) -> list[str]:
    """Arrange figures in as few lines as the width of a terminal allows, without breaking any."""
    rows = [figures[0]]
    for figure in figures[1:]:
        longer = f"{rows[-1]} · {figure}"
        rows[-1:] = [longer] if len(longer) <= width else [rows[-1], figure]
    return rows


def _header(summary: RunSummary) -> dict[str, str]:
    """Describe the run by subject; subjects that do not apply are empty."""
    config, machine, cut = summary.config, summary.machine, summary.partition
    method = f"{config.method.title}; {config.run.dtype}"
    return {
        "data": _data(summary),
        "network": f"{summary.shape}, {config.network.activation}, {config.network.loss}: "
        f"{summary.shape.n_params:,} variables",
        "ranks": _listed(
            f"{machine.n_ranks}", f"splits {splits_title(cut.splits, machine.n_replicas, cut.block_splits)}"
            + _speeds(cut.speeds), f"{machine.n_threads} BLAS thread(s) each", machine.mpi_library,
        ),
        "device": _devices(machine) if config.run.device != "cpu" else "",
        "method": _listed(method, summary.transport and f"early termination by {summary.transport}"),
    }  # fmt: skip


def _listed(*parts: str) -> str:
    """Join the parts that are not empty with commas."""
    return ", ".join(filter(None, parts))


def _data(summary: RunSummary) -> str:
    """Describe the samples of each set, the features, and the place of the labels."""
    data, n_train = summary.train, summary.config.data.n_train
    others = {"validation": summary.validation, "test": summary.test}
    samples = f"{n_train:,} of {data.n_samples:,} samples" if n_train else f"{data.n_samples:,} samples"
    kind = "sparse" if data.n_nonzeros and data.sparse_format else "dense"
    return f"{data.name}: " + _listed(
        samples,
        *(f"{which} {found.n_samples:,}" for which, found in others.items() if found),
        f"{data.n_features:,} features ({'genotypes' if data.packed else f'{kind} file'})",
        f"labels in column {data.names.label}" if data.names else "",
    )


def _speeds(speeds: Sequence[float]) -> str:
    """Write the relative speeds of the first ranks, if they differ."""
    shown = " ".join(f"{speed:g}" for speed in speeds[:8])
    return f" (speeds {shown}{' ...' if len(speeds) > 8 else ''})" if speeds else ""


def _devices(machine: Machine) -> str:
    """Describe the devices of the ranks, and how their arrays are summed."""
    counts = Counter(machine.devices)
    names = [name if count == 1 else f"{count} x {name}" for name, count in counts.items()]
    more = f", ... ({len(names)} kinds)" if len(names) > 4 else ""
    way = f"; {machine.device_transport}" if machine.device_transport else ""
    return ", ".join(names[:4]) + more + way


def _summary_rows(result: Result) -> list[tuple[str, str]]:
    """Make the rows of the closing table."""
    last, start = result.last, result.history[0]
    rows = [
        ("iterations", str(last.iteration)),
        ("seconds", f"{last.training_seconds:.2f}"),
        ("objective", f"{start.objective:.6g} -> {last.objective:.6g}"),
    ]
    rows += [("ended", result.ended)] if result.ended else []
    measured = {"train": last.train, "validation": last.validation, "test": last.test}
    if result.best is not None:
        best = result.best
        rows.append(("model", f"of iteration {best.iteration}, the best by validation {best.metric}"))
        measured = best.metrics
    for name, metrics in measured.items():
        rows += [(f"{name} {key}", metric_text(key, value)) for key, value in metrics.items()]
    return rows + (_traffic_rows(result) if result.summary.machine.n_ranks > 1 else [])


def _traffic_rows(result: Result) -> list[tuple[str, str]]:
    """Make rows on the waiting and the traffic of several ranks."""
    # the first record of a resumed run belongs to an earlier launch
    own = result.history if result.summary.checkpoint is None else result.history[1:]
    n = len(result.history) - 1
    if not n:
        return []
    totals = Totals.of(own, result.history[0].training_seconds if len(own) < len(result.history) else 0.0)
    return [
        ("waiting in MPI, a rank", totals.waiting),
        ("sent by all ranks", totals.traffic),
        ("directions ended early", f"{totals.n_early} of {totals.n_directions}"),
    ]


def _steps(record: IterationRecord) -> str:
    """Write the CG steps of the ranks: one number, or the least and the most."""
    if record.direction is None:
        return ""
    least, most = min(record.direction.inner_iterations), max(record.direction.inner_iterations)
    return f"{least}-{most}"


def _clock(seconds: float | None) -> str:
    """Write seconds as 0:07, 12:30 or 3:04:05."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _number(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)
