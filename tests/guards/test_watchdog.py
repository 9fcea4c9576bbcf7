"""The watchdog, the first failure, and the clock."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from distnewton.guards import reachability
from distnewton.guards.failures import Failures, failures, forget, read_first
from distnewton.guards.reachability import Hosts, answers, own_addresses
from distnewton.guards.watchdog import Watchdog
from distnewton.launch.deadline import JOB_MARGIN, Clock, job_seconds_left, seconds_of
from distnewton.parallel.collectives import Communicator


@pytest.fixture
def bark(monkeypatch, tmp_path):
    """A watchdog of rank 1 of 3, and what it said when it ended the job."""
    monkeypatch.setattr(failures, "folder", tmp_path)
    monkeypatch.setattr("distnewton.guards.watchdog._HEAD_START", 0.1)
    dog, said, ended = Watchdog(), [], threading.Event()
    dog.hosts = Hosts(["h0", "h1", "h2"])

    def end(message, code):
        said.append((message, code))
        ended.set()

    dog.start(1, end, limit=0.3)
    yield dog, said, ended
    # its thread lives until the process ends: nothing for it to say any more
    dog.limit = 0.0


def test_a_rank_that_waits_too_long_ends_the_job_and_says_who_is_missing(bark, tmp_path):
    dog, said, ended = bark
    (tmp_path / "errors").mkdir()
    report = {"rank": 0, "launch": "", "collective": {"group": "", "members": "", "call": 1, "name": "sum"}}
    (tmp_path / "errors" / "hang-rank-0000.json").write_text(json.dumps(report))
    with dog.inside("sum", 0, "world", "rank 0-2", 7):
        assert ended.wait(10)
    ((message, code),) = said
    assert code == 76
    assert re.match(r"waited 0 s in sum \(call 7 of rank 0-2.*\) for other ranks \(run.hang_seconds = 0.3\)", message)
    assert "In no collective: rank 2 on h2" in message
    stacks = (tmp_path / "errors" / "hang-rank-0001.txt").read_text()
    assert "test_a_rank_that_waits_too_long" in stacks


def test_work_and_short_waits_are_no_hang(bark):
    dog, said, ended = bark
    for _ in range(10):
        with dog.inside("sum"):
            time.sleep(0.05)
    assert not ended.wait(0.6), said
    with dog.patient(), dog.inside("read"):
        assert not ended.wait(0.6), said
    assert dog.number == 11


def test_a_call_that_raises_is_no_longer_waited_for(bark):
    dog, _, ended = bark
    with pytest.raises(ZeroDivisionError), dog.inside("sum"):
        raise ZeroDivisionError
    assert not ended.wait(0.6)


SUSPENDED = """
import sys, time
from distnewton.guards.watchdog import watchdog
watchdog.start(0, lambda message, code: print(message, flush=True), limit=1.5)
with watchdog.inside("sum"):
    print("waits", flush=True)
    # a long sleep would be over when it is waked
    for _ in range(int(sys.argv[1])):
        time.sleep(0.1)
