"""Find out whether output ends on a terminal: under mpirun, a rank writes to a pipe or a pseudo-terminal."""

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
    """Tell whether the output is watched: standard output is a terminal, and under mpirun on this host so is mpirun's.

    Returns
    -------
    bool
        False if unknown: a batch job's log must not get a moving line.
    """
    if launched_size() == 1 and not launcher_kind():
        return sys.stdout.isatty()
    return launchers_output().startswith(("/dev/pts/", "/dev/tty"))


def launched_width() -> int:
    """Return the width of the terminal that mpirun on this host writes to.

    Returns
    -------
    int
        80 if unknown: a bar that is wider than its terminal would leave lines behind.
    """
    width = 0
    with suppress(OSError):
        file = os.open(launchers_output(), os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
        with os.fdopen(file, "rb", buffering=0):
            width = os.get_terminal_size(file).columns
    return width or _USUAL_WIDTH


def launchers_output() -> str:
    """Find where the standard output of this process's mpirun goes.

    Returns
    -------
    str
        Empty if unknown.
    """
    pid, proc = os.getppid(), Path("/proc")
    target = ""
    for _ in range(_MAX_DEPTH):
        try:
            name = (proc / str(pid) / "comm").read_text().strip()
            if name in _LAUNCHERS:
                target = os.readlink(proc / str(pid) / "fd" / "1")
            # the name before the parent's number may contain blanks and parentheses
            pid = int((proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return ""
        if pid <= 1:
            break
    return target


def make_console(width: int = 120, *, watched: bool | None = None) -> Console:
    """Make the console for results; without a terminal it is wide enough for a line of an iteration, or for a table.

    Parameters
    ----------
    width : int
        Number of columns if there is no terminal.
    watched : bool or None
        Whether the output is watched; None asks :func:`ends_on_terminal`.

    Returns
    -------
    Console
        Console that shows texts through :func:`~distnewton.printable.printable`; its own control codes pass unchanged.
    """
    from rich.console import Console

    class Shown(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(printable(text), **options)

    # Open MPI gives ranks a pseudo-terminal, whose other end may be a file
    watched = ends_on_terminal() if watched is None else watched
    file: Any = _Raw() if hasattr(sys.stdout, "write_raw") else None
    if watched and (launched_size() > 1 or not sys.stdout.isatty()):
        return Shown(width=launched_width(), force_terminal=True, file=file)
    return Shown(width=None if sys.stdout.isatty() else width, force_terminal=watched, file=file)


class _Raw:
    """Standard output for rich's control codes."""

    def __init__(self) -> None:
        stream: Any = sys.stdout
        self._stream, self.write = stream, stream.write_raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
