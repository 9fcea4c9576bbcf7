"""The strict device refuses what it should, and staged sums give MPI's numbers from few buffers."""

from __future__ import annotations

import numpy as np
import pytest
from strict_device import (
    CROSSINGS,
    LIBRARY,
    ImplicitTransferError,
    StrictArray,
    StrictBackend,
    StrictGpus,
)

from distnewton.backend import Backend, like, namespace, scalar, to_host
from distnewton.errors import ConfigError
from distnewton.launch import devices
from distnewton.parallel.collectives import Communicator
from distnewton.parallel.transport import Direct, Staged

STRICT = StrictBackend(np.dtype("float64"))


def test_implicit_transfers_are_errors():
    a, host = STRICT.zeros(3), np.zeros(3)
    with pytest.raises(ImplicitTransferError):
        float(a[0])
    with pytest.raises(ImplicitTransferError):
        bool(a[0] == 0)
    with pytest.raises(ImplicitTransferError):
        list(a)
    with pytest.raises(ImplicitTransferError):
        np.asarray(a)
    for mixed in (lambda: a + host, lambda: host + a, lambda: a.__iadd__(host), lambda: host @ a):
        with pytest.raises(TypeError):
            mixed()
    with pytest.raises(ImplicitTransferError):
        a[...] = host
    with pytest.raises(ImplicitTransferError):
        a[np.array([0, 1])]
    with pytest.raises(TypeError):
        host[...] = a
    for function in (np.tanh, np.exp, np.sum):
        with pytest.raises(TypeError):
            function(a)
    with pytest.raises(TypeError):
        np.concatenate([a, a])
    with pytest.raises(AttributeError):
        namespace(a).matvec(a, a)


def test_arguments_that_cupy_does_not_have_are_errors():
    a = STRICT.zeros(3, 3)
    with pytest.raises(TypeError, match="where"):
        a.sum(where=True)
    with pytest.raises(TypeError, match="hermitian"):
        STRICT.xp.linalg.norm(a, hermitian=True)
    with pytest.raises(TypeError, match="too many positional"):
        STRICT.xp.cumsum(a, 0, None, None, True)


def test_explicit_crossings_are_counted():
    CROSSINGS.take()
    a = like(STRICT.zeros(1), np.arange(3.0))
    assert isinstance(a, StrictArray)
    assert scalar(a.sum()) == 3.0
    assert to_host(a).tolist() == [0, 1, 2]
    assert CROSSINGS.take() == {("to_device", ""): (1, 24), ("scalar", ""): (1, 8), ("to_host", ""): (1, 24)}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_operations_of_a_device_are_those_of_the_cpu(dtype):
    rng, cpu, device = np.random.default_rng(0), Backend.of(dtype), StrictBackend(np.dtype(dtype))
    tolerance = {"rtol": 1e-4 if dtype == "float32" else 1e-12}

    def both(method, *arrays, **options):
        found = getattr(device, method)(*(device.asarray(a) for a in arrays), **options)
        wanted = getattr(cpu, method)(*(a.astype(dtype) for a in arrays), **options)
        np.testing.assert_allclose(found if isinstance(found, float) else to_host(found), wanted, **tolerance)

    x, y = rng.standard_normal((2, 1000))
    both("dot", x, y)
    root = rng.standard_normal((3, 5, 5))
    A = root @ root.transpose(0, 2, 1) + 0.1 * np.eye(5)
    both("inverses", A)
    both("inverse", A[0])
    both("solve", np.linalg.cholesky(A[0]), x[:5])
    both("stacked_matvec", root, x[:15].reshape(3, 5))
    both("batched_matvec", root, x[:15].reshape(3, 5), np.zeros((3, 5)))
    both("batched_vecmat", x[:15].reshape(3, 5), root, np.zeros((3, 5)))
    images = rng.standard_normal((2, 4, 5, 3))
    both("windows", images, size=(2, 3), stride=(1, 2))


def test_inverses_of_what_has_overflowed_are_nan():
    assert np.isnan(to_host(STRICT.inverses(STRICT.asarray(np.full((1, 2, 2), np.nan))))).all()


class Recorder:
    """Sums over two ranks alike, noting the order of what happens."""

    place = 0, 2

    def __init__(self):
        self.events = []

    def sum_buffer(self, buffer):
        self.events.append(("sum", buffer.size))
        buffer *= 2

    def begin_sum_buffer(self, buffer):
        number = len(self.events)
        self.events.append(("begin", buffer.size))

        def wait():
            self.events.append(("wait", number))
            buffer.__imul__(2)

        return wait


def test_long_messages_travel_in_two_buffers_by_turns():
    group, staged = Recorder(), Staged(piece_bytes=32)
    made = LIBRARY.n_pinned
    for _ in range(2):
        array = STRICT.asarray(np.arange(14.0).reshape(2, 7))
        group.events.clear()
        staged.sum(group, array)
        assert to_host(array).ravel().tolist() == [2.0 * k for k in range(14)]
    # the second piece begins before the first is waited for, the third takes the first one's place
    assert group.events == [
        ("begin", 4), ("begin", 4), ("wait", 0), ("begin", 4), ("wait", 1), ("begin", 2), ("wait", 3), ("wait", 5),
    ]  # fmt: skip
    # two pieces and a shorter one
    assert LIBRARY.n_pinned - made <= 3


