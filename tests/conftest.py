"""What all tests share: the order of a session, limits, processes and communicators."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import pytest_timeout
from attended import Attendant
from hypothesis import settings
from launched import UNDER_LAUNCHER, n_ranks, rank
from speed import slowness

# ranks draw the same examples; nothing depends on the speed of the machine
settings.register_profile("ranks", derandomize=True, database=None, deadline=None, max_examples=30)
settings.load_profile("ranks")

os.environ.setdefault("DISTNEWTON_CHECK", "1")
# more ranks than cores: those that wait for a message sleep, or the rank that they wait for has no core (MPICH;
# Open MPI finds out by itself)
os.environ.setdefault("MPIR_CVAR_ENABLE_HEAVY_YIELD", "1")
if UNDER_LAUNCHER and sys.platform == "linux":
    # such a sleep takes 20 microseconds instead of 50 and more
    ctypes.CDLL(None).prctl(29, ctypes.c_ulong(20_000))  # PR_SET_TIMERSLACK
attendant: Attendant | None = None
RANKS = (1, 2, 3, 4, 7)  # of launch/test.sh
MARK = re.compile(r"mark\.mpi\b(\((?:[^()]|\([^()]*\))*\))?")
USUAL_RANKS = (3,)  # the least with a neighbour on either side, and uneven blocks


def pytest_addoption(parser):
    parser.addoption("--all-ranks", action="store_true", help="each test on any number of ranks, a new case or not")


def pytest_configure(config):
    """Neither ranks (mpirun ends them) nor the process that hands tests to workers start processes of tests."""
    global attendant
    slowness()
    hands_out = getattr(config.option, "numprocesses", None)
    if not (UNDER_LAUNCHER or hands_out or config.option.collectonly):
        attendant = Attendant()


def pytest_unconfigure():
    if attendant:
        attendant.close()


def pytest_ignore_collect(collection_path, config):
    """Ranks do not import modules without a test for their number: importing is what costs most."""
    if not config.option.with_mpi or collection_path.suffix != ".py":
        return None
    marks = MARK.findall(collection_path.read_text())
    if config.option.all_ranks or n_ranks() not in RANKS:
        return not marks or None
    return not any(_may_be_new_case(mark) for mark in marks) or None


def _may_be_new_case(arguments):
    """Whether a mark, by its text, may choose a test for this number of ranks."""
    sizes = re.search(r"sizes=\(([\d, ]*)\)", arguments)
    if sizes is None:
        return "sizes" in arguments or n_ranks() in USUAL_RANKS
    return str(n_ranks()) in re.findall(r"\d+", sizes[1])


def pytest_collection_modifyitems(config, items):
    """`mpi(sizes=...)` names the numbers of ranks that bring a new case; tests without it run on USUAL_RANKS."""
    if not config.option.with_mpi:
        _longest_files_first(items)
    if not config.option.with_mpi or config.option.all_ranks:
        return
    left_out = [item for item in items if not _is_new_case(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if _is_new_case(item)]


def _longest_files_first(items):
    """Files that launch most begin first, so that no worker ends long after the others; Slurm's wait longest of all."""
    n_launches = Counter(item.path for item in items if item.get_closest_marker("launches"))
    items.sort(key=lambda item: (item.path.name != "test_slurm.py", -n_launches[item.path], item.path))


def _is_new_case(item):
    mark = item.get_closest_marker("mpi")
    if mark is None:
        return True
    sizes = next((mark.kwargs["sizes"] for mark in item.iter_markers("mpi") if "sizes" in mark.kwargs), USUAL_RANKS)
    return n_ranks() in sizes or n_ranks() not in RANKS


def _report(**facts):
    """Tell tests/passes.py, which started this."""
    if "DISTNEWTON_TEST_REPORT" in os.environ and "PYTEST_XDIST_WORKER" not in os.environ:
        path = Path(os.environ["DISTNEWTON_TEST_REPORT"], f"rank-{rank()}.json")
        path.write_text(json.dumps(facts))


def pytest_terminal_summary(terminalreporter, exitstatus):
    stats = terminalreporter.stats
    n = {kind: len(stats.get(kind, ())) for kind in ("passed", "failed", "error", "skipped")}
    n["failed"] += n.pop("error")
    _report(code=int(exitstatus), **n)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Processes end with the test that started them."""
    _report(test=item.nodeid)
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
