"""Shared fixtures: hypothesis profile, communicators, small problems."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

# ranks draw the same examples; nothing depends on the speed of the machine
settings.register_profile("ranks", derandomize=True, database=None, deadline=None, max_examples=30)
settings.load_profile("ranks")

os.environ.setdefault("DISTNEWTON_CHECK", "1")


@pytest.fixture(autouse=True)
def _own_failures():
    """What another test left in the process's record of its run is no part of a test's messages."""
    from distnewton.guards.failures import Failures, failures

    vars(failures).update(vars(Failures()))


@pytest.fixture(autouse=True)
def _same_draws():
    """An estimator without random_state draws from numpy's global generator: the same in each run of the tests."""
    np.random.seed(0)  # noqa: NPY002 - it is this generator that is meant


@pytest.fixture
def world():
    """All ranks of the launcher; serial without one."""
    from distnewton.parallel.collectives import Communicator

    if not any(name in os.environ for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "PMIX_RANK")):
        yield Communicator()
        return
    from mpi4py import MPI

    comm = Communicator(MPI.COMM_WORLD).duplicate()
    yield comm
    comm.free()


@pytest.fixture
def folder(world):
    """A folder that all ranks share, removed by rank 0 when all have left the test."""
    path = Path(world.broadcast_json(tempfile.mkdtemp() if world.rank == 0 else None))
    yield path
    world.barrier()
    if world.rank == 0:
        shutil.rmtree(path)
