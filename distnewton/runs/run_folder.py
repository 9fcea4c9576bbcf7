"""The folder of a run: configuration, environment, a line for each iteration, and the model.

Many jobs may begin at the same time on one file system. A process takes a name by creating the folder, and a folder by
creating its metrics file; the file system lets only one process do either.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distnewton.checkpoint.files import put
from distnewton.checkpoint.folder import CHECKPOINTS_FOLDER, clear, has_checkpoints
from distnewton.config import to_toml
from distnewton.errors import CreateError, DataError, MissingInputError
from distnewton.files import parse_json, possible_path
from distnewton.guards.failures import ERRORS_FOLDER, forget, replace
from distnewton.launch.threads import blas_libraries
from distnewton.method.records import IterationRecord, plain
from distnewton.models.model_file import MODEL_FILE
from distnewton.outputs import check_folder, whole, writing
from distnewton.packages import version
from distnewton.parallel.partition import Partition

if TYPE_CHECKING:
    from distnewton.runs.summary import RunSummary

CONFIG_FILE, ENVIRONMENT_FILE, METRICS_FILE = "config.toml", "environment.json", "metrics.jsonl"
PICTURE_FILE, END_FILE, PREDICTIONS_FILE = "convergence.png", "end.json", "predictions.json"
GAP = f"{METRICS_FILE} lacks"
REPORT_FILE, REPLACED_FOLDER = "report.html", "replaced"
OWN_FILES = (
    CONFIG_FILE, ENVIRONMENT_FILE, METRICS_FILE, MODEL_FILE, PICTURE_FILE, END_FILE, PREDICTIONS_FILE, REPORT_FILE,
)  # fmt: skip
_UNFINISHED = re.compile(
    rf"({'|'.join(map(re.escape, {*OWN_FILES} - {PICTURE_FILE, REPORT_FILE}))})(\.[0-9a-f]{{8}})?\.part"
)
"""Files that only the process with the lock writes; another one may be writing a report of the run."""
OWN_NAMES = (*OWN_FILES, CHECKPOINTS_FOLDER, REPLACED_FOLDER, ERRORS_FOLDER)
_ATTEMPTS = 20
_NO_LOCKS = (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL)
"""Errors of file systems that cannot lock files."""
_PACKAGES = ("distnewton", "numpy", "scipy", "mpi4py", "safetensors", "pydantic")


class RunFolder:
    """The folder of a run that is being written; on rank 0 only.

    Parameters
    ----------
    path : Path
        The folder, which is created with its parents.
    overwrite : bool
        Whether to replace an earlier run there, with its checkpoints. Its files move to the subfolder ``replaced``
        until the first record of the new run is written; if the new run never begins, they move back.
    resume : bool
        Whether to resume the earlier run there.
    made : sequence of Path
        Parent folders that were created for this run, the innermost first.

    Raises
    ------
    CreateError
        If the folder cannot be created, or holds another run, even one that begins or resumes at the same moment.
    """

    def __init__(
        self, path: Path, *, overwrite: bool = False, resume: bool = False, made: Sequence[Path] = ()
    ) -> None:
        check_folder(possible_path(path))
        self.path = path
        self._metrics: FileIO | None = None
        self._made = [folder for folder in (path, *path.parents) if not folder.exists()]
        self._made += made
        try:
            if resume:
                self._open_metrics("a")
            else:
                self._claim(overwrite)
        except OSError as error:
            raise CreateError(f"cannot create the run folder {path}: {error.strerror or error}") from None

    @classmethod
    def under_free_name(cls, name: str) -> RunFolder:
        """Take the first of runs/NAME-001, runs/NAME-002, ... that is free."""
        path = next_folder(name)
        return cls(path, made=[path, path.parent])

    def _claim(self, overwrite: bool) -> None:
        """Create the folder, and the metrics file that marks it as taken."""
        _make(self.path)
        present = files_of_run(self.path)
        if present and not overwrite:
            raise CreateError(
                f"{self.path} holds an earlier run ({', '.join(present)}): choose another --run-dir, resume it by "
                "--resume, or replace it with --set run.overwrite=true"
            )
        if present:
            self._open_metrics("a")
            # the lock showed that no process trains this run, so the files to move are not a running run's
            self.close()
            set_aside(self.path)
        forget(self.path)
        try:
            self._open_metrics("x")
        except FileExistsError:
            raise CreateError(
                f"{self.path} was taken by another run that began at the same moment: choose another --run-dir"
            ) from None

    def _open_metrics(self, mode: Literal["a", "x"]) -> None:
        """Open the metrics file and lock it, to keep other processes from this run while the file is open."""
        file = self.path / METRICS_FILE
        # unbuffered: closing a buffered file would write again what could not be written before
        self._metrics = FileIO(file, mode)
        # the previous holder of the lock may have replaced the file after it was opened here
        if not _lock(self._metrics) or os.fstat(self._metrics.fileno()).st_ino != file.stat().st_ino:
            self.close()
            raise CreateError(f"{self.path}: another process is training this run now")
        for path in self.path.iterdir():
            if _UNFINISHED.fullmatch(path.name):
                # a killed process was writing it
                path.unlink(missing_ok=True)

    def start(self, summary: RunSummary) -> None:
        """Write what is known before training; if the run resumes, cut the records after its checkpoint."""
        self._write(CONFIG_FILE, to_toml(summary.config))
        self._write(ENVIRONMENT_FILE, json.dumps(environment(summary), indent=2) + "\n")
        if summary.checkpoint is not None:
            summary.notes += filter(None, [self._match_records(summary.checkpoint)])
            forget(self.path)
            (self.path / END_FILE).unlink(missing_ok=True)

    def _match_records(self, checkpoint: IterationRecord) -> str:
        """Keep one record for each iteration up to a checkpoint's; return a note on missing ones."""
        if self._metrics is None:
            raise RuntimeError("a resumed run has its metrics open")
        file, part = self.path / METRICS_FILE, self.path / f"{METRICS_FILE}.part"
        present = file.read_text(encoding="utf-8", errors="replace")
        records = keep_records(present, checkpoint.iteration)
        records.setdefault(checkpoint.iteration, checkpoint.to_json())
        kept = "".join(f"{record}\n" for record in records.values())
        gap = gap_note(list(records))
        if kept == present:
            return gap
        with writing(file):
            stream = FileIO(part, "w")
            # lock the new file before it gets its name, and release the old one after that
            _lock(stream)
            put(stream.fileno(), memoryview(kept.encode()))
            os.fsync(stream.fileno())
            part.replace(file)
            self.close()
            self._metrics = stream
        return gap

    def sync(self) -> None:
        """Flush the metrics to disk."""
        if self._metrics is not None:
            with writing(self.path / METRICS_FILE):
                os.fsync(self._metrics.fileno())

    def iteration(self, record: IterationRecord) -> None:
        """Append the line of an iteration, unbuffered."""
        if self._metrics is None:
            raise RuntimeError("the run folder was closed")
        with writing(self.path / METRICS_FILE):
            put(self._metrics.fileno(), memoryview(f"{record.to_json()}\n".encode()))
            drop_replaced(self.path)

    def predictions(self, summary: dict[str, Any]) -> None:
        """Write the summary of the final predictions (:mod:`~distnewton.models.predictions`)."""
        self._write(PREDICTIONS_FILE, json.dumps(plain(summary), allow_nan=False) + "\n")

    def discard(self) -> None:
        """Give up a run that never began: move back what it replaced, and remove empty folders created for it."""
        self.close()
        metrics = self.path / METRICS_FILE
        if metrics.is_file() and metrics.stat().st_size == 0:
            metrics.unlink()
            # this includes what the command that submitted this job set aside
            restore_replaced(self.path)
        for path in self._made:
            try:
                path.rmdir()
            except OSError:
                # the folder is not empty: another run may have begun in it
                return

    def close(self) -> None:
        """Close the metrics."""
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None

    def _write(self, name: str, text: str) -> None:
        with whole(self.path / name) as part:
            part.write_text(text, encoding="utf-8")


