"""The supervisor: launchers that hang, die, or claim success for a run that did not end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from distnewton.cluster import supervise as module
from distnewton.cluster.supervise import main, supervise
from distnewton.guards.failures import Failures, forget
from distnewton.reporting.failure_report import explain_failure
from distnewton.runs.run_folder import RunFolder, write_end


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.3)
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.05)
    before = {number: signal.getsignal(number) for number in module._FORWARDED}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def python(code, *arguments):
    return [sys.executable, "-c", code, *map(str, arguments)]


END = "import sys; from pathlib import Path; from distnewton.runs.run_folder import write_end\n"
FAIL = """
import sys, time
from pathlib import Path
from distnewton.guards.failures import failures
failures.folder = Path(sys.argv[1])
failures.write(2, 76, "the host h2 does not answer")
"""

WAIT = """
import signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(3))
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(("code", "expected"), [
    ("write_end(Path(sys.argv[1]), 0)", 0),
    ("write_end(Path(sys.argv[1]), 75)", 75),
    ("write_end(Path(sys.argv[1]), 75); sys.exit(75)", 75),
    ("write_end(Path(sys.argv[1]), 0); sys.exit(9)", 9),
    ("sys.exit(78)", 78),
])  # fmt: skip
def test_the_code_is_the_one_that_the_run_left(tmp_path, code, expected):
    assert supervise(tmp_path, python(END + code, tmp_path)) == expected


def test_a_launcher_that_returns_0_for_a_run_that_did_not_end(tmp_path, capsys):
    write_end(tmp_path, 0)  # an earlier run's
    assert supervise(tmp_path, ["true"]) == 70
    assert "the launcher returned 0, but the run did not end" in capsys.readouterr().err


def test_a_launcher_that_is_killed(tmp_path, capsys):
    assert supervise(tmp_path, ["bash", "-c", "kill -9 $$"]) == 137
    assert "ended with code 137, and no rank said why" in capsys.readouterr().err


def test_a_launcher_that_hangs_after_a_failure_is_ended(tmp_path, capsys):
    begin = time.monotonic()
    assert supervise(tmp_path, python(FAIL + "time.sleep(60)", tmp_path)) == 76
    assert time.monotonic() - begin < 20
    assert "did not end within 0 s after the run failed, and is killed" in capsys.readouterr().err


def test_a_launcher_that_returns_0_after_a_failure(tmp_path):
    assert supervise(tmp_path, python(FAIL, tmp_path)) == 76


def test_an_earlier_failure_is_not_this_one(tmp_path):
    earlier = Failures()
    earlier.folder = tmp_path
    earlier.write(0, 76, "long ago")
    assert supervise(tmp_path, python(END + "write_end(Path(sys.argv[1]), 0)", tmp_path)) == 0


@pytest.mark.parametrize(("end", "words"), [
    ("os.kill(os.getpid(), 9)", "signal 9 (SIGKILL) ended a rank or the launcher; the launcher returned 137"),
    ("sys.exit(11)", "signal 11 (SIGSEGV) ended a rank or the launcher; the launcher returned 11"),
    ("sys.exit(99)", "a signal (kill, out of memory) or the crash of a library ended a process or host"),
])  # fmt: skip
def test_why_tells_what_the_launcher_knows(tmp_path, end, words):
    code = supervise(tmp_path, python(f"import os, sys; {end}", tmp_path))
    assert code in (137, 11, 99)
    (told,) = explain_failure(tmp_path)
    assert told.startswith("cause      no report was written before its first iteration: ")
    assert words in told
    forget(tmp_path)
    assert not list((tmp_path / "errors").iterdir())


def test_why_tells_that_a_run_goes_on(tmp_path):
    folder = RunFolder(tmp_path / "run")
    assert list(explain_failure(folder.path)) == ["cause      the run is still training, before its first iteration"]
    folder.close()
    assert "no process has the run open" in "".join(explain_failure(folder.path))


def test_signals_reach_the_launcher(tmp_path):
    command = [sys.executable, "-m", "distnewton.cluster.supervise", str(tmp_path), "--", *python(WAIT)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGUSR1)
        assert process.wait(timeout=20) == 3


def test_wrong_commands(tmp_path, capsys):
    assert supervise(tmp_path, ["no-such-launcher"]) == 78
    assert "cannot start no-such-launcher" in capsys.readouterr().err
    assert main([str(tmp_path), "mpirun"]) == 2
    assert json.dumps(os.listdir(tmp_path)) == "[]"
