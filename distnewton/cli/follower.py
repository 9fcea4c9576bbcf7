"""Observers of a run of ``train`` on rank 0, and the message at its end."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distnewton.cli.output import tell_once
from distnewton.config import Config
from distnewton.errors import INTERRUPTED, STOPPED_EARLY
from distnewton.parallel.collectives import Communicator

if TYPE_CHECKING:
    from distnewton.reporting.progress import Progress
    from distnewton.runs.run_folder import RunFolder
    from distnewton.runs.session import Result


class Follower:
    """The observers of a run on rank 0: its folder, the terminal and, with ``--tensorboard``, TensorBoard events.

    Parameters
    ----------
    options : argparse.Namespace
        Options of the command.
    folder : RunFolder or None
        Run folder; None on other ranks, which have no observers.
    """

    def __init__(self, options: argparse.Namespace, folder: RunFolder | None) -> None:
        self.folder, self.progress = folder, make_progress() if folder and not options.quiet else None
        # the folder comes first: what is shown is then on disk, and so are its notes on a resumed run
        self.observers: list[Any] = [follower for follower in (folder, self.progress) if follower]
        self._open: list[Any] = self.observers[1:]
        if folder and options.tensorboard:
            from distnewton.reporting.tensorboard import TensorBoard

            self._open.append(TensorBoard(folder.path))
            self.observers.append(self._open[-1])

    def close(self) -> None:
        """Close the display and the events, however the run ends; the folder stays locked until the command ends."""
        for follower in self._open:
            follower.close()

    def keep(self, result: Result) -> None:
        """Write the predictions of a result into the folder."""
        if self.folder:
            self.folder.predictions(result.predictions)

    def finish(self, result: Result) -> None:
        """Show the result."""
        if self.folder and self.progress:
            self.progress.finish(result)
            print(f"run folder: {self.folder.path}", flush=True)


def make_progress(*, live: bool | None = None) -> Progress:
    """Make the progress display; it shows a bar if standard output is a terminal, unless `live` says otherwise."""
    # imported here, since a quiet run does not need it
    from distnewton.reporting.progress import Progress
    from distnewton.reporting.terminal import ends_on_terminal, make_console

    live = ends_on_terminal() if live is None else live
    return Progress(make_console(watched=live or None), live=live)


def end_run(comm: Communicator, result: Result, config: Config, path: Path) -> int:
    """Print how training ended; return the exit code: 75 asks the job script to queue the run again, 130 does not."""
    from distnewton.launch.deadline import Stop
    from distnewton.runs.run_folder import write_end

    codes = {Stop.NO: 0, Stop.INTERRUPT: INTERRUPTED}
    code = codes.get(result.stopped, STOPPED_EARLY)
    if result.stopped:
        whys = {Stop.CLOCK: "stopped by the clock", Stop.SIGNAL: "stopped by a signal", Stop.INTERRUPT: "interrupted"}
        saved = "a checkpoint and the model are" if result.checkpoint else "the model is"
        how = f"; distnewton train --resume {path} continues" if result.checkpoint else ""
        tell_once(
            comm,
            f"{whys[result.stopped]} after iteration {config.run.of_iterations(result.last.iteration)}; {saved} "
            f"saved, exit code {code}{how}",
        )
    with comm.collective_errors():
        if comm.rank == 0:
            write_end(path, code)
    return code
