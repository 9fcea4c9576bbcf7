"""Launches that went wrong, and failures that end the job: what is printed, and the exit code."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from launched import launching, mpirun, run

from distnewton.errors import ConfigError
from distnewton.guards.faults import FaultInjector, InjectedFaultError
from distnewton.guards.ledger import Ledger
from distnewton.launch import startup
from distnewton.launch.startup import launched_rank, launched_size, run_guarded

VARIABLES = [
    "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS",
    "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID", "DISTNEWTON_FAULT",
]  # fmt: skip


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    # under a real launcher the failures rehearsed here would end its job
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", None)


@pytest.mark.parametrize(("variables", "size", "rank"), [
    ({}, 1, 0),
    ({"PMI_SIZE": "4", "PMI_RANK": "3"}, 4, 3),
    ({"OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_RANK": "5", "PMIX_RANK": "5"}, 8, 5),
    ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}, 2, 1),
    ({"PMI_SIZE": "", "PMI_RANK": "x"}, 1, 0),
])  # fmt: skip
def test_the_launcher_is_read_from_the_environment(monkeypatch, variables, size, rank):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (launched_size(), launched_rank()) == (size, rank)


def start(code, **variables):
    """Run code in a fresh Python under a pretended launcher."""
    clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return subprocess.run(
        [sys.executable, "-c", code], env=clean | variables, capture_output=True, text=True, timeout=60, check=False
    )


WORLD = """
import sys
from distnewton.launch.startup import run_guarded, world_communicator
code = run_guarded(lambda: print("size", world_communicator().size) or 0)
print("mpi loaded", "mpi4py.MPI" in sys.modules)
sys.exit(code)
"""


def test_without_a_launcher_no_mpi_is_started():
    done = start(WORLD)
    assert (done.returncode, done.stdout.split("\n")[:2]) == (0, ["size 1", "mpi loaded False"])


@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("prefix", ["OMPI_COMM_WORLD", "PMI"])
def test_processes_that_mpi_does_not_connect_are_explained_once(prefix, rank):
    # as under the launcher of another MPI: it announces eight processes, but each is alone in its world
    done = start(WORLD, **{f"{prefix}_SIZE": "8", f"{prefix}_RANK": str(rank)})
    if "size" in done.stdout or "PMI" in done.stderr or "Open MPI" in done.stderr:
        pytest.skip("this MPI library refuses a pretended launcher, or believes in it")
    assert done.returncode == 78, done.stderr
    if rank == 0:
        assert done.stderr.count("the launcher started 8 processes, but each is alone") == 1
        assert "start with the mpirun of the same installation" in done.stderr
    else:
        assert done.stderr == ""


def test_a_missing_mpi_library_is_explained():
    code = "import sys; sys.modules['mpi4py'] = None\n" + WORLD
    done = start(code, OMPI_COMM_WORLD_SIZE="2", OMPI_COMM_WORLD_RANK="0")
    assert done.returncode == 78
    assert "no MPI library could be loaded" in done.stderr
    assert "pip install 'distnewton[mpich]'" in done.stderr


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(("error", "code", "text"), [
    (ConfigError("advice"), 78, "distnewton: advice\n"),
    (SystemExit(3), 3, "distnewton: SystemExit(3)\n"),
    (SystemExit("why"), 1, "distnewton: SystemExit('why')\n"),
    (SystemExit(0), 0, ""),
    (SystemExit(None), 0, ""),
    (KeyboardInterrupt(), 130, "distnewton: interrupted\n"),
    (BrokenPipeError(), 1, ""),
])  # fmt: skip
def test_failures_become_one_message_and_a_code(capsys, error, code, text):
    assert run_guarded(raising(error)) == code
    assert capsys.readouterr().err == text


def test_a_bug_shows_its_traceback(capsys):
    assert run_guarded(raising(ZeroDivisionError("oops"))) == 70
    text = capsys.readouterr().err
    assert text.count("ZeroDivisionError: oops\nthis is a bug in distnewton\n  File ") == 1
    assert 'in main\n    raise error' in text


def test_a_long_traceback_is_cut_and_memory_is_no_bug(capsys):
    def deep(n):
        if n == 0:
            raise MemoryError("Unable to allocate 9 GiB")
        # each frame differs, so that Python does not fold them
        (deep if n % 2 else lambda k: deep(k))(n - 1)

    assert run_guarded(lambda: deep(60)) == 78
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("distnewton: out of memory (Unable to allocate 9 GiB): use more ranks")
    assert lines[1] == "  ..."
    assert "raise MemoryError" in lines[-1]
    assert len(lines) <= 30


@pytest.mark.parametrize("agreed", [False, True])
@pytest.mark.parametrize("rank", [0, 2])
def test_agreed_errors_are_told_by_rank_0_others_by_whoever_meets_them(monkeypatch, capsys, agreed, rank):
    monkeypatch.setenv("PMI_SIZE", "3")
    monkeypatch.setenv("PMI_RANK", str(rank))
    assert run_guarded(raising(ConfigError("advice", collective=agreed))) == 78
    text = capsys.readouterr().err
    if agreed:
        assert text == ("distnewton: advice\n" if rank == 0 else "")
    else:
        assert text == f"distnewton: rank {rank} of 3 on {os.uname().nodename} failed: advice\n"


def test_faults_hit_the_rank_and_the_pass_they_name():
    faults, ledger = FaultInjector(), Ledger()
    faults.arm(1, ledger, "rank=0 at=cg kind=raise")
    faults.at("cg")
    faults.arm(0, ledger, "rank=0 at=cg kind=raise skip=2")
    for point in ("data", "cg", "gradient", "cg"):
        faults.at(point)
    with pytest.raises(InjectedFaultError, match="injected at cg"):
        faults.at("cg")
    faults.arm(0, ledger, "rank=0 at=data kind=exit")
    with pytest.raises(SystemExit), ledger.phase("data"):
        pass
    faults.arm(0, ledger, "")
    faults.at("data")


def test_only_cg_can_be_slowed():
    with pytest.raises(ConfigError, match="kind=sleep seconds=S holds a rank up elsewhere"):
        FaultInjector().arm(0, Ledger(), "rank=0 at=gradient kind=slow factor=3")


@pytest.mark.parametrize("text", [
    "rank=0 at=nowhere kind=raise", "rank=0 at=cg kind=halt", "rank=x at=cg kind=raise", "kind=raise at=cg", "nonsense",
    "rank=0 at=cg kind=raise what=1", "rank=0 at=cg kind=raise skip=few",
    "rank=0 at=cg kind=slow factor=much",
])  # fmt: skip
def test_faults_that_are_not_understood_are_refused_on_every_rank(text):
    for rank in (0, 5):
        with pytest.raises(ConfigError, match=r"DISTNEWTON_FAULT=.* is not understood: expected rank=N") as caught:
            FaultInjector().arm(rank, Ledger(), text)
        assert caught.value.collective


ALONE = """
import os, sys, time
from distnewton.launch.startup import launched_rank, run_guarded
def program():
    if launched_rank() == 1:
        raise KeyboardInterrupt
    from mpi4py import MPI
    time.sleep(100)
sys.exit(run_guarded(program))
"""


@launching
def test_a_rank_that_fails_before_mpi_connects_it_ends_the_job():
    done = run([*mpirun(3), sys.executable, "-c", ALONE])
    assert done.returncode == 130
    assert "rank 1 of 3" in done.stderr
    assert "interrupted" in done.stderr


@pytest.mark.parametrize(("n_ranks", "given", "expected"), [(3, None, "1"), (2, None, None), (3, "0", "0")])
def test_waiting_ranks_sleep_where_they_share_cores(monkeypatch, n_ranks, given, expected):
    variable = "MPIR_CVAR_ENABLE_HEAVY_YIELD"
    monkeypatch.setattr(startup, "own_cores", lambda: {0, 1})
    monkeypatch.setenv("MPI_LOCALNRANKS", str(n_ranks))
    monkeypatch.setenv(variable, given or "")
    if given is None:
        monkeypatch.delenv(variable)
    startup._let_waiting_ranks_sleep()
    assert os.environ.get(variable) == expected
