"""What each command of the command line does."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distnewton.config import Config, DataConfig, apply_settings, load_config, make_config, read_settings, to_toml
from distnewton.errors import (
    STOPPED_EARLY,
    ConfigError,
    CreateError,
    DistNewtonError,
    MissingExtraError,
    MissingInputError,
    UsageError,
    WriteError,
)
from distnewton.parallel.collectives import Communicator
from distnewton.parallel.failures import failures
from distnewton.parallel.faults import faults
from distnewton.parallel.launch import guard, launched_size, world_communicator

if TYPE_CHECKING:
    from rich.console import Console

    from distnewton.data.columns import LabelsWanted
    from distnewton.data.description import DataSource, Description
    from distnewton.reporting.comparison import Comparison
    from distnewton.reporting.progress import Progress
    from distnewton.reporting.tensorboard import TensorBoard
    from distnewton.training.checkpoints import Resume
    from distnewton.training.comparison import Entry
    from distnewton.training.records import IterationRecord
    from distnewton.training.run_folder import RunFolder
    from distnewton.training.session import Result, RunSummary

DATA_VARIABLE = "DISTNEWTON_DATA"


def train(options: argparse.Namespace) -> int:
    """Train as configured; rank 0 reads the recipe and its view is everyone's."""
    from distnewton.checkpoint.folder import CHECKPOINTS_FOLDER
    from distnewton.cluster.job import is_waiting
    from distnewton.parallel.deadline import Clock
    from distnewton.parallel.shared_folder import check_visible
    from distnewton.parallel.signals import StopSignals
    from distnewton.reporting.progress import Progress
    from distnewton.reporting.terminal import ends_on_terminal
    from distnewton.training import session

    resume = settle_resumption(options)
    if options.run_dir and is_waiting(Path(options.run_dir)):
        # a job's own folder: what fails before its recipe is read is kept there, too
        failures.folder = Path(options.run_dir)
    comm = world_communicator()
    config = _shared_config(comm, options)
    if options.print_config:
        say(comm, to_toml(config))
        return 0
    guard(comm, config.run.hang_seconds, config.run.warn_seconds, checked=config.run.checked)
    with comm.agreeing():
        faults.at("config")
    live = options.progress == "bar" or (options.progress == "auto" and ends_on_terminal())
    console, folder = _console(watched=live or None), None
    with comm.agreeing():
        folder = _make_folder(config, options.recipe, resume) if comm.rank == 0 else None
    path = Path(comm.broadcast_json(str(folder.path.absolute()) if folder else ""))
    failures.folder = path
    progress = Progress(console, live=live) if comm.rank == 0 else None
    observers: list[Any] = [_FolderWriter(folder)] if folder else []
    if progress and not options.quiet:
        observers.insert(0, progress)
    with _discarding([folder] if folder else []), StopSignals() as signals:
        check_visible(comm, path)
        clock = Clock(comm, config.run.max_seconds, signals)
        checkpoints = path / CHECKPOINTS_FOLDER
        with _closing(progress, *_tensorboard(comm, options, path, observers)):
            result = session.train(
                config, comm, observers=observers, clock=clock, checkpoints=checkpoints, resume=resume
            )
    with comm.agreeing():
        if folder is not None:
            folder.predictions(result.predictions)
    result.model.save(path / "model.safetensors")
    if progress and folder:
        _draw(folder.path, console)
        if not options.quiet:
            progress.finish(result)
            say(comm, f"run folder: {folder.path}")
    result.model.grid.free()
    code = _end(comm, result, config, path)
    if folder:
        folder.close()
    return code


def _tensorboard(
    comm: Communicator, options: argparse.Namespace, path: Path, observers: list[Any]
) -> list[TensorBoard]:
    """Add what writes events for TensorBoard, on rank 0, where that is asked for."""
    writers: list[TensorBoard] = []
    if options.tensorboard:
        with comm.agreeing():
            if comm.rank == 0:
                from distnewton.reporting.tensorboard import TensorBoard

                writers.append(TensorBoard(path))
    observers += writers
    return writers


