"""The tutorial, walked: its commands and its Python in their order, in an empty folder beside the recipes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from launched import AS_ROOT, BIN, distnewton, is_open_mpi, launches, mpirun, run

REPOSITORY = Path(__file__).parents[2]
TUTORIAL = REPOSITORY / "docs" / "tutorial.md"
FENCE = re.compile(r"^```(sh|python)\n(.*?)^```$", re.M | re.S)
OUTPUT = re.compile(r"^```sh\n([^\n]*)\n```\n\n```text\n(.*?)^```$", re.M | re.S)
NOT_HERE = ("pip ", "python3 -m venv")


def steps():
    for language, body in FENCE.findall(TUTORIAL.read_text(encoding="utf-8")):
        if language == "python":
            yield body, ""
        else:
            yield from (("", line) for line in body.splitlines() if not line.startswith(NOT_HERE))


def shapes(text):
    """Lines with a # for each number, without the version of MPI and the spaces between columns."""
    numbers = (re.sub(r"\d[\d,.]*(e[+-]\d+)?", "#", line.partition(", MPICH")[0]) for line in text.splitlines())
    return [" ".join(line.split()) for line in numbers]


def objectives(text):
    """Objectives in lines of the log, by iteration."""
    return {int(k): float(value) for k, value in re.findall(r"^ {1,4}(\d+) +(\d\S*)", text, re.M)}


@pytest.mark.parametrize("marks", [pytest.param(None, marks=launches)])
def test_the_tutorial_shows_what_is_printed(marks, tmp_path):
    if is_open_mpi():
        pytest.skip("the tutorial shows MPICH's name")
    shown = OUTPUT.findall(TUTORIAL.read_text(encoding="utf-8"))
    assert len(shown) == 1
    for command, text in shown:
        done = run([*mpirun(4), *distnewton(*command.split("distnewton ")[1].split(), "--run.iterations", "4")],
                   cwd=tmp_path)  # fmt: skip
        assert done.returncode == 0, done.stderr
        missing = [line for line in shapes(text) if line not in shapes(done.stdout)]
        assert not missing, f"{missing}\nnot in\n{done.stdout}"
        printed, expected = objectives(done.stdout), objectives(text)
        assert expected
        for iteration, objective in expected.items():
            # early termination depends on the ranks' speed
            assert printed[iteration] == pytest.approx(objective, rel=0.15)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("marks", [pytest.param(None, marks=launches)])
def test_the_tutorial_works(marks, tmp_path):
    for name in ("launch", "cluster_configs"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    environment = os.environ | AS_ROOT | {"PATH": f"{BIN}:{os.environ['PATH']}", "TERM": "dumb"}
    for code, line in steps():
        if is_open_mpi():
            line = line.replace("mpirun ", "mpirun --oversubscribe ")
        command = [sys.executable, "-c", code] if code else ["bash", "-c", line]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, f"{line or code}\n{done.stdout}\n{done.stderr}"
    labels = (tmp_path / "species.txt").read_text().split()
    truth = [row.rpartition(",")[2] for row in (tmp_path / "iris.csv").read_text().split()[1:]]
    assert sum(a == b for a, b in zip(labels, truth, strict=True)) >= 140
    assert "<html" in (tmp_path / "runs" / "digits" / "report.html").read_text()
    assert (tmp_path / "runs" / "iris-001" / "model.safetensors").exists()
