"""What all tests share: the order of a session, limits, processes and communicators."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import pytest_timeout
from attended import Attendant
from hypothesis import settings
from launched import UNDER_LAUNCHER
from speed import slowness

# ranks draw the same examples; nothing depends on the speed of the machine
settings.register_profile("ranks", derandomize=True, database=None, deadline=None, max_examples=30)
settings.load_profile("ranks")

os.environ.setdefault("DISTNEWTON_CHECK", "1")
attendant: Attendant | None = None


def pytest_configure(config):
    """Under mpirun no test starts processes, and mpirun ends the ranks."""
    global attendant
    slowness()
    if not UNDER_LAUNCHER and not config.option.collectonly:
        attendant = Attendant()


def pytest_unconfigure():
    if attendant:
        attendant.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Processes end with the test that started them; launch/test.sh is told which test runs."""
    if "DISTNEWTON_TEST_NOW" in os.environ:
        Path(os.environ["DISTNEWTON_TEST_NOW"]).write_text(item.nodeid)
    if attendant is None:
        return (yield)
    attendant.begin()
    try:
        return (yield)
    finally:
        attendant.end()


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef):
    """What a fixture of a module or session starts outlives the test."""
    if attendant is None or fixturedef.scope == "function":
        return (yield)
    before = attendant.tag(fixturedef.scope)
    try:
        return (yield)
    finally:
        attendant.tag(before)


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item, settings):
    """A late test fails alone; under mpirun, where others wait for its rank inside MPI, it ends the job."""
    method = "thread" if UNDER_LAUNCHER else settings.method
    scaled = settings._replace(timeout=settings.timeout * slowness(), method=method)
    return pytest_timeout.pytest_timeout_set_timer(item, scaled)


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
