"""Save a run while it proceeds, keep some of its checkpoints, and resume it."""

from __future__ import annotations

import math
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from distnewton.backend import to_host
from distnewton.checkpoint.folder import list_checkpoints, next_sequence, prune, remove_leftovers
from distnewton.checkpoint.manifest import CheckpointFacts, CheckpointManifest, partition_of
from distnewton.checkpoint.reading import choose_checkpoint, read_state
from distnewton.checkpoint.writing import make_home, write_checkpoint
from distnewton.config import Config
from distnewton.errors import CreateError, DataError, MissingInputError, WriteError
from distnewton.frozen import frozen
from distnewton.launch.deadline import Clock
from distnewton.method.records import IterationRecord, plain
from distnewton.method.trainer import Trainer
from distnewton.models.metrics import LOWER_IS_BETTER, MAIN_METRIC
from distnewton.network.network import PartitionedNetwork
from distnewton.parallel.partition import splits_title
from distnewton.runs.resume_check import differences, run_identity, state_bytes
from distnewton.runs.setup import Setup

Resume = bool | Literal["auto"]
"""Whether a run resumes from its newest checkpoint; ``auto``: if there is one."""
SHARE = 0.01
"""Share of the time that saving may take, unless the user wants a checkpoint after each iteration."""
N_FREE = 3
"""Number of checkpoints that must fit on the disk when a run begins."""
_FIRST_RATE = 1e8
"""Bytes a second assumed for writing the first checkpoint."""


@runtime_checkable
class Durable(Protocol):
    """An observer that keeps a history on disk, which must be there before a checkpoint that relies on it."""

    def sync(self) -> None:
        """Write all records so far to disk; called on every rank."""
        ...


@frozen
class KeeperSettings:
    """Settings of checkpoints: what is saved, and how often.

    Attributes
    ----------
    folder : Path
        Folder of the checkpoints, visible to all ranks.
    n_keep : int
        Number of last checkpoints that are kept; 0 saves none.
    seconds : float
        Time between checkpoints; 0: after each iteration.
    n_bytes : float
        Approximate size of a checkpoint, over all ranks.
    task : str
        Task, which decides the metric that marks the best checkpoint.
    data : str
        Name of the training data, for messages.
    identity : mapping
        Properties that must be the same when the run resumes.
    """

    folder: Path
    n_keep: int
    seconds: float
    n_bytes: float
    task: str
    data: str
    identity: Mapping[str, Any]


@frozen
class _Saved:
    """The newest checkpoint."""

    iteration: int = -1
    at: float = 0.0  # seconds of the run at which it was complete
    seconds: float = 0.0  # time that saving it took
    following: int = 0  # number of the next checkpoint


