"""The worked example of a layer: a diff that applies to the package, and a script that checks it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from launched import launches

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "docs" / "examples"
pytestmark = [*launches, pytest.mark.skipif(not shutil.which("git"), reason="git applies the diff")]


def test_the_layer_of_the_example(tmp_path):
    shutil.copytree(REPOSITORY / "distnewton", tmp_path / "distnewton", ignore=shutil.ignore_patterns("__pycache__"))
    alone = os.environ | {"GIT_CEILING_DIRECTORIES": str(tmp_path.parent), "PYTHONPATH": str(tmp_path)}
    for command in (
        ["git", "apply", str(EXAMPLES / "layer.diff")],
        [sys.executable, "-W", "error", str(EXAMPLES / "check_layer.py")],
    ):
        done = subprocess.run(
            command, cwd=tmp_path, env=alone, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stderr
