"""The package imports fast and starts nothing."""

from __future__ import annotations

import subprocess
import sys

import distnewton

PROBE = """
import sys, distnewton
light = [m for m in ("numpy", "scipy", "pydantic", "mpi4py", "rich") if m in sys.modules]
distnewton.train, distnewton.load_model, distnewton.ArraySource, distnewton.load_config
heavy = [m for m in ("mpi4py.MPI", "sklearn", "numba", "matplotlib", "scipy.sparse", "rich") if m in sys.modules]
print(light, heavy)
"""


def test_import_loads_no_library_and_no_mpi():
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[] []"


def test_public_names_resolve():
    for name in distnewton.__all__:
        assert getattr(distnewton, name).__doc__
