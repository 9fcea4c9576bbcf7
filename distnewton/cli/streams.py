"""Standard output and error of a command, which may be closed, on a full disk, or lose their reader."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

from distnewton.errors import WriteError
from distnewton.printable import printable


class StandardStream:
    """A standard stream on which no text can control the terminal; other attributes are those of the wrapped stream.

    Parameters
    ----------
    stream : TextIO
        ``sys.stdout`` or ``sys.stderr``.
    optional : bool
        Whether the command continues if the stream is lost.

    Attributes
    ----------
    optional : bool
        The same; a command whose results go to files makes its standard output optional.
    """

    def __init__(self, stream: TextIO, *, optional: bool = False) -> None:
        self._stream, self.optional = stream, optional

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text, as :func:`~distnewton.printable.printable` shows it.

        Parameters
        ----------
        text : str
            Any text.

        Returns
        -------
        int
            Number of characters.

        Raises
        ------
        WriteError
            If it cannot be written, and the stream is not optional.
        BrokenPipeError
            If its reader has left (``| head``), and the stream is not optional.
        """
        return self.write_raw(printable(text))

    def write_raw(self, text: str) -> int:
        """Write data, or a library's terminal output, unchanged; errors as in :meth:`write`."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush the buffer; errors as in :meth:`write`."""
        self._try(self._stream.flush)

    def _try(self, do: Callable[[], object]) -> None:
        try:
            do()
        except OSError as error:
            # the buffer must go somewhere, because Python flushes it again at exit
            _connect(self._stream.fileno(), os.O_WRONLY)
            if not self.optional:
                if isinstance(error, BrokenPipeError):
                    raise
                raise WriteError(f"cannot write standard output: {error.strerror or error}") from None
            if self._stream.fileno() == 1:
                print(f"distnewton: standard output is lost ({error.strerror or error}); the command continues",
                      file=sys.stderr, flush=True)  # fmt: skip


def _connect(number: int, mode: int) -> None:
    """Connect a file descriptor to /dev/null."""
    null = os.open(os.devnull, mode)
    if null != number:
        os.dup2(null, number)
        os.close(null)


def guard_streams() -> None:
    """Guard the standard streams; open those that were closed (``>&-``), or other files would get their numbers."""
    for number, name, mode in ((0, "stdin", os.O_RDONLY), (1, "stdout", os.O_WRONLY), (2, "stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            _connect(number, mode)
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115
    # a label may contain letters that the encoding of a terminal, or of the C locale, lacks
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout = StandardStream(sys.stdout)
    sys.stderr = StandardStream(sys.stderr, optional=True)


def results_go_to_files() -> None:
    """Continue from here on if standard output is lost: the results are in files."""
    if isinstance(sys.stdout, StandardStream):
        sys.stdout.optional = True
