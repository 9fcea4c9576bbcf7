"""Whether what is printed ends on a terminal: under mpirun, a rank itself writes to a pipe or an invented terminal."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distnewton.launch.startup import launched_size, launcher_kind
from distnewton.printable import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

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


def make_console(width: int = 120, *, watched: bool | None = None) -> Console:
    """Where results are shown; wide enough for a line an iteration, or for a table, where there is no terminal.

    Parameters
    ----------
    width : int
        Columns where there is no terminal.
    watched : bool or None
        Whether somebody watches; None: as of :func:`ends_on_terminal`.

    Returns
    -------
    Console
        Texts on it are shown as of :func:`~distnewton.printable.printable`; its own signs reach the terminal.
    """
    from rich.console import Console

    class Shown(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(printable(text), **options)

    # Open MPI gives ranks a terminal, whose other end may be a file
    watched = ends_on_terminal() if watched is None else watched
    file: Any = _Raw() if hasattr(sys.stdout, "write_raw") else None
    if watched and (launched_size() > 1 or not sys.stdout.isatty()):
        return Shown(width=launched_width(), force_terminal=True, file=file)
    return Shown(width=None if sys.stdout.isatty() else width, force_terminal=watched, file=file)


class _Raw:
    """Standard output for what rich says to a terminal."""

    def __init__(self) -> None:
        stream: Any = sys.stdout
        self._stream, self.write = stream, stream.write_raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
