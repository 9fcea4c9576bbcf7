"""The worked examples of docs/extending: each is a diff that applies to the package, and a script that checks it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "docs" / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.diff"))

pytestmark = [
    pytest.mark.launches,
    pytest.mark.skipif(not shutil.which("git"), reason="git applies the diffs"),
]


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A copy of the package with all examples in it: they do not get into each other's way."""
    folder = tmp_path_factory.mktemp("extended")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "distnewton", folder / "distnewton", ignore=ignore)
    for name in NAMES:
        command = ["git", "apply", "--verbose", str(EXAMPLES / f"{name}.diff")]
        alone = os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)}
        done = subprocess.run(command, cwd=folder, env=alone, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{name}.diff no longer fits the package: make it anew\n{done.stderr}"
    return folder


def test_each_example_is_checked_and_shown():
    assert {"data_format", "direction", "layer", "loss"} <= set(NAMES)
    pages = "\n".join(page.read_text(encoding="utf-8") for page in (REPOSITORY / "docs").rglob("*.md"))
    for name in NAMES:
        assert (EXAMPLES / f"check_{name}.py").exists()
        assert f"examples/{name}.diff" in pages
        assert f"examples/check_{name}.py" in pages


@pytest.mark.parametrize("name", NAMES)
def test_example(package, name):
    environment = os.environ | {"PYTHONPATH": str(package)}
    command = [sys.executable, "-W", "error", str(EXAMPLES / f"check_{name}.py")]
    done = subprocess.run(
        command, cwd=package, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
