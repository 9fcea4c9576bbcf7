"""One run at a time writes a folder: a lock that the system takes back when its process ends, however it ends."""

from __future__ import annotations

import os
from pathlib import Path

from distnewton.errors import CreateError


class FolderLock:
    """The right to write a run folder, held by rank 0 until it gives it back or its process ends.

    Parameters
    ----------
    folder : Path
        It exists.

    Raises
    ------
    CreateError
        If another process holds it.

    Notes
    -----
    The folder itself is locked, so that no file is left. NFS locks no folders, and other file systems and systems may
    lock nothing: everybody gets the lock there, and only the claim of the metrics file keeps runs apart.
    """

    def __init__(self, folder: Path) -> None:
        self._handle = -1
        try:
            import fcntl
        except ImportError:
            return
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise CreateError(
                f"{folder} is taken by another run, which writes it at this moment: choose another --run-dir"
            ) from None
        except OSError:
            # no locks on this file system
            os.close(handle)
            return
        self._handle = handle

    def release(self) -> None:
        """Give it back."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