def _lock(file: FileIO, kind: int = fcntl.LOCK_EX) -> bool:
    """Lock a file while it is open; return False if another process has it. Some file systems cannot lock."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def is_at_work(path: Path) -> bool:
    """Tell whether a process has a run open; False if the file system cannot lock files."""
    try:
        with FileIO(path / METRICS_FILE) as file:
            return not _lock(file, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


def files_of_run(path: Path) -> list[str]:
    """List the files and folders that a run has left in a folder."""
    present = [name for name in OWN_FILES if (path / name).exists()]
    return present + [CHECKPOINTS_FOLDER] * has_checkpoints(path / CHECKPOINTS_FOLDER)


def set_aside(path: Path) -> None:
    """Move a run's files into the subfolder ``replaced``, where they stay until another run begins.

    Parameters
    ----------
    path : Path
        Run folder.

    Raises
    ------
    WriteError
        If a checkpoint cannot be removed.
    OSError
        If files cannot be moved.
    """
    aside, metrics = path / REPLACED_FOLDER, path / METRICS_FILE
    if files_of_run(aside):
        if not (path / MODEL_FILE).exists() and not (metrics.is_file() and metrics.stat().st_size):
            # these belong to a run that was killed before it began: keep the files that it set aside
            _clear(path)
            return
        _clear(aside)
    aside.mkdir(exist_ok=True)
    _move_run(path, aside)


def restore_replaced(path: Path) -> None:
    """Undo :func:`set_aside`, and remove the files of a run that never began."""
    aside = path / REPLACED_FOLDER
    if files_of_run(aside):
        _clear(path)
        _move_run(aside, path)
        _remove_if_empty(aside)


@contextmanager
def restoring_replaced(path: Path) -> Iterator[None]:
    """Undo :func:`set_aside` if the body of the ``with`` statement fails."""
    try:
        yield
    except BaseException:
        restore_replaced(path)
        raise


def drop_replaced(path: Path) -> None:
    """Remove the files that :func:`set_aside` moved: the run that replaces them has begun."""
    aside = path / REPLACED_FOLDER
    if aside.is_dir():
        _clear(aside)
        _remove_if_empty(aside)


def _remove_if_empty(folder: Path) -> None:
    """Remove a folder unless it holds anything."""
    with suppress(OSError):
        folder.rmdir()


def _move_run(source: Path, target: Path) -> None:
    for name in files_of_run(source):
        (source / name).rename(target / name)


def _clear(path: Path) -> None:
    """Remove a run's own files from a folder, and nothing else."""
    for name in OWN_FILES:
        (path / name).unlink(missing_ok=True)
    clear(path / CHECKPOINTS_FOLDER)


