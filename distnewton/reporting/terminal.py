"""Whether what is printed ends on a terminal: under mpirun, a rank itself writes to a pipe or an invented terminal."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from distnewton.parallel.launch import launched_size, launcher_kind

_LAUNCHERS = frozenset({"mpirun", "mpiexec", "mpiexec.hydra", "prterun", "prte", "orterun"})
_MAX_DEPTH = 12


def ends_on_terminal() -> bool:
    """Whether somebody watches: standard output is a terminal, and under mpirun on this host that of mpirun.

    Returns
    -------
    bool
        False where it cannot be known: a batch job's log must not get a line that moves.
    """
    if launched_size() == 1 and not launcher_kind():
        return sys.stdout.isatty()
    pid, proc = os.getppid(), Path("/proc")
    found = False
    for _ in range(_MAX_DEPTH):
        try:
            name = (proc / str(pid) / "comm").read_text().strip()
            if name in _LAUNCHERS:
                target = os.readlink(proc / str(pid) / "fd" / "1")
                found = target.startswith(("/dev/pts/", "/dev/tty"))
            # the name in front of the parent's number may hold blanks and parentheses
            pid = int((proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return False
        if pid <= 1:
            break
    return found
