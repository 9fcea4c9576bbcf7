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
