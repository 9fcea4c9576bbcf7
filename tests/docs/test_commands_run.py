"""Commands of README and docs, run as they stand but for fewer iterations, page by page, on small files."""

from __future__ import annotations

import bz2
import lzma
import sys

import pytest
from doc_pages import DOCS, REPOSITORY, commands
from launched import distnewton, launching, mpirun, run

PAGES = [
    REPOSITORY / "README.md", DOCS / "index.md",
    *(DOCS / "guide" / f"{name}.md" for name in (
        "administrators", "cluster", "data", "defaults", "directions", "genotypes", "physics", "planning",
        "reliability", "splits", "training",
    )),
]  # fmt: skip
"""Pages with commands; the tutorial, and pages that need an extra or a GPU, have tests of their own."""
RECIPE = '[data]\ntrain = "table.csv"\n[network]\nlayers = ["auto", 5, "auto"]\n'
RUNS = {"reliability": ["letter"], "training": ["letter-2"]}
"""Runs that a page lets the reader have."""
FEWER = {"train": ["--run.iterations", "3"], "compare": ["--seconds", "0.2"]}


@pytest.fixture
def place(tmp_path):
    """A folder with the files that pages let the reader have."""
    for name in ("launch", "cluster_configs"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    rows = [f"{i % 7},{i % 11},{'ab'[i % 2]}" for i in range(60)]
    for name in ("table.csv", "new.csv"):
        (tmp_path / name).write_text("\n".join(["x,y,label", *rows]) + "\n")
    (tmp_path / "articles.txt").write_text("".join(f"{i % 3},{3 + i % 2} {1 + i % 5}:1 7:{i}\n" for i in range(60)))
    letters = "".join(f"{1 + i % 26} " + " ".join(f"{k}:{(i * k) % 9 - 4}" for k in range(1, 17)) + "\n"
                      for i in range(104))  # fmt: skip
    (tmp_path / "new.libsvm").write_text(letters)
    (tmp_path / "DATA" / "letter").mkdir(parents=True)
    for name in ("letter.scale.bz2", "letter.scale.t.bz2"):
        (tmp_path / "DATA" / "letter" / name).write_bytes(bz2.compress(letters.encode()))
    (tmp_path / "news20.libsvm.xz").write_bytes(lzma.compress(letters.encode()))
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path


def reason_to_leave_out(words):
    """Why a command is not run here; empty if it is."""
    text = " ".join(words)
    if words[0] in {"pip", "git", "cd"} or "launch/" in words[0]:
        return "it installs"
    if "benchmarks." in text and "benchmarks.genotypes" not in text:
        return "it measures a table of the page"
    if "--cluster" in words and "--dry-run" not in words and words[1] != "plan":
        return "it needs Slurm"
    if "straggler" in words:
        return "it takes minutes; tests/cli has smaller ones"
    return "it measures a table of the page" if "--levels" in words else ""


def command_of(words):
    """Command with the programs of this environment, and fewer iterations."""
    launcher = []
    if words[0] == "mpirun":
        launcher, words = mpirun(int(words[2])), words[3:]
    if words[0] == "python":
        return [*launcher, sys.executable, *words[1:]]
    assert words[0] == "distnewton"
    fewer = [] if "--replay" in words else FEWER.get(words[1], [])
    return [*launcher, *distnewton(*words[1:], *fewer)]


@pytest.mark.slow
@pytest.mark.timeout(900)
@launching
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_of_a_page_run(page, place):
    earlier = [["distnewton", "train", "recipe.toml", "--run-dir", f"runs/{name}"] for name in RUNS.get(page.stem, ())]
    ran = 0
    for words in [*earlier, *commands(page)]:
        if reason_to_leave_out(words):
            continue
        done = run(command_of(words), cwd=place, PYTHONPATH=f"{REPOSITORY}:{REPOSITORY / 'tests'}")
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
        ran += 1
    assert ran > len(earlier)
