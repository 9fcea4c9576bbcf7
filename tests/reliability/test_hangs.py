"""Hangs: a rank that stops or is elsewhere is found, named and ends the job, from the command and from Python."""

from __future__ import annotations

import json
import re
import sys
import time

import pytest
from launched import call, distnewton, launches, mpirun, run, small_data

from distnewton.errors import DataError, MissingInputError
from distnewton.guards.hangs import describe_hang, odd_ranks, ranges
from distnewton.reporting.failure_report import explain_failure
from distnewton.runs.run_folder import is_at_work

N_RANKS = 3
LIMIT = 2.0

PROGRAM = """
import sys
import numpy as np
from mpi4py import MPI
import distnewton
from distnewton.parallel.collectives import Communicator
config = distnewton.make_config({"network": {"layers": ["auto", 6, "auto"]}, "method": {"direction": "block_diagonal"},
    "run": {"iterations": 50, "hang_seconds": 2.0, "warn_seconds": 0.5}})
rng = np.random.default_rng(0)
y = rng.integers(3, size=60)
X = rng.standard_normal((60, 7)) + y[:, None]
distnewton.train(config, MPI.COMM_WORLD, train_data=distnewton.ArraySource(X, y))
"""


def train(folder, fault, *more, n_ranks=N_RANKS, check="0"):
    small_data(folder)
    command = distnewton(
        "train", "--data.train=small.npz", "--network.layers=auto-6-auto", "--run.iterations=50", "--run-dir=R",
        "--method.direction=block_diagonal", "--quiet", f"--run.hang_seconds={LIMIT}", "--run.warn_seconds=0.7", *more,
    )  # fmt: skip
    start = time.monotonic()
    done = run([*mpirun(n_ranks), *command], cwd=folder, DISTNEWTON_FAULT=fault, DISTNEWTON_CHECK=check)
    return done, time.monotonic() - start


def why(folder):
    done = call("why", folder / "R")
    assert done.returncode == 0, done.stderr
    return done.stdout


STOPPED = [(0, "cg"), (N_RANKS - 1, "gradient")]


@pytest.mark.parametrize(("rank", "at"), STOPPED)
def test_a_rank_that_is_stopped_is_named(tmp_path, rank, at):
    done, _ = train(tmp_path, f"rank={rank} at={at} iter=3 kind=stop")
    assert done.returncode == 76, done.stderr
    assert done.stderr.count(f"In no collective: rank {rank} on ") == 1, done.stderr
    # one rank warns, and one tells of the end
    assert done.stderr.count("s of it") == 1
    assert done.stderr.count(" failed: waited ") == 1
    told = why(tmp_path)
    assert f"In no collective: rank {rank} on " in told
    assert "exit code 76" in told
    assert "after iteration 2" in told
    assert len(list((tmp_path / "R/errors").glob("hang-rank-*.txt"))) == N_RANKS - 1


WRONG = [("skip-collective", "line_search", 1), ("wrong-count", "gradient", 0), ("skip-collective", "gradient", 2)]


@pytest.mark.parametrize(("kind", "at", "rank"), WRONG)
def test_the_checked_mode_names_the_rank_that_is_elsewhere(tmp_path, kind, at, rank):
    done, _ = train(tmp_path, f"rank={rank} at={at} iter=2 kind={kind}", "--run.checks=memory,messages")
    assert done.returncode == 70, done.stderr
    assert done.stderr.count("ranks are about to make different collectives:\n  rank ") == 1
    assert f"\n  rank {rank}: number " in done.stderr
    others = ranges([r for r in range(N_RANKS) if r != rank])
    assert f"\n  rank {others}: number " in done.stderr