class CheckpointKeeper:
    """Saves a run as it proceeds, and resumes it.

    Parameters
    ----------
    settings : KeeperSettings
        What is saved, and how often.
    network : PartitionedNetwork
        The network on its grid.
    trainer : Trainer
        The trainer whose state is saved.
    clock : Clock or None
        Clock that is told how long saving takes.

    Attributes
    ----------
    path : Path or None
        Newest checkpoint of this run.
    record : IterationRecord or None
        Record of the checkpoint from which the run resumes; None for a new run.

    Notes
    -----
    All methods are collective over the grid. Decisions come from numbers that are the same on all ranks.
    """

    def __init__(
        self, settings: KeeperSettings, network: PartitionedNetwork, trainer: Trainer, clock: Clock | None
    ) -> None:
        self._settings, self._network, self._trainer, self._clock = settings, network, trainer, clock
        self._run, self._saved = "", _Saved()
        self._observers: list[Durable] = []
        self._last: IterationRecord | None = None
        self.path: Path | None = None
        self.record: IterationRecord | None = None

    def begin(self, resume: Resume, observers: Sequence[object]) -> list[str]:
        """Restore the trainer, or check that the folder is free; check in both cases that the disk has room.

        Parameters
        ----------
        resume : bool or "auto"
            Whether to resume.
        observers : sequence
            Those that are :class:`Durable` are synced before each checkpoint.

        Returns
        -------
        list of str
            Notes to the user.

        Raises
        ------
        MissingInputError
            If there is nothing to resume from.
        DataError
            If the checkpoints are damaged, belong to another network, data or method, or come from a newer version.
        CreateError
            If the folder holds another run's checkpoints.
        WriteError
            If fewer than 3 checkpoints fit on the disk.
        """
        self._observers = [observer for observer in observers if isinstance(observer, Durable)]
        notes = self._restore(resume) if resume else []
        if not self._settings.n_keep:
            return notes
        following, self._run, shared_notes = self._network.grid.world.on_first(
            lambda: [self._claim(notes), self._run or secrets.token_hex(8), notes]
        )
        self._saved = replace(self._saved, following=following)
        if self._clock is not None:
            self._clock.saved(self._settings.n_bytes / _FIRST_RATE)
        return list(shared_notes)

    def _claim(self, notes: list[str]) -> int:
        """Check the folder and the disk, on rank 0; return the number of the next checkpoint."""
        folder = self._settings.folder
        checkpoints = list_checkpoints(folder)
        if not self._run and any(checkpoint.manifest is not None for checkpoint in checkpoints):
            raise CreateError(f"{folder} holds the checkpoints of another run: resume it, or choose another folder")
        notes += remove_leftovers(folder)
        disk = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
        free, needed = shutil.disk_usage(disk).free, N_FREE * self._settings.n_bytes
        if free < needed:
            raise WriteError(
                f"{folder}: {free / 1e6:,.3g} MB are free, but {N_FREE} checkpoints of this run need "
                f"{needed / 1e6:,.3g} MB; free some space, choose another --run-dir, or save none "
                "(run.keep_checkpoints = 0)"
            )
        make_home(folder)
        return next_sequence(checkpoints)

    def _restore(self, resume: Resume) -> list[str]:
        """Restore the newest checkpoint; return notes."""
        folder = self._settings.folder
        try:
            path, manifest, problems = choose_checkpoint(folder, self._network.grid.world)
        except MissingInputError:
            if resume != "auto":
                raise
            return [f"there is no checkpoint in {folder}: the run starts anew"]
        self._compare(path, manifest)
        layout = self._network.layout
        state = read_state(path, manifest, self._network.grid, layout)
        self._trainer.restore(state.moved(self._network.backend.library.to_device))
        self._run, self.path, self.record = manifest.run, path, IterationRecord.from_dict(manifest.record)
        self._last, self._saved = self.record, _Saved(self.record.iteration, self.record.elapsed_seconds)
        notes = [f"a damaged checkpoint is skipped: {problem}" for problem in problems]
        now, then = self._network.grid.partition.cut_of_blocks, partition_of(manifest).cut_of_blocks
        notes.append(f"resumes from iteration {manifest.iteration} ({path.name} of {manifest.saved_at})")
        if now != then:
            shown = splits_title(manifest.splits) + (" and other speeds" if now[1] != then[1] else "")
            shown += " and other files of ranks" if now[2] != then[2] else ""
            notes.append(f"saved with splits {shown}: the state of each rank's own blocks starts anew")
        return notes

    def _compare(self, path: Path, manifest: CheckpointManifest) -> None:
        """Refuse a checkpoint of another run, with the differences."""
        lines = list(differences(manifest.identity, self._settings.identity))
        if lines:
            raise DataError(
                f"{path} is of another run:\n" + "\n".join(f"  {line}" for line in lines) + "\n"
                f"resume with the settings and data of that run (the data are now {self._settings.data}), or "
                "train in another folder; network.start can begin with its model",
                collective=True,
            )

    def rebind(self, trainer: Trainer) -> None:
        """Switch to another trainer of the same run, whose partition has changed."""
        self._trainer, self._network = trainer, trainer.objective.network

    def follow(self, record: IterationRecord) -> None:
        """Save if a checkpoint is due, after all observers have seen the iteration."""
        self._last = record
        seconds = self._settings.seconds
        interval = max(seconds, self._saved.seconds / SHARE) if seconds else 0.0
        if record.elapsed_seconds - self._saved.at >= interval:
            self._save(record)

    def finish(self) -> None:
        """Save the end of a run: its last iteration, or the one after which it was stopped."""
        if self._last is not None and self._last.iteration != self._saved.iteration:
            self._save(self._last)

    def _save(self, record: IterationRecord) -> None:
        """Write a checkpoint, then remove old ones."""
        settings, start = self._settings, time.monotonic()
        # once training has diverged, the previous checkpoint is the one to resume from, with other settings
        if not settings.n_keep or self._trainer.diverged:
            return
        for observer in self._observers:
            observer.sync()
        name = MAIN_METRIC[settings.task]
        metric = (record.validation or record.test or record.train).get(name, math.nan)
        facts = CheckpointFacts(
            run=self._run,
            sequence=self._saved.following,
            iteration=record.iteration,
            identity=dict(settings.identity),
            dtype=self._network.backend.dtype.name,
            record=plain(record.as_dict()),
            metric=metric if math.isfinite(metric) else None,
        )
        state = self._trainer.state().moved(to_host)
        self.path = write_checkpoint(settings.folder, self._network.grid, self._network.layout, state, facts)
        comm = self._network.grid.world
        with comm.collective_errors():
            if comm.rank == 0:
                prune(settings.folder, self._run, settings.n_keep, lower_is_better=name in LOWER_IS_BETTER)
        # one rank's clock decides when the next one is due
        (seconds,) = comm.broadcast_json([time.monotonic() - start])
        following = self._saved.following + 1
        self._saved = _Saved(record.iteration, record.elapsed_seconds + seconds, seconds, following)
        if self._clock is not None:
            self._clock.saved(seconds)


def keeper_of_run(
    config: Config, setup: Setup, trainer: Trainer, checkpoints: str | Path | None, clock: Clock | None
) -> CheckpointKeeper:
    """Make the keeper that saves and resumes a run; without a folder it saves nothing."""
    network = setup.training.objective.network
    n_bytes = state_bytes(
        config.method,
        network.shape,
        network.grid.partition,
        network.backend.dtype.itemsize,
        n_more=int("validation" in setup.data.held_out),
    )
    settings = KeeperSettings(
        Path(checkpoints or ""),
        0 if checkpoints is None else config.run.keep_checkpoints,
        60.0 * config.run.checkpoint_minutes,
        n_bytes,
        setup.data.task.name,
        setup.data.train.name,
        run_identity(config, setup.placement.architecture, setup.data, setup.training, setup.start),
    )
    return CheckpointKeeper(settings, network, trainer, clock)
