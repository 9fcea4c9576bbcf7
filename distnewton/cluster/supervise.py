"""Start a launcher, and make sure that the job ends with the exit code that the run itself has recorded.

``python -m distnewton.cluster.supervise RUN_FOLDER -- mpirun ...``. When a host is cut off, Open MPI's mpirun has been
seen to wait for it for ever after all other ranks were aborted, and to notice by itself and return 0.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from distnewton.errors import EXIT_CODES
from distnewton.files import parse_json
from distnewton.guards.failures import ERRORS_FOLDER, FIRST_FILE, LAUNCHER_FILE, read_first, replace
from distnewton.runs.run_folder import END_FILE

GRACE_SECONDS = 5.0
"""Seconds for the launcher to end the other ranks after a failure was recorded."""
LOST = 70
_POLL_SECONDS = 0.5
_FORWARDED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
_SOFT = {int(number): int(signal.SIGUSR1) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
"""Signals sent first in place of others: Open MPI's mpirun kills the ranks on any of these, and MPICH's on SIGHUP, but
both forward SIGUSR1."""


def supervise(folder: Path, command: Sequence[str]) -> int:
    """Run a launcher to its end.

    Parameters
    ----------
    folder : Path
        Run folder of the run.
    command : sequence of str
        Launcher and program.

    Returns
    -------
    int
        Exit code that the run recorded; else the launcher's, or 70 if the launcher claims success.
    """
    files = folder / END_FILE, folder / ERRORS_FOLDER / FIRST_FILE
    before = [_stamp(file) for file in files]

    def left() -> list[bool]:
        return [_stamp(file) not in ("", stamp) for file, stamp in zip(files, before, strict=True)]

    try:
        # in its own session, so all that it started can be ended with it
        launcher = subprocess.Popen(command, start_new_session=True)  # noqa: S603
    except OSError as error:
        print(f"distnewton: cannot start {command[0]}: {error.strerror}", file=sys.stderr, flush=True)
        return 78
    soft: dict[int, int] = dict(_SOFT)
    for number in _FORWARDED:
        signal.signal(number, lambda received, _: launcher.send_signal(soft.pop(received, received)))
    failed_at = 0.0
    while (code := _ended(launcher)) is None:
        failed_at = failed_at or (time.monotonic() if left()[1] else 0.0)
        if failed_at and time.monotonic() - failed_at > GRACE_SECONDS:
            _say(f"{command[0]} did not end within {GRACE_SECONDS:.0f} s after the run failed, and is killed")
            os.killpg(launcher.pid, signal.SIGKILL)
            code = launcher.wait()
            break
    ended, failed = left()
    return _verdict(folder, ended, failed, 128 - code if code < 0 else code)


def _stamp(file: Path) -> str:
    """Identify a version of a file; clocks of hosts are not compared."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return ""
    return f"{status.st_ino} {status.st_mtime_ns}"


def _ended(launcher: subprocess.Popen[bytes]) -> int | None:
    try:
        return launcher.wait(timeout=_POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return None


def _verdict(folder: Path, ended: bool, failed: bool, code: int) -> int:
    """Choose the exit code: what the run recorded wins over what the launcher returned."""
    first = read_first(folder) if failed else None
    if first is not None:
        failure: int = first["exit_code"]
        return failure
    if ended:
        end: int = parse_json((folder / END_FILE).read_text(encoding="utf-8"))["exit_code"]
        # an error after the end, for example while MPI shuts down, is still an error
        return end or code
    if code == 0:
        _say(f"the launcher returned 0, but the run did not end: no new {END_FILE} in {folder}. A host may be lost")
        return LOST
    if code not in EXIT_CODES and code != LOST:
        _say(f"the launcher ended with code {code}, and no rank said why")
        # a killed process leaves no report: this is all that distnewton why can say about it
        errors = folder / ERRORS_FOLDER
        errors.mkdir(exist_ok=True)
        replace(errors / LAUNCHER_FILE, {"exit_code": code})
    return code


def _say(text: str) -> None:
    print(f"distnewton: {text}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Run the command line RUN_FOLDER -- LAUNCHER ..."""
    if len(arguments) < 3 or arguments[1] != "--":
        _say("usage: python -m distnewton.cluster.supervise RUN_FOLDER -- LAUNCHER ...")
        return 2
    return supervise(Path(arguments[0]), arguments[2:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
