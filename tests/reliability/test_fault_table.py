"""The fault table: what fails, where and on which rank -> exit code, message, and what is on disk. Nothing hangs."""

from __future__ import annotations

import json
import os
import subprocess
import time

import pytest
from launched import AS_ROOT, distnewton, launches, mpirun, small_data
from speed import slowness

N_RANKS = 3
SECONDS = 5.0
"""From the fault to the end of the job; starting the command is counted apart."""

# place -> (point, iteration, phase in the message)
PLACES = {
    "config": ("config", None, None), "data": ("data", None, None), "allocate": ("allocate", None, None),
    "init": ("init", None, None), "start": ("gradient", 0, "gradient"), "gradient": ("gradient", 2, "gradient"),
    "jacobian": ("jacobian", 2, "jacobian"), "cg": ("cg", 2, "direction"),
    "line_search": ("line_search", 2, "line_search"), "finalise": ("finalise", None, None),
}  # fmt: skip
# kind -> (exit codes with MPICH and Open MPI, what the first line says)
KINDS = {
    "raise": ({70}, "InjectedFaultError: injected at"),
    "exit": ({3}, "SystemExit(3)"),
    # MPICH's launcher may return the code of a rank that it has ended itself
    "_exit": ({3, 9}, None),
    "kill": ({9, 137}, None),
    "segv": ({9, 11, 139}, None),
    "mpi-error": ({70}, "a message between ranks failed; DISTNEWTON_CHECK=1"),
    "memory-error": ({78}, "out of memory (injected at"),
    "interrupt": ({130}, "interrupted"),
}
AGREED = {(at, "memory-error") for at in ("config", "data", "allocate", "finalise")}
"""Faults that all ranks learn of: no job is aborted, and the message names the rank at its end."""
WHOLE = [(at, kind, rank) for at in PLACES for kind in KINDS for rank in (0, N_RANKS - 1)]
QUICK = [
    ("config", "raise", 2), ("config", "exit", 0), ("data", "memory-error", 2), ("data", "_exit", 0),
    ("allocate", "memory-error", 0), ("init", "interrupt", 2), ("start", "segv", 2), ("gradient", "mpi-error", 2),
    ("jacobian", "kill", 0), ("cg", "raise", 2), ("line_search", "exit", 2), ("finalise", "kill", 2),
]  # fmt: skip


def start(folder, fault, *more, n_ranks=N_RANKS, **environment):
    """Train under mpirun with a fault; returns the process's end and its seconds."""
    if not (folder / "small.npz").exists():
        small_data(folder)
    command = distnewton(
        "train", "--data.train=small.npz", "--network.layers=auto-6-auto", "--run.iterations=4", "--run-dir", "R",
        "--quiet", "--method.direction=block_diagonal", *more,
    )  # fmt: skip
    started = time.monotonic()
    done = subprocess.run(
        [*mpirun(n_ranks), *command], capture_output=True, text=True, timeout=60 * slowness(), check=False, cwd=folder,
        stdin=subprocess.DEVNULL, errors="replace",
        env=os.environ | AS_ROOT | {"TERM": "dumb", "DISTNEWTON_FAULT": fault} | environment,
    )  # fmt: skip
    return done, time.monotonic() - started


def our_block(text):
    """Lines of ours, without what launcher and MPI library add."""
    lines = text.splitlines()
    begin = [i for i, line in enumerate(lines) if line.startswith("distnewton: ")]
    assert len(begin) <= 1, text
    if not begin:
        return []
    block = []
    for line in lines[begin[0] :]:
        if line.startswith(("Abort(", "---", "===", "application called", "[", "prterun")):
            break
        block.append(line)
    return block


def check(folder, at, kind, rank, baseline):
    point, iteration, phase = PLACES[at]
    when = f" iter={iteration}" if iteration else ""
    done, seconds = start(folder, f"rank={rank} at={point}{when} kind={kind}")
    codes, cause = KINDS[kind]
    assert done.returncode in codes, (done.returncode, done.stderr)
    if seconds > baseline + SECONDS:
        # others load this machine: the same without a fault takes longer now, too
        whole = folder / "whole"
        whole.mkdir()
        baseline = start(whole, "")[1]
    assert seconds < baseline + SECONDS, seconds
    block = our_block(done.stderr)
    text = "\n".join(block)
    if cause is None:
        # a process that is gone says nothing, but its launcher does; a crash shows where it was
        assert block == []
        assert kind != "segv" or "Segmentation fault" in done.stderr
    else:
        assert len([line for line in block if line.strip()]) <= 30, text
        assert cause in text, done.stderr
    agreed = (at, kind) in AGREED
    if cause is not None and not agreed:
        assert block[0].startswith(f"distnewton: rank {rank} of {N_RANKS} on {os.uname().nodename} failed: ")
        if phase is not None:
            assert f"\n  iteration {iteration}, phase {phase}" in text
        if at != "config":
            assert text.count(f"run folder: {folder / 'R'}") == 1
    if agreed:
        assert block[0].endswith(f"(rank {rank})")
    check_disk(folder / "R", at, kind, rank, codes, agreed)


def check_disk(run, at, kind, rank, codes, agreed):
    """Records are whole, the model is there or not, the failure is kept."""
    # the fault of a rank does not wait for the others: rank 0 may be behind it, or save the model before it dies
    assert not (run / "end.json").exists()
    if agreed and at != "finalise":
        # never began: nothing is left
        assert not run.exists()
        return
    if run.exists() and (run / "metrics.jsonl").exists():
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert [record["iteration"] for record in records] == list(range(len(records)))
        assert len(records) == 5 or at != "finalise"
    # a rank that dies without a word takes rank 0 with it, which may be writing a file
    assert KINDS[kind][1] is None or not list(run.glob("*.part"))
    if KINDS[kind][1] is not None and at != "config":
        first = json.loads((run / "errors/first.json").read_text())
        assert first["rank"] == (0 if agreed else rank)
        assert first["exit_code"] in codes
        assert KINDS[kind][1].split(";")[0].split("(")[0] in first["message"]


@pytest.fixture(scope="module")
def baseline(tmp_path_factory):
    """Seconds that the command takes without a fault."""
    done, seconds = start(tmp_path_factory.mktemp("whole"), "")
    assert done.returncode == 0, done.stderr
    return seconds


def name(case):
    return "-".join(map(str, case))


@pytest.mark.parametrize("case", QUICK, ids=name)
def test_a_fault_ends_the_job_with_one_message(tmp_path, baseline, case):
    check(tmp_path, *case, baseline)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in WHOLE if case not in QUICK], ids=name)
def test_the_whole_table(tmp_path, baseline, case):
    check(tmp_path, *case, baseline)


@pytest.mark.parametrize(("kind", "code"), [("enospc", 74), ("eacces", 74)])
def test_a_model_that_cannot_be_written(tmp_path, kind, code):
    done, _ = start(tmp_path, f"rank=0 at=finalise kind={kind}", n_ranks=2)
    assert done.returncode == code, done.stderr
    assert done.stderr.count("cannot write") == done.stderr.count("model.safetensors: ") == 1
    assert not (tmp_path / "R/model.safetensors").exists()


def test_data_that_one_rank_may_not_read(tmp_path):
    done, _ = start(tmp_path, "rank=1 at=data kind=eacces", n_ranks=2)
    assert done.returncode == 66, done.stderr
    assert done.stderr.count(f"small.npz[X]: cannot be read on {os.uname().nodename} (Permission denied) (rank 1)") == 1
    assert not (tmp_path / "R").exists()


pytestmark = [*launches]
