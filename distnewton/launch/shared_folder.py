"""Check that all ranks see a folder that rank 0 has created."""

from __future__ import annotations

import platform
import time
from pathlib import Path

from distnewton.errors import CreateError
from distnewton.parallel.collectives import Communicator

# a network file system may show a new folder on other hosts only after some seconds
_SECONDS = 5.0


def check_visible(comm: Communicator, folder: Path) -> None:
    """Raise a ConfigError on all ranks if some do not see the folder that rank 0 has created (collective)."""
    deadline = time.monotonic() + _SECONDS
    while not (seen := folder.is_dir()) and time.monotonic() < deadline:
        time.sleep(0.1)
    with comm.collective_errors():
        if not seen:
            raise CreateError(
                f"the run folder {folder} is not visible on {platform.node()}: choose a --run-dir on a file "
                "system that all hosts share"
            )
