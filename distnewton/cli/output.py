"""What commands say, and where: rank 0 alone, at once."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from distnewton.parallel.collectives import Communicator

if TYPE_CHECKING:
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
