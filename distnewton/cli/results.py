"""Outputs of commands: run folders and files of results."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from distnewton.config import Config
from distnewton.data.formats.spool import STANDARD
from distnewton.errors import CreateError, MissingInputError, UsageError
from distnewton.files import real_path, user_path
from distnewton.outputs import check_output, write_output
from distnewton.reporting.terminal import ends_on_terminal

if TYPE_CHECKING:
    from rich.console import Console

    from distnewton.runs.checkpoints import Resume
    from distnewton.runs.run_folder import RunFolder


def make_folder(config: Config, recipe: str | None, resume: Resume = False) -> RunFolder:
    """Create the run folder, or open that of a resumed run; without a name, use the next free one under runs/."""
    from distnewton.checkpoint.folder import CHECKPOINTS_FOLDER, has_checkpoints
    from distnewton.models.model_file import MODEL_FILE
    from distnewton.runs.run_folder import RunFolder

    name = Path(recipe).stem if recipe else "run"
    if not config.run.directory:
        if resume is True:
            raise UsageError("--resume needs a run folder: --run-dir, or run.directory in the recipe", collective=True)
        return RunFolder.under_free_name(name)
    path = Path(config.run.directory)
    if resume and has_checkpoints(path / CHECKPOINTS_FOLDER):
        return RunFolder(path, resume=True)
    if resume is True:
        raise MissingInputError(
            f"there is no checkpoint in {path / CHECKPOINTS_FOLDER} to resume from; --resume=auto starts anew if there "
            "is none"
        )
    if resume and (path / MODEL_FILE).exists():
        raise CreateError(
            f"{path} holds a finished run without checkpoints, so there is nothing to resume: choose another "
            "--run-dir, or replace it with --set run.overwrite=true and without --resume"
        )
    _check_start(config.network.start, path)
    return RunFolder(path, overwrite=bool(resume) or config.run.overwrite)


def _check_start(start: str, run: Path) -> None:
    """Refuse a run that would replace the model that it starts with."""
    model = real_path(start)
    if start and real_path(run) in (model, *model.parents):
        raise UsageError(
            f"the run would replace the model that it starts with, {start}: choose another --run-dir", collective=True
        )


@contextmanager
def discarding(folders: Sequence[RunFolder]) -> Iterator[None]:
    """On an error, remove the folders of runs that have not begun, and move back what they would have replaced."""
    try:
        yield
    except BaseException:
        # in reverse order, because the first one created their parent folder
        for folder in reversed(folders):
            folder.discard()
        raise


@contextmanager
def picture_if_possible(console: Console) -> Iterator[None]:
    """Note that a picture cannot be drawn or written, and continue."""
    try:
        yield
    except Exception as error:
        # any error, even one that the user's matplotlibrc causes: the model is saved, and a picture is optional
        console.print(f"no picture: {error}", highlight=False, markup=False, emoji=False)


def check_result(
    path: str, *, data: Iterable[str] = (), folder: str = "", model: str = "", pages_of: Sequence[Path] = (),
    makes_folder: bool = True,
) -> None:  # fmt: skip
    """Refuse a file of results that cannot be written, or would replace a file that must stay.

    Parameters
    ----------
    path : str
        The file; ``-`` is standard output.
    data : iterable of str
        Data sets that the command reads, as :func:`~distnewton.data.sources.open_data` takes them.
    folder : str
        Folder of relative data paths.
    model : str
        Run folder or model file that the command reads.
    pages_of : sequence of Path
        Runs whose report pages may be replaced.
    makes_folder : bool
        Whether the command creates a missing folder for the file.

    Raises
    ------
    CreateError, WriteError
        If the file cannot be written, or would replace an input or a file of a run.
    """
    from distnewton.runs.run_folder import OWN_NAMES, REPORT_FILE, files_of_run

    if path == STANDARD:
        return
    target, inputs = Path(path), _files_of_data(data, folder)
    check_output(target, inputs=[*inputs, *([Path(model)] if Path(model).is_file() else [])], makes_folder=makes_folder)
    target = real_path(target)
    if target.name == REPORT_FILE and any(target.parent == real_path(run) for run in pages_of):
        return
    for run in target.parents:
        if target.relative_to(run).parts[0] in OWN_NAMES and files_of_run(run):
            raise CreateError(f"cannot write {path}: it is a file of the run {run}; choose another name")


def _files_of_data(data: Iterable[str], folder: str) -> list[Path]:
    """List the files and folders that data sets may be read from, including those of labels."""
    from distnewton.data.formats.array_files import ArrayFormat

    parts = {part for name in data for part in (name, name.rpartition(":")[0], *name.split(",")) if part}
    inputs = [Path(folder) / user_path(part.strip()) for part in parts]
    labels = (file.parent / name for file in inputs for kind in ArrayFormat.__subclasses__()
              for name in kind().label_files(file))  # fmt: skip
    return [*inputs, *labels]


def write_text(path: Path, text: str) -> None:
    """Write a file of results; ``-`` is standard output."""
    if str(path) == STANDARD:
        # no label may control a terminal; text for files is written unchanged
        write = sys.stdout.write if ends_on_terminal() else getattr(sys.stdout, "write_raw", sys.stdout.write)
        write(text)
        return
    write_output(path, text)
