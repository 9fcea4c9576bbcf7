"""The door to MPI: agreement on errors, broadcasts, sums, checked mode."""

from __future__ import annotations

import numpy as np
import pytest

from distnewton.errors import ConfigError, DataError
from distnewton.parallel.collectives import Communicator
from distnewton.parallel.ledger import allreduce_bytes

pytestmark = pytest.mark.mpi(min_size=1)


def test_an_error_of_one_rank_is_everyones(world):
    last = world.size - 1
    with pytest.raises(DataError) as caught, world.agreeing():  # noqa: PT012  (only one rank raises)
        if world.rank == last:
            raise DataError("line 3 is broken")
    assert caught.value.agreed
    expected = "line 3 is broken" if world.size == 1 else f"line 3 is broken (rank {last})"
    assert str(caught.value) == expected


def test_different_errors_are_all_told_and_equal_ones_once(world):
    with pytest.raises(ConfigError) as caught, world.agreeing():
        raise ConfigError("same on all")
    assert str(caught.value) == "same on all"
    if world.size > 1:
        with pytest.raises(ConfigError) as caught, world.agreeing():
            raise ConfigError(f"mine is {world.rank % 2}")
        assert str(caught.value).splitlines()[0].startswith("mine is 0 (rank 0")
        assert len(str(caught.value).splitlines()) == 2


def test_without_an_error_all_go_on(world):
    with world.agreeing():
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


@pytest.mark.mpi(min_size=2)
def test_checked_mode_refuses_sums_of_different_arrays(world):
    # a communicator of its own: the numbers of calls differ afterwards
    comm = world.duplicate()
    raised = False
    try:
        comm._compare(("sum", "float64", 10 if comm.rank == 0 else 11))
    except RuntimeError as error:
        raised = "different collectives" in str(error)
    assert not world.any(not raised)
    comm.free()


def test_serial_needs_no_mpi():
    alone = Communicator()
    assert alone.sum_inplace(np.ones(2)).tolist() == [1, 1]
    assert alone.broadcast_bytes(b"x") == b"x"
    assert alone.duplicate().size == 1
