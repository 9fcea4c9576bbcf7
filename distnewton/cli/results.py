"""What runs leave: their folders, and files of results."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from distnewton.config import Config
from distnewton.data.formats.spool import STANDARD
from distnewton.errors import CreateError, MissingInputError, UsageError, writing

if TYPE_CHECKING:
    from rich.console import Console

    from distnewton.runs.checkpoints import Resume
    from distnewton.runs.run_folder import RunFolder


def make_folder(config: Config, recipe: str | None, resume: Resume = False) -> RunFolder:
    """Create the run folder, or open that of a resumed run; without a name take a free one under runs/."""
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
            f"there is no checkpoint in {path / CHECKPOINTS_FOLDER} to resume from; --resume=auto begins anew where "
            "there is none"
        )
    if resume and (path / MODEL_FILE).exists():
        raise CreateError(
            f"{path} holds a finished run without checkpoints, so there is nothing to resume: choose another "
            "--run-dir, or replace it with --set run.overwrite=true and without --resume"
        )
    start = Path(config.network.start)
    if config.network.start and path.resolve() in (start.resolve(), *start.resolve().parents):
        raise UsageError(
            f"the run would replace the model that it starts with, {start}: choose another --run-dir", collective=True
        )
    return RunFolder(path, overwrite=bool(resume) or config.run.overwrite)


@contextmanager
def discarding(folders: Sequence[RunFolder]) -> Iterator[None]:
    """Remove the folders of runs that an error kept from beginning, and put back what they would have replaced."""
    try:
        yield
    except BaseException:
        # the first one made the folder around them
        for folder in reversed(folders):
            folder.discard()
        raise


@contextmanager
def picture_if_possible(console: Console) -> Iterator[None]:
    """Note that a picture cannot be drawn or written, and continue."""
    try:
        yield
    except Exception as error:
        # also what the user's own matplotlibrc makes matplotlib raise: the model is saved, and a picture is optional
        console.print(f"no picture: {error}", highlight=False, markup=False, emoji=False)


def write_text(path: Path, text: str) -> None:
    """Write a file of results; ``-`` is standard output."""
    if str(path) == STANDARD:
        sys.stdout.write(text)
        return
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
