"""Starting the command as users do, with and without the mpirun beside this Python."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import cache
from pathlib import Path

import pytest
from speed import slowness

BIN = Path(sys.executable).parent
MPIRUN = str(BIN / "mpirun") if (BIN / "mpirun").exists() else shutil.which("mpirun")
LAUNCHERS = ("PMI", "OMPI_COMM_WORLD")  # MPICH and Open MPI name rank and number of ranks with these
UNDER_LAUNCHER = any(f"{name}_SIZE" in os.environ for name in LAUNCHERS)
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
launches = [
    pytest.mark.launches,
    pytest.mark.skipif(MPIRUN is None, reason="no mpirun beside this Python or in PATH"),
    pytest.mark.skipif(UNDER_LAUNCHER, reason="already under mpirun"),
]


def launching(test):
    """Mark a test that starts mpirun, in a module of others."""
    for mark in launches:
        test = mark(test)
    return test


def n_ranks():
    """Ranks of the mpirun that started this process; 1 without."""
    return next((int(os.environ[f"{name}_SIZE"]) for name in LAUNCHERS if f"{name}_SIZE" in os.environ), 1)


def rank():
    """Rank of this process under mpirun; 0 without."""
    return next((int(os.environ[f"{name}_RANK"]) for name in LAUNCHERS if f"{name}_RANK" in os.environ), 0)


@cache
def is_open_mpi():
    """Whether the mpirun is Open MPI's."""
    asked = subprocess.run([MPIRUN, "--version"], capture_output=True, text=True, timeout=60, check=False)
    return "Open MPI" in asked.stdout


def mpirun(n_ranks):
    """The launcher with its options."""
    return [MPIRUN, *(["--oversubscribe"] if is_open_mpi() else []), "-n", str(n_ranks)]


def run(command, *, limit=100, **options):
    """Run a command to its end, within a limit of seconds on a quiet machine; options are those of `start`."""
    with start(command, **options) as process:
        try:
            out, err = process.communicate(timeout=limit * slowness())
        except BaseException:
            end_group(process)
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def start(command, *, cwd=None, **environment):
    """Start a command in a session of its own, so that no signal for it reaches the tests."""
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL,
        cwd=cwd, env=os.environ | AS_ROOT | {"TERM": "dumb"} | environment, start_new_session=True,
    )  # fmt: skip


def end_group(process):
    """End a command and its children; those in groups of their own (ranks) end with the test."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def distnewton(*arguments):
    """The command."""
    return [sys.executable, "-m", "distnewton.cli", *map(str, arguments)]


SEVERAL = """
import json, sys
from distnewton.cli.main import console
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    try:
        console()
    except SystemExit as end:
        if end.code:
            raise
"""


def several(*commands):
    """Commands after each other in one process, which the first that fails ends."""
    return [sys.executable, "-c", SEVERAL, json.dumps([list(map(str, command)) for command in commands])]


def call(*arguments, **environment):
    """Run the command in this process as the console script does, on all ranks under mpirun (then it must not fail on
    one of them alone, which ends the job); returns what `run` returns, the output of this rank.

    A start costs a second of imports on each rank: tests of what a command says and leaves call it so. `run` is for
    tests of the process: signals, exits, ranks that die, real terminals and streams.
    """
    from distnewton.cli.main import main
    from distnewton.guards.failures import Failures, failures
    from distnewton.launch.startup import run_guarded

    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for name, value in ({"TERM": "dumb"} | environment).items():
            patch.setenv(name, value)
        vars(failures).update(vars(Failures()))
        code = run_guarded(lambda: main([str(argument) for argument in arguments]))
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def call_together(world, *arguments, **environment):
    """Call the command on all ranks that run the tests; returns the same on each: all that was said, the first code.

    The code of a launch is that of the first rank, where no rank is alone with an error.
    """
    done = call(*arguments, **environment)
    said = world.allgather_json([done.returncode, done.stdout, done.stderr])
    code, out, err = said[0][0], *("".join(one[i] for one in said) for i in (1, 2))
    assert all(one[0] in (0, code) for one in said), (said, err)
    return subprocess.CompletedProcess(arguments, code, out, err)


def small_data(folder, n=90):
    """Arrays that train in no time; a table would have each process import pandas, which costs 0.6 s."""
    import numpy as np

    rng = np.random.default_rng(0)
    y = rng.integers(3, size=n)
    X = 3 * rng.standard_normal((3, 7))[y] + rng.standard_normal((n, 7))
    np.savez(folder / "small.npz", X=X, y=np.array(list("abc"))[y])
    return folder / "small.npz"
