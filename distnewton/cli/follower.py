"""What follows a run of ``train`` on rank 0, and the end of the run."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distnewton.cli.output import tell_once
from distnewton.cli.results import picture_if_possible
from distnewton.config import Config
from distnewton.errors import INTERRUPTED, STOPPED_EARLY
from distnewton.guards.watchdog import watchdog
from distnewton.parallel.collectives import Communicator
from distnewton.reporting.terminal import make_console

if TYPE_CHECKING:
    from distnewton.runs.run_folder import RunFolder
    from distnewton.runs.session import Result

PICTURE_VARIABLE = "DISTNEWTON_PICTURE"


class Follower:
    """What follows a run on rank 0: its folder, the terminal, and events for TensorBoard where they are asked for.

    Parameters
    ----------
    options : argparse.Namespace
        Options of the command.
    folder : RunFolder
        Run folder.
    """

    def __init__(self, options: argparse.Namespace, folder: RunFolder) -> None:
        from distnewton.reporting.progress import Progress
        from distnewton.reporting.terminal import ends_on_terminal

        live = ends_on_terminal()
        self.quiet, self.folder = options.quiet, folder
        self.console = make_console(watched=live or None)
        self.progress = Progress(self.console, live=live)
        # what is shown is on disk, and what the folder finds when a run resumes is shown
        self.observers: list[Any] = [folder, *([] if self.quiet else [self.progress])]
        self._open: list[Any] = [self.progress]
        if options.tensorboard:
            from distnewton.reporting.tensorboard import TensorBoard

            self._open.append(TensorBoard(folder.path))
            self.observers.append(self._open[-1])

    def close(self) -> None:
        """Close what is open, however the run ends; the folder stays its run's until the end of the command."""
        for follower in self._open:
            follower.close()

    def finish(self, result: Result) -> None:
        """Draw the picture, and show the result; a failure to draw never spoils a finished run."""
        # other ranks wait meanwhile: importing matplotlib takes longer than a small run
        if os.environ.get(PICTURE_VARIABLE) != "0":
            self._draw()
        if not self.quiet:
            self.progress.finish(result)
            print(f"run folder: {self.folder.path}", flush=True)

    def _draw(self) -> None:
        from distnewton.reporting.report_pictures import save_convergence
        from distnewton.reporting.run_data import read_run
        from distnewton.runs.run_folder import PICTURE_FILE

        path = self.folder.path
        with picture_if_possible(self.console):
            save_convergence(read_run(path, path.name), path / PICTURE_FILE)


def end_run(comm: Communicator, result: Result, config: Config, path: Path) -> int:
    """Say how training ended; code 75 asks the job script to queue the run again, 130 does not."""
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
    # rank 0 may still be at the picture
    with watchdog.patient(), comm.collective_errors():
        if comm.rank == 0:
            write_end(path, code)
    return code