def keep_records(text: str, iteration: int) -> dict[int, str]:
    """Select the lines of metrics up to an iteration: each iteration once, in order, without invalid lines.

    Parameters
    ----------
    text : str
        Content of ``metrics.jsonl``.
    iteration : int
        The last iteration that is kept.

    Returns
    -------
    dict of int to str
        Lines by iteration.
    """
    kept: dict[int, str] = {}
    for line in text.splitlines():
        try:
            number = parse_json(line)["iteration"]
        except (ValueError, KeyError, TypeError):
            continue
        if isinstance(number, int) and number <= iteration:
            # a run that resumed from an older checkpoint repeats iterations: the later line counts
            kept[number] = line
    return dict(sorted(kept.items()))


def gap_note(iterations: Sequence[int]) -> str:
    """Write a note on records that are missing from a history.

    Parameters
    ----------
    iterations : sequence of int
        Iterations of its records.

    Returns
    -------
    str
        The iterations missing before the last one; empty if there are none.
    """
    # a damaged file may name any number: no list of all that are missing
    gaps = [(a + 1, b - 1) for a, b in pairwise(sorted({-1, *iterations})) if b - a > 1]
    shown = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in gaps)
    return f"{GAP} iterations {shown}: lines were cut or removed" if gaps else ""


def free_name(name: str) -> Path:
    """Return the folder that :func:`next_folder` would create now."""
    number = 1
    while os.path.lexists(path := Path("runs") / f"{name}-{number:03d}"):
        number += 1
    return path


def next_folder(name: str) -> Path:
    """Create the first of runs/NAME-001, runs/NAME-002, ... that does not exist.

    Parameters
    ----------
    name : str
        Name of the recipe.

    Returns
    -------
    Path
        The folder; processes that ask at the same time get different ones.

    Raises
    ------
    CreateError
        If folders cannot be created here.
    """
    number = 1
    while True:
        # not by free_name: a network file system may show a new folder only after a while
        path = Path("runs") / f"{name}-{number:03d}"
        try:
            _make(path.parent)
            path.mkdir()
        except FileExistsError:
            number += 1
        except FileNotFoundError:
            # a run that gave up has just removed runs/
            continue
        except OSError as error:
            raise CreateError(f"cannot create the run folder {path}: {error.strerror or error}") from None
        else:
            return path


