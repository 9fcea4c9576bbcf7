"""Runs that signals and the clock stop, as users and batch systems do it; and the command line of going on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from launched import AS_ROOT, call, distnewton, is_open_mpi, launches, mpirun, run, small_data

pytestmark = launches
ENDLESS = ["--data.train=small.npz", "--network.layers=auto-6-auto", "--method.direction=sgd",
           "--run.iterations=10000000", "--run-dir", "R", "--quiet"]  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small_data(tmp_path)
    # what ignores them, say a shell that starts the tests in the background, has its children ignore them
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGHUP)}
    yield tmp_path
    for number, handler in before.items():
        signal.signal(number, handler)


def ranks_below(pid):
    """Processes of the ranks below a launcher."""
    import psutil

    return [p for p in psutil.Process(pid).children(recursive=True) if "distnewton.cli" in p.cmdline()
            and "supervise" not in " ".join(p.cmdline())]  # fmt: skip


def signalled(place, command, whom, number):
    """Send a signal to the launcher or to a rank of a run that has begun; returns code, seconds to the end, stderr."""
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True, env=os.environ | AS_ROOT,
                          stdin=subprocess.DEVNULL) as job:  # fmt: skip
        metrics, end = place / "R/metrics.jsonl", time.monotonic() + 60
        while not metrics.exists() or metrics.read_text().count("\n") < 3:
            assert job.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        begin = time.monotonic()
        if whom == "launcher":
            job.send_signal(number)
        else:
            ranks_below(job.pid)[-1].send_signal(number)
        try:
            _, text = job.communicate(timeout=40)
        finally:
            if job.poll() is None:
                job.kill()
    return job.returncode, time.monotonic() - begin, text


# who receives what: a table of what launchers deliver, in which a change of theirs is noticed
STOPS = [
    ("launcher", "SIGUSR1"), ("rank", "SIGTERM"), ("launcher", "SIGINT"),
    pytest.param("rank", "SIGHUP", marks=pytest.mark.slow),
    pytest.param("rank", "SIGINT", marks=pytest.mark.slow),
    pytest.param("rank", "SIGUSR1", marks=pytest.mark.slow),
    pytest.param("launcher", "SIGTERM", marks=pytest.mark.slow),
]  # fmt: skip


@pytest.mark.parametrize(("whom", "name"), STOPS)
def test_a_signal_to_the_launcher_or_to_any_rank_stops_with_a_checkpoint(place, whom, name):
    code, seconds, text = signalled(place, [*mpirun(2), *distnewton("train", *ENDLESS)], whom, getattr(signal, name))
    assert seconds < 30
    if is_open_mpi() and whom == "launcher" and name != "SIGUSR1":
        # it sends SIGTERM to the ranks, and kills those that have not saved soon after
        assert code not in (0, 75, 130)
        return
    expected, words = (130, "interrupted") if name == "SIGINT" else (75, "stopped by a signal")
    assert code == expected, text
    assert text.count(f"{words} after iteration") == 1, text
    records = [json.loads(line) for line in (place / "R/metrics.jsonl").read_text().splitlines()]
    newest = max((place / "R/checkpoints").glob("step-*"))
    assert int(newest.name[5:]) == records[-1]["iteration"]
    if (whom, name) != STOPS[0]:
        return
    more = records[-1]["iteration"] + 2
    done = run([*mpirun(2), *distnewton("train", "--resume", "R", f"--run.iterations={more}", "--quiet")])
    assert done.returncode == 0, done.stderr
    numbers = [json.loads(line)["iteration"] for line in (place / "R/metrics.jsonl").read_text().splitlines()]
    assert numbers == list(range(more + 1))
    assert json.loads((place / "R/environment.json").read_text())["resumed_from"] == more - 2


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)])
def test_a_signal_to_the_supervisor_of_a_job_saves_with_both_launchers(place, number):
    command = ["python", "-m", "distnewton.cluster.supervise", "R", "--", *mpirun(2), *distnewton("train", *ENDLESS)]
    (place / "R").mkdir()
    code, _, text = signalled(place, command, "launcher", number)
    assert code == 75, text
    assert list((place / "R/checkpoints").glob("step-*"))


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGHUP", 75)])
def test_a_run_without_launcher_stops_and_goes_on(place, name, code):
    ended, _, text = signalled(place, distnewton("train", *ENDLESS), "launcher", getattr(signal, name))
    assert ended == code, text
    assert "distnewton train --resume" in text
    assert ("Ctrl-C again stops it at once" in text) == (name == "SIGINT")
    records = (place / "R/metrics.jsonl").read_text().splitlines()
    assert int(max((place / "R/checkpoints").glob("step-*")).name[5:]) == json.loads(records[-1])["iteration"]


@pytest.mark.parametrize(("arguments", "code", "words"), [
    (["--resume"], 2, "--resume needs a run folder"),
    (["--resume", "x.toml"], 2, "put the recipe before --resume"),
    (["--resume", "A", "--run-dir", "B"], 2, "--resume A and --run-dir B are different folders"),
    (["--resume", "nowhere"], 66, "there is no checkpoint in nowhere/checkpoints"),
    ([*ENDLESS, "--resume"], 66, "there is no checkpoint in R/checkpoints"),
    ([*ENDLESS[:3], "--run.keep_checkpoints=-1"], 78, "run.keep_checkpoints"),
    ([*ENDLESS[:3], "--run.checkpoint_minutes=nan"], 78, "run.checkpoint_minutes"),
])  # fmt: skip
def test_what_cannot_go_on_is_told(place, arguments, code, words):
    done = call("train", *arguments)
    assert (done.returncode, done.stderr.count(words)) == (code, 1), done.stderr
    assert not Path("R").exists()


def test_one_process_at_a_time_trains_a_run(place):
    first = distnewton("train", *ENDLESS, "--run.checkpoint_minutes=0")
    with subprocess.Popen(first, stderr=subprocess.DEVNULL) as job:
        try:
            end = time.monotonic() + 60
            while not list(place.glob("R/checkpoints/step-??????")):
                assert time.monotonic() < end
                time.sleep(0.05)
            for more in (["--resume=auto"], ["--run.overwrite=true"]):
                done = call("train", *ENDLESS, *more)
                assert done.returncode == 73
                assert "another process is training this run now" in done.stderr
        finally:
            job.terminate()
        assert job.wait(30) == 75


def test_a_run_that_went_on_with_other_ranks_is_told_of_by_all_commands(place):
    begun = call("train", "--data.train=small.npz", "--network.layers=auto-6-auto", "--run.iterations=2", "--run-dir=R")
    assert begun.returncode == 0, begun.stderr
    done = run([*mpirun(2), *distnewton("train", "--resume", "R", "--run.iterations=5")])
    assert done.returncode == 0, done.stderr
    assert "resumes from iteration 2" in done.stdout
    ended = re.search(r"directions ended early\W+(\d+) of (\d+)", done.stdout)
    assert ended
    assert int(ended[1]) <= int(ended[2]) == 3
    for command in (["info", "R"], ["report", "R"], ["evaluate", "R", "small.npz"]):
        told = call(*command)
        assert told.returncode == 0, told.stderr
    lines = (place / "R/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [*range(6)]
