"""Nothing that a test starts outlives it, and limits count with the machine's speed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import attended
import pytest
from launched import MPIRUN, mpirun, run, start
from speed import slowness

TESTS = str(Path(__file__).parents[1])
SLEEP = [sys.executable, "-I", "-S", "-c", "import time; print('up', flush=True); time.sleep(600)"]
TEST = """
import subprocess, sys
from pathlib import Path

def test_that_leaves_a_process():
    sleeper = subprocess.Popen({command}, start_new_session=True, stdout=subprocess.PIPE)
    sleeper.stdout.readline()
    sleeper.stdout.close()
    Path({pid!r}).write_text(str(sleeper.pid))
    sleeper.returncode = 0
    {end}

def test_that_comes_after():
    pass
"""


def left(pid):
    """Whether a process still runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pid, seconds=20):
    end = time.monotonic() + seconds * slowness()
    while left(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not left(pid)


def session(tmp_path, end, command=SLEEP):
    """The command of tests of their own, one of which leaves a process; the file that gets its id."""
    pid = tmp_path / "pid"
    (tmp_path / "test_left.py").write_text(TEST.format(command=command, pid=str(pid), end=end))
    (tmp_path / "conftest.py").write_text(Path(TESTS, "conftest.py").read_text())
    options = ["-q", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", "-o", f"pythonpath={TESTS}", "-o", "timeout=3"]
    return [sys.executable, "-m", "pytest", *options, "-o", "timeout_method=signal", str(tmp_path)], pid


def test_a_process_ends_with_its_test(tmp_path):
    command, pid = session(tmp_path, "pass")
    assert "2 passed" in run(command).stdout
    assert gone(pid.read_text(), 0)


@pytest.mark.skipif(MPIRUN is None, reason="no mpirun")
def test_a_late_test_fails_alone_and_its_ranks_end(tmp_path):
    command, pid = session(tmp_path, "__import__('time').sleep(600)", [*mpirun(2), *SLEEP])
    done = run(command, DISTNEWTON_TEST_SLOWNESS="1")
    assert "1 failed, 1 passed" in done.stdout
    assert "test_that_leaves_a_process" in done.stdout.splitlines()[-2]
    assert "Timeout (>3" in done.stdout
    assert gone(pid.read_text(), 0)


def test_processes_end_when_the_tests_are_killed(tmp_path):
    command, pid = session(tmp_path, "__import__('time').sleep(600)")
    tests = start(command, DISTNEWTON_TEST_SLOWNESS="100")
    end = time.monotonic() + 60 * slowness()
    while not (pid.exists() and pid.read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    assert left(pid.read_text())
    os.kill(tests.pid, signal.SIGKILL)
    tests.communicate()
    assert gone(pid.read_text())


@pytest.mark.skipif(MPIRUN is None, reason="no mpirun")
def test_ranks_end_when_a_command_is_late():
    begin = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        run([*mpirun(2), *SLEEP], limit=1)
    assert time.monotonic() - begin < 30 * slowness()
    tag = os.environ[attended.NAME]
    attended.end_all(tag)
    assert not attended.tagged(tag)
