"""The door to MPI: agreement on errors, broadcasts, sums, checked mode."""

from __future__ import annotations

import numpy as np
import pytest

from distnewton.errors import ConfigError, DataError
from distnewton.guards.ledger import allreduce_bytes
from distnewton.parallel.collectives import CollectiveMismatchError, Communicator

pytestmark = pytest.mark.mpi(min_size=1, sizes=(1, 2, 3, 4, 7))


def test_an_error_of_one_rank_is_everyones(world):
    last = world.size - 1
    with pytest.raises(DataError) as caught, world.collective_errors():  # noqa: PT012  (only one rank raises)
        if world.rank == last:
            raise DataError("line 3 is broken")
    assert caught.value.collective
    expected = "line 3 is broken" if world.size == 1 else f"line 3 is broken (rank {last})"
    assert str(caught.value) == expected


def test_different_errors_are_all_told_and_equal_ones_once(world):
    with pytest.raises(ConfigError) as caught, world.collective_errors():
        raise ConfigError("same on all")
    assert str(caught.value) == "same on all"
    if world.size > 1:
        with pytest.raises(ConfigError) as caught, world.collective_errors():
            raise ConfigError(f"mine is {world.rank % 2}")
        assert str(caught.value).splitlines()[0].startswith("mine is 0 (rank 0")
        assert len(str(caught.value).splitlines()) == 2


def test_without_an_error_all_go_on(world):
    with world.collective_errors():
        pass
    assert world.sum_scalars(1.0) == [world.size]


@pytest.mark.parametrize("array", [np.arange(6.0).reshape(2, 3), np.array(["a", "ünï"]), np.zeros((0, 2), np.int64)])
def test_arrays_and_json_reach_all(world, array):
    received = world.broadcast_array(array if world.rank == 0 else None)
    same = received.dtype == array.dtype and np.array_equal(received, array)
    assert not world.any(not same)
    assert world.broadcast_json({"a": [1, None]} if world.rank == 0 else None) == {"a": [1, None]}


def test_gather_allgather_and_nan_flags(world):
    stacked = world.allgather(np.array([world.rank, 1.0]))
    assert stacked.tolist() == [[rank, 1.0] for rank in range(world.size)]
    shapes = [(rank % 3, 2) for rank in range(world.size)]
    parts = world.gather_array(np.full(shapes[world.rank], float(world.rank)), shapes)
    expected = [[[r] * 2] * (r % 3) for r in range(world.size)]
    right = parts is None if world.rank else [p.tolist() for p in parts] == expected
    assert not world.any(not right)
    assert world.any(bool(np.isnan(np.nan if world.rank == 0 else 0.0)))
    assert np.isnan(world.sum_scalars(np.nan if world.rank == 0 else 0.0)[0])


def test_bytes_are_counted_by_the_formula(world):
    world.ledger.take()
    with world.ledger.phase("gradient"):
        world.sum_inplace(np.zeros(1000))
    cost = world.ledger.take()["gradient"]
    assert cost.sent_bytes == (allreduce_bytes(8000, world.size) if world.size > 1 else 0.0)
    assert cost.n_messages == (world.size > 1)
    assert allreduce_bytes(8000, 4) == 12000.0


def view_of(error, rank):
    (line,) = [line for line in str(error).splitlines() if line.startswith(f"  rank {rank}:")]
    return line


def different(comm, kind):
    """Make collectives that do not fit on the last rank."""
    odd = comm.rank == comm.size - 1
    a, b = np.zeros(10), np.zeros(10)
    comm.barrier()
    if kind == "count":
        comm.sum_inplace(np.zeros(11 if odd else 10))
    elif kind == "dtype":
        comm.sum_inplace(np.zeros(10, np.float32 if odd else np.float64))
    elif kind == "kind":
        if odd:
            comm.barrier()
        comm.sum_inplace(a)
    elif kind == "skip":
        if not odd:
            comm.sum_inplace(a)
        comm.broadcast_json(1)
    elif kind == "order":
        # of the same size: only the line tells them apart
        if odd:
            comm.sum_inplace(b)
            comm.sum_inplace(a)
        else:
            comm.sum_inplace(a)
            comm.sum_inplace(b)


EXPECTED = {
    "count": ("sum of 10 float64", "sum of 11 float64"),
    "dtype": ("sum of 10 float64", "sum of 10 float32"),
    "kind": ("number 2, sum of 10 float64", "number 2, barrier"),
    "skip": ("number 2, sum of 10 float64", "number 2, broadcast of a length from rank 0 of 1 int64"),
    "order": ("sum of 10 float64, at test_collectives.py:", "sum of 10 float64, at test_collectives.py:"),
}


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("kind", EXPECTED)
def test_checked_mode_names_both_views(world, kind):
    # a communicator of its own: the numbers of calls differ afterwards
    comm = world.duplicate()
    comm.checked = True
    error = None
    try:
        different(comm, kind)
    except CollectiveMismatchError as caught:
        error = caught
    last = world.size - 1
    views = [view_of(error, "0" if last == 1 else f"0-{last - 1}"), view_of(error, last)] if error else []
    right = bool(views) and all(part in view for part, view in zip(EXPECTED[kind], views, strict=True))
    right = right and views[0].split(": ", 1)[1] != views[1].split(": ", 1)[1]
    assert not world.any(not right), error
    comm.mpi.Free()


def test_groups_take_over_the_checked_mode(world):
    comm = world.duplicate()
    comm.checked = True
    copy = comm.duplicate()
    part = comm.subgroup([comm.rank])
    assert not world.any(not (copy.checked and part.checked))
    assert part.members == [world.rank]
    copy.free()
    comm.free()


def test_memory_that_one_rank_lacks_is_everyones_error(world):
    with pytest.raises(ConfigError, match="out of memory") as caught, world.collective_errors():  # noqa: PT012
        if world.rank == world.size - 1:
            raise MemoryError("Unable to allocate")
    assert caught.value.collective


def test_serial_needs_no_mpi():
    alone = Communicator()
    assert alone.sum_inplace(np.ones(2)).tolist() == [1, 1]
    assert alone.broadcast_bytes(b"x") == b"x"
    assert alone.duplicate().size == 1
