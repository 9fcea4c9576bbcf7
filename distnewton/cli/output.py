"""Output of commands: rank 0 prints, without buffering."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from distnewton.parallel.collectives import Communicator

if TYPE_CHECKING:
    from distnewton.data.description import Description


def say(comm: Communicator, text: str) -> None:
    """Print a line on rank 0 and flush it: a job that is killed loses its buffers."""
    if comm.rank == 0:
        print(text, flush=True)


def tell_once(comm: Communicator, text: str) -> None:
    """Print a line that is not a result on rank 0's standard error, and flush it."""
    if comm.rank == 0:
        print(f"distnewton: {text}", file=sys.stderr, flush=True)


def warn(comm: Communicator, text: str) -> None:
    """Print a note to the user on rank 0."""
    if comm.rank == 0:
        print(f"note: {text}", file=sys.stderr)


def tell_notes(comm: Communicator, description: Description) -> None:
    """Print notes on peculiarities of a data set."""
    for note in description.notes:
        warn(comm, note)
