"""What a run shows: a header, a line an iteration, a table at the end; on rank 0 only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distnewton.reporting.stragglers import Stragglers
from distnewton.training.metrics import MAIN_METRIC
from distnewton.training.records import IterationRecord
from distnewton.training.session import Result, RunSummary

if TYPE_CHECKING:
    from rich.console import Console

_COLUMNS = ("iter", "objective", "|grad|", "lambda", "rho", "step", "CG", "stopped", "train", "test", "seconds", "wait")


class Progress:
    """Follows a run on the terminal, or in a batch job's log: plain lines, no carriage returns.

    Parameters
    ----------
    console : rich.console.Console
        Where to; colours only if it is a terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._metric = ""
        self._stragglers = Stragglers([])

    def start(self, summary: RunSummary) -> None:
        """Show what is about to run."""
        data, partition, config = summary.train, summary.partition, summary.config
        self._metric = MAIN_METRIC[summary.task.name]
        self._stragglers = Stragglers(summary.hosts)
        test = f", test {summary.test.n_samples:,}" if summary.test else ""
        splits = "-".join(map(str, partition.splits))
        kind = "sparse" if data.n_nonzeros and data.sparse_format else "dense"
        n_train = f"{config.data.n_train:,} of " if config.data.n_train else ""
        lines = [
            f"data     {data.name}: {n_train}{data.n_samples:,} samples{test}, "
            f"{data.n_features:,} features ({kind} file)",
            f"network  {summary.shape}, {config.network.activation}, {config.network.loss}: "
            f"{summary.shape.n_params:,} variables",
            f"ranks    {summary.n_ranks}, splits {splits}, {summary.n_threads} BLAS thread(s) each"
            + (f", {summary.mpi_library}" if summary.mpi_library else ""),
            f"method   {config.method.title}; {config.run.dtype}"
            + (f", early termination by {summary.transport}" if summary.transport else ""),
        ]
        for line in [*lines, *(f"note     {note}" for note in summary.notes)]:
            self._print(line)
        self._print(f"{_COLUMNS[0]:>5} {_COLUMNS[1]:>12} " + " ".join(f"{name:>8}" for name in _COLUMNS[2:]))

    def iteration(self, record: IterationRecord) -> None:
        """Show one line."""
        direction = record.direction
        steps = f"{min(direction.inner_iterations)}-{max(direction.inner_iterations)}" if direction else ""
        stopped = f"{len(direction.inner_iterations) - len(direction.finished_ranks)}" if direction else ""
        cells = [
            _number(record.gradient_norm, ".2e"),
            _number(record.damping if direction else None, ".2e"),
            _number(record.reduction_ratio, ".2f"),
            _number(record.step_size if direction else None, "g"),
            steps,
            stopped,
            self._format(record.train),
            self._format(record.test),
            f"{record.elapsed_seconds:.2f}",
            f"{record.seconds.get('wait', 0.0):.3f}",
        ]
        note = f"  {record.note}" if record.note else ""
        self._print(f"{record.iteration:>5} {record.objective:>12.6g} " + " ".join(f"{c:>8}" for c in cells) + note)
        slow = self._stragglers.look(record)
        if slow:
            self._print(f"note     {slow}")

    def finish(self, result: Result) -> None:
        """Show the table of the run."""
        from rich.table import Table

        table = Table(title="run", show_header=False, title_justify="left")
        for name, value in _summary_rows(result):
            table.add_row(name, value)
        self._console.print(table)

    def _format(self, metrics: dict[str, float]) -> str:
        value = metrics.get(self._metric)
        if value is None:
            return ""
        return f"{value:.4g}" if self._metric == "rmse" else f"{100 * value:.2f}%"

    def _print(self, line: str) -> None:
        print(line, file=self._console.file, flush=True)


def _summary_rows(result: Result) -> list[tuple[str, str]]:
    """What the closing table says."""
    last, start = result.last, result.history[0]
    n = len(result.history) - 1
    rows = [
        ("iterations", str(last.iteration)),
        ("seconds", f"{last.elapsed_seconds:.2f}"),
        ("objective", f"{start.objective:.6g} -> {last.objective:.6g}"),
    ]
    for name, metrics in (("train", last.train), ("test", last.test)):
        rows += [(f"{name} {key}", f"{value:.4f}") for key, value in metrics.items()]
    if n and result.summary.n_ranks > 1:
        wait = sum(sum(r.wait_seconds) for r in result.history) / result.summary.n_ranks
        sent = sum(sum(r.sent_bytes.values()) for r in result.history)
        stopped = sum(r.direction.stopped_early for r in result.history if r.direction)
        rows += [
            ("waiting in MPI", f"{wait:.2f} s a rank"),
            ("sent by all ranks", f"{sent / 1e6:.1f} MB"),
            ("directions ended early", f"{stopped} of {n}"),
        ]
    return rows


def _number(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)