@contextmanager
def _closing(*followers: Progress | TensorBoard | None) -> Iterator[None]:
    """Close what follows a run, however it ends."""
    try:
        yield
    finally:
        for follower in followers:
            if follower is not None:
                follower.close()


def _end(comm: Communicator, result: Result, config: Config, path: Path) -> int:
    """Say how training ended; code 75 asks the job script to queue the run again."""
    from distnewton.parallel.deadline import Stop
    from distnewton.training.run_folder import write_end

    code = STOPPED_EARLY if result.stopped else 0
    if result.stopped:
        why = "by the clock" if result.stopped is Stop.CLOCK else "by a signal"
        saved = "a checkpoint and the model are" if result.checkpoint else "the model is"
        how = f"; distnewton train --resume {path} goes on" if result.checkpoint else ""
        _tell_once(
            comm,
            f"stopped {why} after iteration {result.last.iteration} of {config.run.iterations}; {saved} saved, exit "
            f"code {code}{how}",
        )
    with comm.agreeing():
        if comm.rank == 0:
            write_end(path, code)
    return code


def compare(options: argparse.Namespace) -> int:
    """Train with several directions; the table is written anew after each, so that a job that is cut leaves some."""
    from distnewton.reporting.comparison import Comparison
    from distnewton.training.comparison import Entry, run_entries
    from distnewton.training.session import Session

    comm = world_communicator()
    trees = _shared_entries(comm, options)
    entries = [Entry(method, name, make_config(tree)) for method, name, tree in trees]
    run = entries[0].config.run
    guard(comm, run.hang_seconds, run.warn_seconds, checked=run.checked)
    with comm.agreeing():
        writers = _entry_folders(entries, options) if comm.rank == 0 else {}
    path = writers[entries[0].name].folder.path.parent if writers else Path()
    with _discarding([writer.folder for writer in writers.values()]):
        session = Session(entries[0].config, comm)
        comparison = Comparison(session.summary(entries[0].config), options.seconds, _levels(options.levels))
        observers = {name: [writer] for name, writer in writers.items()}
        for trial in run_entries(session, entries, observers):
            comparison.trials.append(trial)
            with comm.agreeing():
                if comm.rank == 0:
                    writers[trial.entry.name].folder.close()
                    _write(path / "comparison.md", comparison.markdown())
            say(comm, f"[{len(comparison.trials)}/{len(entries)}] {comparison.line(trial)}")
    if comm.rank == 0:
        _show_comparison(comparison, path)
    session.grid.free()
    return 0


def _shared_entries(comm: Communicator, options: argparse.Namespace) -> list[list[Any]]:
    """The runs as rank 0 reads them, on all ranks."""
    from distnewton.training.comparison import make_entries

    found: dict[str, Any] = {}
    with comm.agreeing():
        if comm.rank == 0:
            if not options.seconds > 0.0:
                raise ConfigError(f"--seconds must be positive, got {options.seconds:g}")
            _levels(options.levels)
            settings = overrides(options)
            tree = apply_settings(read_settings(options.recipe), settings)
            methods = [name.strip() for name in options.directions.split(",") if name.strip()]
            limited = any(setting.startswith("run.iterations=") for setting in settings)
            limit = make_config({"run": tree.get("run", {})}).run.iterations if limited else None
            notes: list[str] = []
            entries = make_entries(tree, methods, options.seconds, limit, notes)
            for note in dict.fromkeys(notes):
                _warn(comm, note)
            found["entries"] = [[entry.method, entry.name, entry.config.model_dump()] for entry in entries]
    shared: list[list[Any]] = comm.broadcast_json(found)["entries"]
    return shared


def _levels(text: str | None) -> list[float]:
    """Metrics whose times are asked for."""
    try:
        return [float(part) for part in (text or "").split(",") if part.strip()]
    except ValueError:
        raise ConfigError(f"--levels takes numbers, as 0.95,0.97, got {text!r}", agreed=True) from None


