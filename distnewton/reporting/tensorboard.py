"""Events of a run for TensorBoard: a number for each curve and iteration."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distnewton.errors import MissingExtraError
from distnewton.method.records import IterationRecord
from distnewton.runs.session import RunSummary

FOLDER = "tensorboard"


class TensorBoard:
    """Observer that writes events to ``RUN/tensorboard`` on rank 0; view them with ``tensorboard --logdir RUN``.

    Parameters
    ----------
    run : Path
        Run folder.

    Raises
    ------
    MissingExtraError
        If tensorboardX is not installed.
    """

    def __init__(self, run: Path) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise MissingExtraError("--tensorboard", "tensorboard") from None
        self._new_writer, self._folder = SummaryWriter, run / FOLDER
        self._writer: Any = None

    def start(self, summary: RunSummary) -> None:
        """Begin the file with a description of the run; remove events of a run that this one replaces."""
        for old in self._folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = self._new_writer(str(self._folder))
        config = summary.config
        data, n_ranks = config.data.title, summary.machine.n_ranks
        text = f"{data}; {summary.shape}; {config.method.title}; {n_ranks} ranks"
        self._writer.add_text("run", text, 0)

    def iteration(self, record: IterationRecord) -> None:
        """Write the numbers of an iteration, without those that are not finite."""
        for name, value in scalars(record):
            if math.isfinite(value):
                self._writer.add_scalar(name, value, record.iteration)
        self._writer.flush()

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._writer is not None:
            self._writer.close()


def scalars(record: IterationRecord) -> Iterator[tuple[str, float]]:
    """Yield names and values of an iteration.

    Parameters
    ----------
    record : IterationRecord
        The iteration.

    Yields
    ------
    tuple of str and float
    """
    yield "objective", record.objective
    yield "loss", record.loss
    for which, metrics in (("train", record.train), ("validation", record.validation), ("test", record.test)):
        yield from ((f"{which}/{name}", value) for name, value in metrics.items())
    if record.gradient_norm is not None:
        yield "gradient_norm", record.gradient_norm
    if record.direction is not None:
        yield "method/damping", record.damping
        yield "method/step_size", record.step_size
        if record.reduction_ratio is not None:
            yield "method/reduction_ratio", record.reduction_ratio
        yield "method/cg_steps_max", max(record.direction.inner_iterations)
        yield "method/cg_steps_min", min(record.direction.inner_iterations)
        yield "method/ranks_stopped", len(record.direction.inner_iterations) - len(record.direction.finished_ranks)
    yield from ((f"seconds/{phase}", seconds) for phase, seconds in record.seconds.items())
    yield "seconds/elapsed", record.elapsed_seconds
    yield "sent_megabytes", sum(record.sent_bytes.values()) / 1e6
