"""Starting the command as users do, with and without the mpirun beside this Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
MPIRUN = str(BIN / "mpirun") if (BIN / "mpirun").exists() else shutil.which("mpirun")
UNDER_LAUNCHER = any(name in os.environ for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE"))
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
launches = [
    pytest.mark.launches,
    pytest.mark.skipif(MPIRUN is None, reason="no mpirun beside this Python or in PATH"),
    pytest.mark.skipif(UNDER_LAUNCHER, reason="already under mpirun"),
]


@cache
def is_open_mpi():
    """Whether the mpirun is Open MPI's."""
    asked = subprocess.run([MPIRUN, "--version"], capture_output=True, text=True, timeout=60, check=False)
    return "Open MPI" in asked.stdout


def mpirun(n_ranks):
    """The launcher with its options."""
    return [MPIRUN, *(["--oversubscribe"] if is_open_mpi() else []), "-n", str(n_ranks)]


def run(command, *, limit=100, cwd=None, **environment):
    """Run a command to its end."""
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=limit, check=False, cwd=cwd,
        stdin=subprocess.DEVNULL, env=os.environ | AS_ROOT | {"TERM": "dumb"} | environment,
    )  # fmt: skip


def start(command, **environment):
    """Start a command."""
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL,
        env=os.environ | AS_ROOT | {"TERM": "dumb"} | environment,
    )  # fmt: skip


def distnewton(*arguments):
    """The command."""
    return [sys.executable, "-m", "distnewton.cli", *map(str, arguments)]


def small_data(folder, n=90):
    """A CSV file that trains in no time."""
    import numpy as np

    rng = np.random.default_rng(0)
    y = rng.integers(3, size=n)
    X = 3 * rng.standard_normal((3, 7))[y] + rng.standard_normal((n, 7))
    lines = [",".join([*(f"{value:.6f}" for value in row), "abc"[k]]) for row, k in zip(X, y, strict=True)]
    (folder / "small.csv").write_text("\n".join(lines) + "\n")
    return folder / "small.csv"
