"""The package imports fast and starts nothing; every public name is there."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module

import pytest

import distnewton

PROBE = """
import json, sys
found = []
def look(*names):
    found.append([name for name in names if name in sys.modules])
import distnewton
look("numpy", "scipy", "pydantic", "mpi4py", "rich", "safetensors", "numba", "matplotlib", "pandas", "sklearn")
heavy = ("mpi4py.MPI", "sklearn", "numba", "matplotlib", "pandas", "torch", "scipy.sparse", "rich", "hypothesis")
import distnewton.runs.session
look(*heavy)
for name in distnewton.__all__:
    getattr(distnewton, name)
look(*heavy)
import distnewton.cli.main
distnewton.cli.main.build_parser()
look(*heavy)
from mpi4py import rc
rc.initialize = False
from mpi4py import MPI
found.append(MPI.Is_initialized())
print(json.dumps(found))
"""


HEAVY = (
    "matplotlib", "numba", "numpy.ma", "pandas", "pyarrow", "rich", "scipy", "sklearn",
    "distnewton.cli.bench_command", "distnewton.cluster.cluster_file", "distnewton.reporting.drawing",
    "distnewton.data.formats.delimited", "distnewton.data.formats.libsvm", "distnewton.directions.dual",
)  # fmt: skip
RUN = """
import sys
from distnewton.cli.main import main
folder, *flags = sys.argv[1:]
assert main(["train", "--data.train=digits:train", "--data.test=digits:test", "--run.iterations=1",
             f"--run-dir={folder}", *flags]) == 0
print(sorted({name for name in sys.modules} & set(HEAVY)))
"""


def test_a_rank_imports_only_what_its_run_needs(tmp_path):
    pytest.importorskip("sklearn")
    done = subprocess.run(
        [sys.executable, "-c", f"HEAVY = {HEAVY}\n{RUN}", str(tmp_path / "run"), "--quiet"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"


def test_importing_loads_no_heavy_library_and_starts_no_mpi():
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[], [], [], [], False]


@pytest.mark.parametrize("name", distnewton.__all__)
def test_public_names_resolve(name):
    found = getattr(distnewton, name)
    assert found is getattr(import_module(distnewton._HOMES[name]), name)
    assert found.__doc__


def test_names_are_listed_once_and_described():
    assert sorted(distnewton._HOMES) == distnewton.__all__ == sorted(set(distnewton.__all__))
    assert all(f"`{name}`" in distnewton.__doc__ for name in distnewton.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'tran'"):
        _ = distnewton.tran
