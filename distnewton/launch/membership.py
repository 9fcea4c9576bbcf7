"""Whether this process is a rank of an MPI launch, or a worker that a rank has started."""

from __future__ import annotations

import multiprocessing
import os
from typing import Any

from distnewton.launch.startup import launched_size, world_communicator

_OWNER = "DISTNEWTON_RANK_PROCESS"
"""Number of the process that the launcher started. Its children inherit this and the launcher's variables alike, but
have other numbers: if one of them started MPI, it would wait for the other ranks for ever, or end the job."""


def is_rank() -> bool:
    """Whether the launcher started several processes, and this is one of them.

    Called early, it also tells processes that are started later that they are none.

    Returns
    -------
    bool
    """
    if launched_size() <= 1 or multiprocessing.current_process().name != "MainProcess":
        return False
    return os.environ.setdefault(_OWNER, str(os.getpid())) == str(os.getpid())


def is_worker() -> bool:
    """Whether this process was started by multiprocessing or joblib."""
    return multiprocessing.current_process().name != "MainProcess"


def communicator_of_launch() -> Any:
    """All ranks of the launch; starts MPI where it does not run.

    Returns
    -------
    mpi4py.MPI.Intracomm or None
        None where this process is none of several ranks.

    Raises
    ------
    ConfigError
        If the launcher started several processes that MPI does not connect.
    """
    return world_communicator().mpi if is_rank() else None