def _entry_folders(entries: Sequence[Entry], options: argparse.Namespace) -> dict[str, _FolderWriter]:
    """A run folder for each run, inside the comparison's."""
    from distnewton.training.run_folder import RunFolder, next_folder

    recipe = Path(options.recipe).stem if options.recipe else "run"
    path = Path(options.run_dir) if options.run_dir else next_folder(f"compare-{recipe}")
    around = [] if options.run_dir else [path, path.parent]
    more: dict[str, Any] = {"overwrite": entries[0].config.run.overwrite}
    folders = [RunFolder(path / entry.folder, made=around if i == 0 else [], **more) for i, entry in enumerate(entries)]
    return {entry.name: _FolderWriter(folder) for entry, folder in zip(entries, folders, strict=True)}


def _show_comparison(comparison: Comparison, path: Path) -> None:
    """Table, verdicts and picture; a missing extra or a failure to draw never spoils finished runs."""
    console = _console(160)
    console.print(comparison.table())
    for line in comparison.remarks():
        console.print(line, highlight=False, markup=False, emoji=False)
    with _picture_if_possible(console):
        comparison.save_picture(path / "comparison.png")
    print(f"comparison: {path / 'comparison.md'}")


def evaluate(options: argparse.Namespace) -> int:
    """Print the metrics of a model on data."""
    comm = world_communicator()
    model, opener = _load(comm, options)
    found = model.outputs(opener)
    _tell_notes(comm, found[-1])
    metrics = model.metrics(*found)
    unseen = metrics.pop("unseen_labels")
    if unseen:
        _warn(comm, f"labels the model does not know count as wrong: {_counts(unseen)}")
    for name, value in metrics.items():
        say(comm, f"{name} {value:.6g}" if isinstance(value, float) else f"{name} {value}")
    model.grid.free()
    return 0


def predict(options: argparse.Namespace) -> int:
    """Write the predicted labels, a line a sample, in input order."""
    from distnewton.cli.probabilities import check_probabilities, with_probabilities

    comm = world_communicator()
    model, opener = _load(comm, options)
    if options.probabilities:
        check_probabilities(model, options.run, "--probabilities")
    outputs, _, description = model.outputs(opener)
    _tell_notes(comm, description)
    labels = model.architecture.task.labels(outputs)
    if options.probabilities:
        labels = with_probabilities(model, outputs, labels)
    with comm.agreeing():
        if comm.rank == 0:
            text = "".join(f"{label}\n" for label in labels)
            if options.out:
                _write(Path(options.out), text)
            else:
                sys.stdout.write(text)
    model.grid.free()
    return 0


def info(options: argparse.Namespace) -> int:
    """Say what a run was and how it went, without MPI."""
    from distnewton.parallel.launch import launched_rank
    from distnewton.reporting.run_info import describe_run

    if launched_rank() == 0:
        for line in describe_run(Path(options.run)):
            print(line)
    return 0


def why(options: argparse.Namespace) -> int:
    """Say why a run failed, without MPI."""
    from distnewton.parallel.launch import launched_rank
    from distnewton.reporting.why import explain_failure

    if launched_rank() == 0:
        for line in explain_failure(Path(options.run)):
            print(line)
    return 0


@contextmanager
def _discarding(folders: Sequence[RunFolder]) -> Iterator[None]:
    """Remove the folders of runs that an error kept from beginning."""
    try:
        yield
    except DistNewtonError:
        # the first one made the folder around them
        for folder in reversed(folders):
            folder.discard()
        raise


