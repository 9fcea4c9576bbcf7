"""What commands say, and where: rank 0 alone, at once."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from distnewton.launch.startup import launched_size
from distnewton.parallel.collectives import Communicator

if TYPE_CHECKING:
    from rich.console import Console

    from distnewton.data.description import Description


def say(comm: Communicator, text: str) -> None:
    """Print a line on rank 0, at once: a job that is ended loses what waits in a buffer."""
    if comm.rank == 0:
        print(text, flush=True)


def tell_once(comm: Communicator, text: str) -> None:
    """Print a line that is no result, on rank 0, at once."""
    if comm.rank == 0:
        print(f"distnewton: {text}", file=sys.stderr, flush=True)


def warn(comm: Communicator, text: str) -> None:
    """Print what the user should know, on rank 0."""
    if comm.rank == 0:
        print(f"note: {text}", file=sys.stderr)


def tell_notes(comm: Communicator, description: Description) -> None:
    """Say what is peculiar about data."""
    for note in description.notes:
        warn(comm, note)


def make_console(width: int = 120, *, watched: bool | None = None) -> Console:
    """Where results are shown; wide enough for a line an iteration, or for a table, where there is no terminal."""
    from rich.console import Console

    from distnewton.reporting.terminal import ends_on_terminal, launched_width

    # Open MPI gives ranks a terminal, whose other end may be a file
    watched = ends_on_terminal() if watched is None else watched
    if watched and (launched_size() > 1 or not sys.stdout.isatty()):
        return Console(width=launched_width(), force_terminal=True)
    return Console(width=None if sys.stdout.isatty() else width, force_terminal=watched)
