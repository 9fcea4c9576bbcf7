"""Sums by NCCL, on streams that are simulated: their work is done late, in the least lucky order that CUDA allows."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from distnewton.parallel.transport import Nccl


@dataclass
class Event:
    done: bool = False


@dataclass
class Stream:
    """Work in order; what waits for an event holds up what is behind it."""

    non_blocking: bool = False
    work: list = field(default_factory=list)

    @property
    def ptr(self):
        return id(self)

    def do(self, action):
        self.work.append(action)

    def record(self):
        event = Event()
        self.do(lambda: setattr(event, "done", True))
        return event

    def wait_event(self, event):
        self.work.append(event)

    def run(self):
        """Do what may be done; says whether anything was."""
        n = len(self.work)
        while self.work and not (isinstance(self.work[0], Event) and not self.work[0].done):
            action = self.work.pop(0)
            if not isinstance(action, Event):
                action()
        return len(self.work) < n

    def synchronize(self):
        self.run()
        assert not self.work


class Cuda:
    """cupy and its NCCL, with one number as an array."""

    def __init__(self, monkeypatch, size=3):
        self.default, self.others, self.numbers, self.communicators = Stream(), [], {}, []
        cuda = ModuleType("cupy.cuda")
        cuda.get_current_stream = lambda: self.default
        cuda.Stream = self.new_stream
        cuda.nccl = SimpleNamespace(
            NCCL_FLOAT32=7, NCCL_FLOAT64=8, NCCL_INT64=4, NCCL_INT32=2, NCCL_UINT8=1, NCCL_SUM=0,
            get_unique_id=lambda: np.random.default_rng().bytes(128),
            NcclCommunicator=self.communicator,
        )  # fmt: skip
        self.cupy = ModuleType("cupy")
        self.cupy.cuda = cuda
        monkeypatch.setitem(sys.modules, "cupy", self.cupy)
        monkeypatch.setitem(sys.modules, "cupy.cuda", cuda)
        self.group = SimpleNamespace(place=(1, size), broadcast_json=lambda value: value or [1] * 128)

    def new_stream(self, non_blocking=False):
        # any other would wait for the default stream's work, and that for its own
        assert non_blocking
        self.others.append(Stream())
        return self.others[-1]

    def array(self, pointer):
        flags = SimpleNamespace(c_contiguous=True)
        return SimpleNamespace(data=SimpleNamespace(ptr=pointer), size=1, dtype=np.dtype("float64"), flags=flags)

    def communicator(self, size, unique, rank):
        # before cupy 14 it was a tuple
        assert type(unique) is bytes
        made = SimpleNamespace(size=size, unique=unique, rank=rank, destroyed=False)

        def all_reduce(source, target, n, kind, operation, stream):
            assert (source, n, kind, operation) == (target, 1, 8, 0)
            (queue,) = [one for one in [self.default, *self.others] if one.ptr == stream]
            queue.do(lambda: self.numbers.update({target: size * self.numbers[source]}))

        made.allReduce, made.destroy = all_reduce, lambda: setattr(made, "destroyed", True)
        self.communicators.append(made)
        return made

    def finish(self, *, default_first):
        streams = [self.default, *self.others] if default_first else [*self.others, self.default]
        while any(stream.run() for stream in streams):
            pass
        assert not any(stream.work for stream in streams)


@pytest.fixture
def cuda(monkeypatch):
    return Cuda(monkeypatch)


@pytest.mark.parametrize("default_first", [True, False])
def test_sums_follow_what_makes_their_numbers_and_precede_what_reads_them(cuda, default_first):
    nccl = Nccl(cuda.cupy)
    cuda.default.do(lambda: cuda.numbers.update({1: 5.0}))
    nccl.sum(cuda.group, cuda.array(1))
    cuda.default.do(lambda: cuda.numbers.update({2: 10 * cuda.numbers[1]}))
    wait = nccl.begin(cuda.group, cuda.array(2))
    cuda.default.do(lambda: cuda.numbers.update({3: 1.0}))
    wait()
    cuda.default.do(lambda: cuda.numbers.update({4: cuda.numbers[2] + cuda.numbers[3]}))
    cuda.finish(default_first=default_first)
    assert cuda.numbers == {1: 15.0, 2: 450.0, 3: 1.0, 4: 451.0}


def test_other_work_is_done_while_a_sum_travels(cuda):
    nccl = Nccl(cuda.cupy)
    cuda.numbers[1] = 5.0
    wait = nccl.begin(cuda.group, cuda.array(1))
    cuda.default.do(lambda: cuda.numbers.update({2: 1.0}))
    wait()
    cuda.default.do(lambda: cuda.numbers.update({3: cuda.numbers[1]}))
    cuda.default.run()
    assert cuda.numbers == {1: 5.0, 2: 1.0}
    cuda.finish(default_first=True)
    assert cuda.numbers == {1: 15.0, 2: 1.0, 3: 15.0}


def test_a_group_has_one_communicator_which_is_freed_with_it(cuda):
    nccl = Nccl(cuda.cupy)
    cuda.numbers[1] = 1.0
    for _ in range(3):
        nccl.sum(cuda.group, cuda.array(1))
    (communicator,) = cuda.communicators
    assert (communicator.size, communicator.rank) == (3, 1)
    cuda.finish(default_first=True)
    nccl.free(cuda.group)
    nccl.free(cuda.group)
    assert communicator.destroyed


def test_arrays_that_do_not_lie_in_a_row_are_refused(cuda):
    array = cuda.array(1)
    array.flags.c_contiguous, array.shape = False, (1,)
    with pytest.raises(ValueError, match="only contiguous arrays are summed"):
        Nccl(cuda.cupy).sum(cuda.group, array)


@pytest.mark.mpi(min_size=1)
def test_all_ranks_get_the_id_of_the_first(world, monkeypatch):
    cuda = Cuda(monkeypatch)
    cuda.numbers[1] = 1.0
    Nccl(cuda.cupy).sum(world, cuda.array(1))
    (communicator,) = cuda.communicators
    ids = world.allgather_json(list(communicator.unique))
    good = ids == ids[:1] * world.size and len(ids[0]) == 128
    assert not world.any(not (good and (communicator.size, communicator.rank) == (world.size, world.rank)))