class _FolderWriter:
    """Observer that writes the run folder, on rank 0."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def start(self, summary: RunSummary) -> None:
        from distnewton.training.run_folder import environment, partition_facts

        facts = environment(
            summary.n_ranks,
            summary.n_threads,
            summary.mpi_library,
            summary.hosts,
            summary.partition.splits,
            summary.n_replicas,
            summary.devices,
            summary.device_transport,
        )
        facts |= partition_facts(str(summary.shape), summary.partition)
        self.folder.start(summary.config, {**facts, "resumed_from": summary.resumed}, summary.resumed)

    def iteration(self, record: IterationRecord) -> None:
        self.folder.iteration(record)

    def sync(self) -> None:
        self.folder.sync()


def _shared_config(comm: Communicator, options: argparse.Namespace) -> Config:
    """The configuration of rank 0, on all ranks: a file that differs on one host changes nothing."""
    tree: dict[str, Any] = {}
    with comm.agreeing():
        if comm.rank == 0:
            notes: list[str] = []
            tree = load_config(_recipe(options), overrides(options), notes).model_dump()
            for note in notes:
                _warn(comm, note)
    return make_config(comm.broadcast_json(tree))


def overrides(options: argparse.Namespace) -> list[str]:
    """Settings given as flags, the more specific last."""
    settings = []
    if os.environ.get(DATA_VARIABLE) and not options.data_dir:
        settings.append(f"data.directory={json.dumps(os.environ[DATA_VARIABLE])}")
    settings += [f"{key}={value}" for key, value in vars(options).items() if "." in key and value is not None]
    settings += options.set
    start = getattr(options, "start", None)
    # a run that goes on from another working folder needs it, too
    settings += [f"network.start={json.dumps(str(Path(start).absolute()))}"] if start else []
    settings += [f"data.directory={json.dumps(options.data_dir)}"] if options.data_dir else []
    device = getattr(options, "device", None)
    settings += [f"run.device={json.dumps(device)}"] if device else []
    return settings + ([f"run.directory={json.dumps(options.run_dir)}"] if options.run_dir else [])


def settle_resumption(options: argparse.Namespace) -> Resume:
    """Whether the run goes on; a run folder named there is ``--run-dir``.

    Parameters
    ----------
    options : argparse.Namespace
        Of the command; changed.

    Returns
    -------
    bool or "auto"

    Raises
    ------
    UsageError
        If it is not said, or contradictorily, which run goes on.
    """
    if options.resume is None:
        return False
    if options.resume == "auto":
        return "auto"
    if options.resume:
        run = Path(options.resume)
        if run.suffix == ".toml":
            raise UsageError(f"--resume takes a run folder, not {run}: put the recipe before --resume", agreed=True)
        if options.run_dir and Path(options.run_dir).absolute() != run.absolute():
            raise UsageError(f"--resume {run} and --run-dir {options.run_dir} are two folders", agreed=True)
        options.run_dir = str(run)
    if not (options.recipe or options.run_dir):
        raise UsageError("--resume needs a run folder: --resume RUN, or --run-dir RUN", agreed=True)
    return True


def _recipe(options: argparse.Namespace) -> str | None:
    """The recipe that was named, or the configuration of the run that goes on; on rank 0."""
    from distnewton.checkpoint.folder import CHECKPOINTS_FOLDER, has_checkpoints
    from distnewton.training.run_folder import CONFIG_FILE

    named: str | None = options.recipe
    if named or options.command != "train" or options.resume is None or not options.run_dir:
        return named
    run = Path(options.run_dir)
    if has_checkpoints(run / CHECKPOINTS_FOLDER):
        return str(run / CONFIG_FILE)
    if options.resume == "auto":
        return None
    raise MissingInputError(
        f"there is no checkpoint in {run / CHECKPOINTS_FOLDER} to go on from; --resume=auto begins anew where there "
        "is none"
    )


def _make_folder(config: Config, recipe: str | None, resume: Resume = False) -> RunFolder:
    """Create the run folder, or open that of a run that goes on; a free name under runs/ where none is given."""
    from distnewton.checkpoint.folder import CHECKPOINTS_FOLDER, has_checkpoints
    from distnewton.training.run_folder import RunFolder

    name = Path(recipe).stem if recipe else "run"
    if not config.run.directory:
        if resume is True:
            raise UsageError("--resume needs a run folder: --run-dir, or run.directory in the recipe", agreed=True)
        return RunFolder.under_free_name(name)
    path = Path(config.run.directory)
    if resume and has_checkpoints(path / CHECKPOINTS_FOLDER):
        return RunFolder(path, resume=True)
    if resume is True:
        raise MissingInputError(
            f"there is no checkpoint in {path / CHECKPOINTS_FOLDER} to go on from; --resume=auto begins anew where "
            "there is none"
        )
    if resume:
        return RunFolder(path, overwrite=True)
    return RunFolder(Path(config.run.directory), overwrite=config.run.overwrite)


def _draw(path: Path, console: Console) -> None:
    """Draw the picture; a missing extra or a failure to draw never spoils a finished run."""
    from distnewton.reporting.picture import save_convergence
    from distnewton.training.run_folder import PICTURE_FILE, read_metrics

    with _picture_if_possible(console):
        save_convergence(list(read_metrics(path)), path / PICTURE_FILE, path.name)


@contextmanager
def _picture_if_possible(console: Console) -> Iterator[None]:
    """Tell of a picture that cannot be drawn or written, and go on."""
    try:
        yield
    except (MissingExtraError, OSError) as error:
        console.print(f"no picture: {error}", highlight=False, markup=False, emoji=False)


def _load(comm: Communicator, options: argparse.Namespace) -> tuple[Any, Callable[[], DataSource]]:
    """The model, and how its data is opened: as the training data was."""
    from threadpoolctl import threadpool_limits

    from distnewton.data.same_files import check_same_file
    from distnewton.parallel.threads import threads_per_rank
    from distnewton.training.held_out import opener
    from distnewton.training.model import load_model

    threadpool_limits(threads_per_rank(comm), user_api="blas")
    model = load_model(options.run, comm, options.device)
    for note in model.notes:
        _warn(comm, note)
    data = make_config({}).data
    run = Path(options.run)
    with comm.agreeing():
        if comm.rank == 0 and (run / "config.toml").is_file():
            data = load_config(run / "config.toml").data
    directory = options.data_dir or os.environ.get(DATA_VARIABLE) or data.directory or None
    # a path that exists as it is typed is that file: the folder of the recipe is for the names of the recipe
    typed = options.data, options.data.rpartition(":")[0], options.data.partition(",")[0]
    directory = None if any(path and Path(path).exists() for path in typed) else directory
    # what rank 0 sees counts for all
    settings, directory = comm.broadcast_json([data.model_dump(), directory])
    check_same_file(comm, options.data, directory)

    read = DataConfig.model_validate({**settings, "directory": directory or ""})
    wanted: LabelsWanted = "none" if options.command == "predict" else "required"
    return model, opener(read, None, options.data, model.grid.partition.n_features, model.names, wanted)


def _write(path: Path, text: str) -> None:
    """Write a file of results."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        kind: type[DistNewtonError] = WriteError if path.parent.is_dir() else CreateError
        raise kind(f"cannot write {path}: {error.strerror or error}") from None