def _make(path: Path) -> None:
    """Create a folder and its parents, while other processes may create and remove them."""
    for attempt in range(_ATTEMPTS):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, FileNotFoundError):
            # mkdir also fails when another process removes an existing folder at the same moment
            if path.exists() and not path.is_dir():
                raise CreateError(f"cannot create the run folder {path}: there is a file of that name") from None
            if attempt + 1 == _ATTEMPTS:
                raise
        else:
            return


def environment(summary: RunSummary) -> dict[str, Any]:
    """Collect what the results depend on besides the configuration, for ``environment.json``."""
    machine = summary.machine
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": package_versions(),
        "mpi_library": machine.mpi_library,
        "ranks": machine.n_ranks,
        "hosts": machine.hosts,
        "threads_per_rank": machine.n_threads,
        "cores": machine.n_cores,
        "blas": blas_libraries(),
        "splits": list(summary.partition.splits),
        "blocks": list(summary.partition.block_splits),
        "replicas": machine.n_replicas,
        "devices": machine.devices,
        "device_transport": machine.device_transport,
        "slurm": {k: v for k, v in os.environ.items() if k in ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_JOB_NODELIST")},
        **partition_facts(str(summary.shape), summary.partition),
        "resumed_from": None if summary.checkpoint is None else summary.checkpoint.iteration,
    }


def partition_facts(network: str, partition: Partition) -> dict[str, Any]:
    """Describe layers and partition, for ``environment.json``."""
    return {"network": network, "partition": asdict(partition)}


def write_end(path: Path, exit_code: int) -> None:
    """Record the exit code of a run that ended normally: launchers lose codes, and one returned 0 for a lost host."""
    with writing(path / END_FILE):
        replace(path / END_FILE, {"exit_code": exit_code})


def no_run_folder(path: Path, missing: str) -> MissingInputError:
    """Make the error for a folder that is not a run folder.

    Parameters
    ----------
    path : Path
        The folder.
    missing : str
        The file that a run folder would hold.

    Returns
    -------
    MissingInputError
        Marked as collective, since all ranks look at the same folder.
    """
    reason = f"it holds no {missing}" if path.is_dir() else "it is a file" if path.exists() else "it does not exist"
    return MissingInputError(f"{path} is not a run folder: {reason}", collective=True)


def metrics_lines(path: Path) -> tuple[list[str], bool]:
    """Read the lines of metrics of a run, which may still be running or may have been cut off while writing.

    Parameters
    ----------
    path : Path
        Run folder.

    Returns
    -------
    lines : list of str
        Complete lines, without line ends.
    is_torn : bool
        Whether an incomplete last line was left out.

    Raises
    ------
    MissingInputError
        If the folder holds no metrics.
    DataError
        If the metrics cannot be read.
    """
    file = path / METRICS_FILE
    try:
        # the bytes after the last line end may be anything
        whole, end, rest = file.read_bytes().rpartition(b"\n")
        return (whole + end).decode().split("\n")[:-1], bool(rest)
    except FileNotFoundError:
        raise no_run_folder(path, METRICS_FILE) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {error}", collective=True) from None


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Read the records of a run, except an incomplete last one.

    Parameters
    ----------
    path : Path
        Run folder.

    Yields
    ------
    dict
        A line of ``metrics.jsonl``.

    Raises
    ------
    MissingInputError
        If the folder holds no metrics.
    DataError
        If a line is damaged.
    """
    lines, _ = metrics_lines(path)
    for number, line in enumerate(lines, 1):
        try:
            yield parse_json(line)
        except ValueError as error:
            raise DataError(f"{path / METRICS_FILE}:{number}: not a record: {error}", collective=True) from None


def hosts_of(path: Path) -> list[str]:
    """Read the host of each rank of a run; empty if the run did not begin."""
    try:
        hosts: list[str] = parse_json((path / ENVIRONMENT_FILE).read_text(encoding="utf-8"))["hosts"]
    except FileNotFoundError:
        return []
    return hosts


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that the results depend on."""
    return {name: version(name) for name in _PACKAGES}
