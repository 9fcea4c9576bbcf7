"""Predicted memory against what is free: the control groups, the table, the number of ranks that would fit."""

from __future__ import annotations

import math

import numpy as np
import pytest

from distnewton.config import make_config
from distnewton.data.in_memory import ArraySource
from distnewton.errors import ConfigError
from distnewton.launch.host_memory import free_memory
from distnewton.runs import memory_check
from distnewton.runs.session import Session


def write(root, name, text):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_free_memory_is_the_least_of_the_host_and_of_the_groups_around(tmp_path):
    assert free_memory(tmp_path) == math.inf
    write(tmp_path, "proc/meminfo", "MemTotal: 900 kB\nMemAvailable: 800 kB\n")
    assert free_memory(tmp_path) == 800 * 1024
    write(tmp_path, "proc/self/cgroup", "0::/job/step\n")
    write(tmp_path, "sys/fs/cgroup/job/step/memory.max", "max\n")
    for name, value in (("max", "500000"), ("current", "300000"), ("stat", "anon 1\ninactive_file 100000\n")):
        write(tmp_path, f"sys/fs/cgroup/job/memory.{name}", value)
    assert free_memory(tmp_path) == 300_000
    write(tmp_path, "proc/self/cgroup", "5:cpu,memory:/old\n")
    for name, value in (("limit_in_bytes", "70000"), ("usage_in_bytes", "30000"), ("stat", "total_inactive_file 5000")):
        write(tmp_path, f"sys/fs/cgroup/memory/old/memory.{name}", value)
    assert free_memory(tmp_path) == 45_000
    assert free_memory() > 0


def session(world, **run):
    rng = np.random.default_rng(0)
    config = make_config({
        "network": {"layers": ["auto", 60, "auto"]}, "run": {"memory_mb": 4.0, **run},
        "method": {"subsample": 1.0, "sketch": 0},
    })  # fmt: skip
    X = rng.standard_normal((300, 400))
    return Session(config, world, given={"train": ArraySource(X, rng.integers(9, size=300))})


def planned(made: Session) -> memory_check.PlannedRun:
    setup = made.setup
    placed = setup.placement
    return memory_check.PlannedRun(setup.config, placed.network.shape, setup.data.train, 0, placed.architecture.dense)


@pytest.mark.mpi(min_size=1)
def test_too_little_memory_is_refused_alike_with_the_ranks_that_would_fit(world, monkeypatch):
    made = session(world)
    problem = planned(made)
    needed = [sum(problem.parts(made.setup.placement.grid.partition, rank).values()) for rank in range(world.size)]
    made.free()
    monkeypatch.setattr(memory_check, "free_memory", lambda: 1.06 * sum(needed))
    session(world).free()
    monkeypatch.setattr(memory_check, "free_memory", lambda: 1.03 * sum(needed))
    with pytest.raises(ConfigError, match=r"the run needs 0\.\d\d GB on .*, which has 0\.\d\d GB free") as caught:
        session(world)
    text = str(caught.value)
    assert caught.value.collective
    assert len(set(world.allgather_json(text))) == 1
    assert text.count("\n") == 2 + world.size
    words = f" ranks would fit, {world.size} on each of "
    assert words in text or "no number of ranks up to 4096 would fit" in text
    session(world, checks=[]).free()


def test_the_least_number_of_ranks(world):
    made = session(world)
    problem = planned(made)

    def largest(n):
        from distnewton.planning.splits import auto_splits

        partition = problem.shape.partition(auto_splits(problem.shape, n))
        return sum(problem.parts(partition, 0).values())

    n = problem.smallest(1, largest(3))
    assert n is not None
    assert 2 <= n <= 3
    assert largest(n) <= largest(3)
    assert problem.smallest(1, 1000.0) is None
