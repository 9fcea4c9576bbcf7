"""Processes that tests start, however deep and detached, are told by a tag in their environment and end with the test.

Run as a program, `python attended.py TAG`, this waits for the end of the process that started it, also for one by
SIGKILL, and then ends what bears the tag. Needs /proc (Linux); elsewhere nothing is ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

NAME = "DISTNEWTON_TEST_PROCESS"


def tagged(tag: str) -> list[int]:
    """Processes, apart from this one, whose environment's tag starts with the given one."""
    wanted = f"{NAME}={tag}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # gone, or another user's
            continue
        if int(folder.name) != os.getpid() and any(word.startswith(wanted) for word in words):
            found.append(int(folder.name))
    return found


def end_all(tag: str, limit: float = 10) -> int:
    """End what bears the tag and what that starts meanwhile; return how many processes there were."""
    ended: set[int] = set()
    give_up = time.monotonic() + limit
    while (left := tagged(tag)) and time.monotonic() < give_up:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
        ended |= set(left)
        time.sleep(0.01)
    return len(ended)


class Attendant:
    """Tags what this process starts, one tag a test, and ends it.

    Attributes
    ----------
    used : bool
        Whether a process was started since the last call of `end`.
    """

    def __init__(self) -> None:
        self._session = f"{os.getpid()}-{time.time_ns()}/"
        self._n_tests = 0
        self.used = False
        os.environ.pop(NAME, None)  # the watcher itself has no tag
        self._watcher = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, self._session, str(os.getpid())],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        sys.addaudithook(self._audit)
        self.tag("session")

    def _audit(self, event: str, _: object) -> None:
        if event in ("subprocess.Popen", "os.fork", "os.posix_spawn"):
            self.used = True

    def tag(self, name: str) -> str:
        """Set the tag of what is started from now on; return the one before."""
        before = os.environ.get(NAME, "")
        os.environ[NAME] = self._session + name
        return before.removeprefix(self._session)

    def begin(self) -> None:
        """Tag what the next test starts."""
        self._n_tests += 1
        self.used = False
        self.tag(f"{self._n_tests}.")

    def end(self) -> None:
        """End what the test has left."""
        if self.used:
            end_all(f"{self._session}{self._n_tests}.")
        self.tag("session")

    def close(self) -> None:
        """End everything, the watcher too."""
        end_all(self._session)
        self._watcher.kill()
        self._watcher.wait()


def _watch(tag: str, parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.3)
    end_all(tag)


if __name__ == "__main__":
    _watch(sys.argv[1], int(sys.argv[2]))