"""


@pytest.mark.parametrize(("n_pauses", "ends"), [(9, False), (90, True)])
def test_a_process_that_was_suspended_waits_anew(tmp_path, n_pauses, ends):
    program = [sys.executable, "-c", SUSPENDED, str(n_pauses)]
    apart = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=apart) as one:
        try:
            assert one.stdout.readline() == "waits\n"
            one.send_signal(signal.SIGSTOP)
            time.sleep(3.5)
            one.send_signal(signal.SIGCONT)
            said = one.stdout.readline()
        finally:
            one.kill()
    assert said.startswith("waited ") == ends, said


def test_a_host_that_answered_and_no_longer_does_is_named(bark, monkeypatch):
    dog, said, ended = bark
    replies = {"10.0.0.1": True, "10.0.0.3": False}
    monkeypatch.setattr(reachability, "_answers", lambda address, port: replies[address])
    dog.hosts.ask({"h0": ["10.0.0.1"], "never": ["10.0.0.3"]})
    assert dog.hosts.silent() == []
    replies["10.0.0.1"] = False
    with dog.inside("sum"):
        assert ended.wait(10)
    assert "The host h0 (rank 0) answered when the run began and no longer does" in said[0][0]


def test_a_refused_connection_is_an_answer():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert reachability._answers("127.0.0.1", taken.getsockname()[1])
    assert answers(["no-such-host.invalid", "127.0.0.1"])
    assert not answers(["no-such-host.invalid"])
    assert all(not address.startswith("127.") for address in own_addresses())


def test_of_many_failures_the_first_is_kept(tmp_path):
    first, second = Failures(), Failures()
    assert first.write(0, 70, "nowhere to write to") == (False, "")
    first.folder = second.folder = tmp_path
    first.launch = second.launch = "one"
    first.iteration = 12
    assert second.write(3, 65, "the first") == (False, "")
    assert first.write(0, 70, "its consequence") == (True, "")
    found = read_first(tmp_path)
    assert (found["rank"], found["exit_code"], found["message"]) == (3, 65, "the first")
    assert found["host"]
    assert json.loads((tmp_path / "errors/rank-0000.json").read_text())["finished_iteration"] == 12
    # what an earlier launch has left keeps nobody quiet
    first.launch = "another"
    assert first.write(1, 70, "later") == (False, "")
    assert read_first(tmp_path)["message"] == "later"
    forget(tmp_path)
    assert read_first(tmp_path) is None
    (tmp_path / "errors").rmdir()
    (tmp_path / "errors").write_text("in the way")
    assert "could not be stored" in first.write(0, 70, "again")[1]


@pytest.mark.parametrize(("text", "seconds"), [
    ("0:07", 7), ("5:00", 300), ("1:30:00", 5400), ("2-12:00:00", 216000), ("UNLIMITED", math.inf), ("", math.inf),
    ("NOT_SET", math.inf), ("INVALID", math.inf),
])  # fmt: skip
def test_times_as_slurm_writes_them(text, seconds):
    assert seconds_of(text) == seconds


def test_the_end_of_a_job(monkeypatch, tmp_path):
    for name in ("SLURM_JOB_ID", "SLURM_JOB_END_TIME"):
        monkeypatch.delenv(name, raising=False)
    assert job_seconds_left() == math.inf
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert job_seconds_left() == math.inf
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\n[ \"$*\" = '-h -j 7 -o %L' ] && echo 2:00\n")
    squeue.chmod(0o755)
    assert job_seconds_left() == 120
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 1000))
    assert job_seconds_left() == pytest.approx(1000, abs=2)
    clock = Clock(Communicator())
    assert clock._deadline - time.monotonic() == pytest.approx(1000 - JOB_MARGIN, abs=2)


def test_the_clock_leaves_room_for_an_iteration_and_two_saves(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_JOB_END_TIME"):
        monkeypatch.delenv(name, raising=False)
    assert not Clock(Communicator()).must_stop()
    now = time.monotonic()
    monkeypatch.setattr("distnewton.launch.deadline.STARTED", now)
    monkeypatch.setattr("distnewton.launch.deadline.time.monotonic", lambda: now)
    clock = Clock(Communicator(), 100.0)
    times = (0, 0, False), (10, 0, False), (30, 0, False), (60, 0, True), (50, 0, False), (40, 6, False), (40, 8, True)
    for elapsed, save, stops in times:
        monkeypatch.setattr("distnewton.launch.deadline.time.monotonic", lambda elapsed=elapsed: now + elapsed)
        clock.save_seconds = save
        assert clock.must_stop() == stops, elapsed


@pytest.mark.parametrize("seed", range(50))
def test_the_clock_leaves_time_for_two_saves_and_stops_no_two_iterations_early(monkeypatch, seed):
    random = np.random.default_rng(seed)
    for name in ("SLURM_JOB_ID", "SLURM_JOB_END_TIME"):
        monkeypatch.delenv(name, raising=False)
    now = [1000.0]
    monkeypatch.setattr("distnewton.launch.deadline.STARTED", now[0])
    monkeypatch.setattr("distnewton.launch.deadline.time.monotonic", lambda: now[0])
    clock, shortest, n = Clock(Communicator(), 20.0), random.uniform(0.1, 1.0), 0
    saving = random.uniform(0.0, 0.5)
    clock.saved(saving)
    longest = 0.0
    while not clock.must_stop():
        # iterations that differ by up to a half of the longest
        taken = shortest * random.uniform(1.0, 1.5)
        longest, n = max(longest, taken), n + 1
        now[0] += taken
        if n % 5 == 0:
            now[0] += saving
            clock.saved(saving)
    assert now[0] + saving <= 1020.0
    assert now[0] + 1.5 * longest + 2 * saving > 1020.0


def test_announcing_a_collective_is_cheap():
    dog = Watchdog()
    start = time.perf_counter()
    for _ in range(10_000):
        with dog.inside("sum"):
            pass
    # 0.5 us here; a collective between two ranks takes 2 at least
    assert (time.perf_counter() - start) / 10_000 < 2e-5