def test_short_messages_are_one_plain_sum():
    group, staged = Recorder(), Staged()
    array = STRICT.asarray(np.arange(3.0))
    staged.sum(group, array)
    assert group.events == [("sum", 3)]
    first, second = STRICT.asarray(np.ones(3)), STRICT.asarray(np.ones(5))
    waits = [staged.begin(group, first), staged.begin(group, second)]
    for wait in waits:
        wait()
    assert to_host(first).tolist() == [2.0] * 3
    assert to_host(second).tolist() == [2.0] * 5


def test_arrays_with_gaps_are_refused():
    with pytest.raises(ValueError, match="contiguous"):
        Staged().sum(Recorder(), STRICT.zeros(4, 4)[:, :2])


@pytest.mark.mpi(min_size=1, sizes=(2, 3))
@pytest.mark.parametrize("piece_bytes", [40, 1 << 20])
def test_staged_sums_over_ranks(world, piece_bytes):
    comm = world.duplicate()
    comm.transport = Staged(piece_bytes)
    group = comm.subgroup(range(comm.size))
    for one in (comm, group):
        numbers = np.arange(30.0) * (1 + world.rank)
        array = STRICT.asarray(numbers)
        assert one.sum_inplace(array) is array
        wanted = np.arange(30.0) * sum(range(1, world.size + 1))
        same = np.array_equal(to_host(array), wanted)
        array = STRICT.asarray(numbers)
        pending = one.start_sum(array)
        pending.wait()
        same &= np.array_equal(to_host(array), wanted)
        assert not world.any(not same)
    group.free()
    comm.free()


@pytest.mark.mpi(min_size=2, sizes=(2, 3))
def test_a_device_array_needs_a_transport(world):
    with pytest.raises(RuntimeError, match="transport"):
        world.duplicate().sum_inplace(STRICT.zeros(3))


@pytest.mark.mpi(min_size=1, sizes=(2, 3))
def test_local_ranks_are_counted_by_node(world):
    rank, size = world.local_place()
    assert 0 <= rank < size <= world.size
    assert not world.any(size != world.size or rank != world.rank)  # one machine


@pytest.mark.mpi(min_size=1, sizes=(2, 3))
@pytest.mark.parametrize("n_gpus", [1, 2, 8])
def test_ranks_take_gpus_by_turns(world, monkeypatch, n_gpus):
    taken = []

    class Gpus(StrictGpus):
        def backend(self, number, dtype, n_sharing, *, tf32):
            taken.append((number, n_sharing))
            return super().backend(number, dtype, n_sharing, tf32=tf32)

    monkeypatch.setattr(devices, "GPUS", Gpus(n_gpus))
    comm = world.duplicate()
    found = devices.choose_device(comm, "auto", "float64")
    sharing = len(range(world.rank % n_gpus, world.size, n_gpus))
    good = taken == [(world.rank % n_gpus, sharing)] and bool(found.notes) == (world.size > n_gpus)
    good &= isinstance(comm.transport, Staged)
    assert not world.any(not good)
    comm.free()


@pytest.mark.mpi(min_size=1, sizes=(2, 3))
def test_gpus_that_are_not_there(world, monkeypatch):
    class Some(StrictGpus):
        def count(self):
            return (0, "there is none") if world.rank == world.size - 1 else (1, "")

    monkeypatch.setattr(devices, "GPUS", Some())
    last = world.size - 1
    with pytest.raises(ConfigError, match=rf"device = gpu, but there is none \(rank {last}\)") as caught:
        devices.choose_device(world, "gpu", "float32")
    assert caught.value.collective
    found = devices.choose_device(world, "auto", "float32")
    assert type(found.backend) is Backend
    assert found.notes == [f"no GPU, the CPU computes: there is none (rank {last})"]
    for device in ("cpu", "auto"):
        with pytest.raises(ConfigError, match=r"run\.comm = nccl"):
            devices.choose_device(world, device, "float32", "nccl")


@pytest.mark.mpi(min_size=1, sizes=(2, 3))
def test_nccl_is_refused_with_the_reason(world, monkeypatch):
    monkeypatch.setattr(devices, "GPUS", StrictGpus(8))
    with pytest.raises(ConfigError, match=r"a strict device has no NCCL; or use run\.comm = mpi"):
        devices.choose_device(world, "gpu", "float32", "nccl")
    if world.size > 1:
        monkeypatch.setattr(devices, "GPUS", StrictGpus(1))
        with pytest.raises(ConfigError, match="two ranks are on one GPU, which NCCL refuses"):
            devices.choose_device(world, "gpu", "float32", "nccl")


@pytest.mark.mpi(min_size=2, sizes=(2, 3))
def test_mpi_gets_device_buffers_only_where_that_was_tried(world, monkeypatch):
    class Aware(StrictGpus):
        def mpi_reads_them(self):
            return world.rank == 0

    monkeypatch.setattr(devices, "GPUS", Aware(1))
    comm = world.duplicate()
    devices.choose_device(comm, "gpu", "float32")
    assert not world.any(not isinstance(comm.transport, Direct))
    comm.free()


def test_one_process_needs_no_transport():
    array = STRICT.asarray(np.ones(3))
    assert Communicator().sum_inplace(array) is array