def _console(width: int = 120, *, watched: bool | None = None) -> Console:
    """Where results are shown; wide enough for a line an iteration, or for a table, where there is no terminal."""
    from rich.console import Console

    from distnewton.reporting.terminal import ends_on_terminal, launched_width

    # Open MPI gives ranks a terminal, whose other end may be a file
    watched = ends_on_terminal() if watched is None else watched
    if watched and (launched_size() > 1 or not sys.stdout.isatty()):
        return Console(width=launched_width(), force_terminal=True)
    return Console(width=None if sys.stdout.isatty() else width, force_terminal=watched)


def _tell_notes(comm: Communicator, description: Description) -> None:
    """Say what is peculiar about data."""
    for note in description.notes:
        _warn(comm, note)


def _counts(unseen: dict[str, int]) -> str:
    return ", ".join(f"'{label}' ({n})" for label, n in unseen.items())


def say(comm: Communicator, text: str) -> None:
    """Print a line on rank 0, at once: a job that is ended loses what waits in a buffer."""
    if comm.rank == 0:
        print(text, flush=True)


def _tell_once(comm: Communicator, text: str) -> None:
    if comm.rank == 0:
        print(f"distnewton: {text}", file=sys.stderr, flush=True)


def _warn(comm: Communicator, text: str) -> None:
    if comm.rank == 0:
        print(f"note: {text}", file=sys.stderr)
