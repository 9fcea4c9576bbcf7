"""Whether what is printed ends on a terminal: under mpirun, a rank itself writes to a pipe or an invented terminal."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from distnewton.launch.startup import launched_size, launcher_kind

_LAUNCHERS = frozenset({"mpirun", "mpiexec", "mpiexec.hydra", "prterun", "prte", "orterun"})
_MAX_DEPTH = 12
_USUAL_WIDTH = 80


def ends_on_terminal() -> bool:
    """Whether somebody watches: standard output is a terminal, and under mpirun on this host that of mpirun.

    Returns
    -------
    bool
        False where it cannot be known: a batch job's log must not get a line that moves.
    """
    if launched_size() == 1 and not launcher_kind():
        return sys.stdout.isatty()
    return launchers_output().startswith(("/dev/pts/", "/dev/tty"))


def launched_width() -> int:
    """Columns of the terminal that mpirun writes to, under mpirun on this host.

    Returns
    -------
    int
        80 where it is not known: a bar wider than its terminal would leave lines behind.
    """
    width = 0
    with suppress(OSError):
        file = os.open(launchers_output(), os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
        with os.fdopen(file, "rb", buffering=0):
            width = os.get_terminal_size(file).columns
    return width or _USUAL_WIDTH


def launchers_output() -> str:
    """Where the standard output of the mpirun above this process goes.

    Returns
    -------
    str
        Empty where it is not known.
    """
    pid, proc = os.getppid(), Path("/proc")
    target = ""
    for _ in range(_MAX_DEPTH):
        try:
            name = (proc / str(pid) / "comm").read_text().strip()
            if name in _LAUNCHERS:
                target = os.readlink(proc / str(pid) / "fd" / "1")
            # the name in front of the parent's number may hold blanks and parentheses
            pid = int((proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return ""
        if pid <= 1:
            break
    return target