def test_training_from_python_is_watched(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    fault = "rank=1 at=cg iter=3 kind=stop"
    done = run([*mpirun(2), sys.executable, "program.py"], cwd=tmp_path, DISTNEWTON_FAULT=fault)
    assert done.returncode == 76, done.stderr
    assert "In no collective: rank 1 on " in done.stderr


FIT = """from distnewton.sklearn import NewtonClassifier
NewtonClassifier((6,), settings={"run": {"hang_seconds": 2.0, "warn_seconds": 0.5}}, comm=MPI.COMM_WORLD).fit(X, y)
"""


@pytest.mark.parametrize("call", ["", FIT], ids=["train", "fit"])
def test_a_rank_that_never_begins_to_train_ends_the_job(tmp_path, call):
    pause = "if MPI.COMM_WORLD.rank == 1:\n    import time\n    time.sleep(60)\n"
    never = PROGRAM.replace("distnewton.train(", f"{pause}{call}distnewton.train(")
    (tmp_path / "program.py").write_text(never)
    done = run([*mpirun(2), sys.executable, "program.py"], cwd=tmp_path)
    assert done.returncode == 76, done.stderr
    assert "rank 0 on " in done.stderr
    assert re.search(r"rank 0 on .* has waited \d s for rank 1 of 2, before the first message of all", done.stderr)
    assert "failed: waited 2 s for rank 1 of 2 before the first message" in done.stderr


def test_a_short_wait_is_warned_of_and_taken_back(tmp_path):
    # the limit is far away: on a busy machine other waits are long, too
    # and the run is longer than the pause between two looks of the watchdog
    more = "--run.iterations=100", "--run.hang_seconds=60"
    done, _ = train(tmp_path, "rank=1 at=gradient iter=2 kind=sleep seconds=1.2", *more)
    assert done.returncode == 0, done.stderr
    assert sum(" s in sum of " in line and "phase gradient" in line for line in done.stderr.splitlines()) == 1
    assert "continues" in done.stderr


def waiting(group, number, name="sum"):
    return {"phase": None, "collective": {"group": group, "call": number, "name": name, "members": f"rank of {group}"}}


def test_the_odd_rank_among_those_that_wait():
    hosts = ["h"] * 4
    assert odd_ranks({r: waiting("world", 5 + (r == 2)) for r in range(4)}) == [2]
    # as many on either side: the one that has gone further left something out
    assert odd_ranks({0: waiting("world", 5), 1: waiting("world", 6)}) == [1]
    assert odd_ranks({r: waiting("world", 5) for r in range(4)}) == []
    assert odd_ranks({0: waiting("a", 5), 1: waiting("a", 5), 2: waiting("a", 5), 3: waiting("b", 9)}) == [3]
    assert odd_ranks({0: waiting("a", 5), 1: waiting("a", 5), 2: waiting("b", 5), 3: waiting("b", 9)}) != [0]
    text = describe_hang({0: waiting("w", 1), 2: waiting("w", 1)}, hosts)
    assert "In no collective: rank 1 on h, 3 on h" in text
    text = describe_hang({r: waiting("w", 1) for r in range(4)}, hosts)
    assert text.startswith("All ranks wait in the same collective")
    text = describe_hang({r: waiting("w", 1 + (r == 3), "barrier") for r in range(4)}, hosts)
    assert "Not where the others are: rank 3" in text
    assert "  rank 0-2: barrier (call 1 of rank of w)" in text


def test_why_of_a_failure_and_of_runs_without_one(tmp_path):
    train(tmp_path, "rank=1 at=cg iter=2 kind=raise", n_ranks=2)
    told = why(tmp_path)
    assert "cause      rank 1 on " in told
    assert "after iteration 1, phase direction, exit code 70" in told
    assert "InjectedFaultError: injected at cg" in told

    def again():
        return "\n".join(explain_failure(tmp_path / "R"))

    (tmp_path / "R/errors/first.json").unlink()
    limit = time.monotonic() + 60
    # the launcher may end before the ranks that it has killed are gone
    while is_at_work(tmp_path / "R") and time.monotonic() < limit:
        time.sleep(0.05)
    text = again()
    assert "no report was written after iteration 1, and no process has the run open: a signal (kill, " in text
    assert "ended a process or host; the launcher's output says which" in text
    (tmp_path / "R/end.json").write_text(json.dumps({"exit_code": 75}))
    assert "in order, exit code 75: stopped by the clock or a signal" in again()
    (tmp_path / "R/errors/first.json").write_text("{}")
    with pytest.raises(DataError, match="is damaged"):
        again()
    with pytest.raises(MissingInputError, match="is not a run folder"):
        list(explain_failure(tmp_path / "none"))


for name, function in list(globals().items()):
    if name.startswith("test_") and name != "test_the_odd_rank_among_those_that_wait":
        for mark in launches:
            mark(function)
