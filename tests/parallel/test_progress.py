"""Sums that were begun travel while their ranks do something else."""

from __future__ import annotations

import time

import numpy as np
import pytest

from distnewton.parallel.progress_thread import progress_thread

pytestmark = pytest.mark.mpi(min_size=1, sizes=(2, 3))


def test_sums_arrive_though_no_rank_asks_for_them(world):
    # far more than is sent ahead of the receiver's call
    arrays = [np.full(1 << 20, world.rank + 1.0 + k) for k in range(3)]
    pending = [world.start_sum(array) for array in arrays]
    end = time.monotonic() + 20
    while progress_thread._requests and time.monotonic() < end:
        time.sleep(1e-3)
    arrived = not progress_thread._requests
    for one in pending:
        one.wait()
    total = sum(range(1, world.size + 1))
    right = all(np.array_equal(array, np.full(1 << 20, total + k * world.size)) for k, array in enumerate(arrays))
    assert not world.any(not (arrived and right))


def test_sums_may_be_waited_for_in_any_order_and_at_once(world):
    rng = np.random.default_rng(world.rank)
    parts = [rng.integers(100, size=1 + 5000 * k).astype(float) for k in range(40)]
    expected = [part.copy() for part in parts]
    for part in expected:
        world.sum_inplace(part)
    pending = [world.start_sum(part) for part in parts]
    for k in np.random.default_rng(0).permutation(len(parts)):
        pending[k].wait()
    good = all(np.array_equal(*pair) for pair in zip(parts, expected, strict=True))
    assert not world.any(not good)
    assert not world.any(bool(progress_thread._requests))
