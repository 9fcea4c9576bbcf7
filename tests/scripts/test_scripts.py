"""The launch scripts parse and dry-run, say what is wrong with their options, and the recipes are valid."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from distnewton.config import load_config

REPOSITORY = Path(__file__).parents[2]
LAUNCH = REPOSITORY / "launch"
RECIPES = sorted((LAUNCH / "recipes").glob("*.toml"))
SCRIPTS = sorted(script for script in LAUNCH.glob("*.sh") if script.name != "common.sh")

pytestmark = pytest.mark.skipif(not shutil.which("bash"), reason="the launch scripts need bash")


def run(script, *arguments, cwd=REPOSITORY, **variables):
    environment = {**os.environ, **variables}
    command = ["bash", str(script), *arguments]
    silent = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    return subprocess.run(command, cwd=cwd, env=environment, timeout=60, check=False, **silent)


@pytest.mark.parametrize("script", [*LAUNCH.glob("*.sh"), REPOSITORY / ".ci/run"], ids=lambda p: p.name)
def test_bash_reads_it(script):
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_dry_run_prints_commands_and_touches_nothing(script, tmp_path):
    venv = tmp_path / "an environment"
    done = run(script, "--dry-run", cwd=tmp_path, DISTNEWTON_VENV=str(venv))
    assert done.returncode == 0, done.stderr
    assert "mpirun" in done.stdout
    assert not venv.exists()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_help_and_unknown_options(script):
    assert "usage: launch/" in run(script, "--help").stdout
    done = run(script, "--no-such-option")
    assert done.returncode == 2
    assert "--no-such-option" in done.stderr


def test_quickstart_makes_installs_trains(tmp_path):
    venv = tmp_path / "env"
    done = run(LAUNCH / "quickstart.sh", "--dry-run", "--ranks", "3", DISTNEWTON_VENV=str(venv))
    lines = done.stdout.splitlines()
    commands = ["-m venv", "pip install", "mpirun -n 3 distnewton train digits"]
    places = [next(i for i, line in enumerate(lines) if text in line) for text in commands]
    assert places == sorted(places)
    assert any("[mpich,plot,digits]" in line for line in lines)


def test_open_mpi_is_told_to_oversubscribe(tmp_path):
    arguments = ("--dry-run", "--mpi", "openmpi", "--ranks", "4")
    text = run(LAUNCH / "quickstart.sh", *arguments, DISTNEWTON_VENV=str(tmp_path / "env")).stdout
    root = " --allow-run-as-root" if os.geteuid() == 0 else ""
    assert f"mpirun --oversubscribe{root} -n 4 " in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--mpi", "lam"], "mpich, openmpi or system, got 'lam'"),
        (["--ranks", "0"], "got '0'"),
        (["--ranks"], "needs a value"),
    ],
)
def test_wrong_options_are_named(arguments, words):
    done = run(LAUNCH / "quickstart.sh", "--dry-run", *arguments)
    assert done.returncode == 2
    assert words in done.stderr


def test_pytest_arguments_and_rank_counts_reach_the_commands(tmp_path):
    arguments = ("--dry-run", "--ranks", "2 5", "--full", "--", "-k", "grid and not slope")
    text = run(LAUNCH / "test.sh", *arguments, DISTNEWTON_VENV=str(tmp_path / "env")).stdout
    assert re.findall(r"mpirun -n (\d+)", text) == ["2", "5"]
    assert text.count("-k 'grid and not slope'") == 3
    assert "not slow" not in text


def test_a_python_that_is_too_old_is_named(tmp_path):
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = run(LAUNCH / "quickstart.sh", "--dry-run", PYTHON=str(old), DISTNEWTON_VENV=str(tmp_path / "env"))
    assert done.returncode == 1
    assert "Python 3.11 or later" in done.stderr
    assert str(old) in done.stderr


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    done = run(LAUNCH / "quickstart.sh", DISTNEWTON_VENV=str(tmp_path))
    assert done.returncode == 1
    assert "no virtual environment" in done.stderr
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.stem)
def test_recipe_is_valid_and_says_what_it_is(recipe):
    text = recipe.read_text(encoding="utf-8")
    config = load_config(recipe)
    assert text.startswith("# ")
    assert config.data.train
    assert config.partition.splits == "auto"
    assert not Path(config.data.train).is_absolute()
    assert not config.data.directory
    # a recipe of a data set sets no option of a method, so that any can be tried on it; NAME-METHOD.toml is for that
    none = {}, {"direction": "block_diagonal"}
    if config.data.train.startswith("distnewton.physics"):
        return  # a residual problem is no data set: how it is solved is part of it
    assert (tomllib.loads(text).get("method", {}) not in none) == ("-" in recipe.stem)


def test_there_are_recipes():
    names = {recipe.stem for recipe in RECIPES}
    assert names >= {"digits", "letter", "pendigits", "usps", "mnist", "news20", "abalone"}
