"""Tell whether this process is a rank of an MPI launch or a worker that a rank has started."""

from __future__ import annotations

import multiprocessing
import os
from typing import Any

from distnewton.launch.startup import launched_size, world_communicator

_OWNER = "DISTNEWTON_RANK_PROCESS"
"""Process number of the process that the launcher started. Its children inherit this and the launcher's variables but
have other numbers; a child that started MPI would wait for the other ranks for ever, or end the job."""


def is_rank() -> bool:
    """Tell whether the launcher started several processes, of which this is one.

    An early call also marks processes that are started later as no ranks.

    Returns
    -------
    bool
    """
    if launched_size() <= 1 or multiprocessing.current_process().name != "MainProcess":
        return False
    return os.environ.setdefault(_OWNER, str(os.getpid())) == str(os.getpid())


def is_worker() -> bool:
    """Tell whether multiprocessing or joblib started this process."""
    return multiprocessing.current_process().name != "MainProcess"


def communicator_of_launch() -> Any:
    """Return the communicator of all ranks of the launch; start MPI if it is not running.

    Returns
    -------
    mpi4py.MPI.Intracomm or None
        None if this process is not one of several ranks.

    Raises
    ------
    ConfigError
        If the launcher started several processes that MPI does not connect.
    """
    return world_communicator().mpi if is_rank() else None
