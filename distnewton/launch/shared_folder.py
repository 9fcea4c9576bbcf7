"""Whether a folder that rank 0 has made is there for all ranks."""

from __future__ import annotations

import platform
import time
from pathlib import Path

from distnewton.errors import CreateError
from distnewton.parallel.collectives import Communicator

_SECONDS = 5.0
"""A network file system may show a new folder on other hosts only after some seconds."""


def check_visible(comm: Communicator, folder: Path) -> None:
    """Refuse a run folder that some ranks do not see (collective).

    Parameters
    ----------
    comm : Communicator
        All ranks.
    folder : Path
        Made by rank 0.

    Raises
    ------
    CreateError
        On every rank alike, with the ranks and their hosts.
    """
    deadline = time.monotonic() + _SECONDS
    while not (seen := folder.is_dir()) and time.monotonic() < deadline:
        time.sleep(0.1)
    with comm.collective_errors():
        if not seen:
            raise CreateError(
                f"the run folder {folder} is not visible on {platform.node()}: choose a --run-dir on a file "
                "system that all hosts share"
            )
