"""How sums of arrays on a device travel: through host memory, by an MPI that reads the device's, or by NCCL.

MPI itself is called by :class:`~distnewton.parallel.collectives.Communicator` alone, which passes its two ways of
summing a buffer in place; here are the buffers and their order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from distnewton.backend import Array, library_of

PIECE_BYTES = 1 << 23
"""Of a staged message that travel while the next ones are copied."""


class HostSums(Protocol):
    """MPI's sums of a buffer over the ranks of a group, in place."""

    def sum_buffer(self, buffer: Any) -> None:
        """Return when the buffer holds the sum."""
        ...

    def begin_sum_buffer(self, buffer: Any) -> Callable[[], None]:
        """Begin; what is returned waits for the end."""
        ...

    def broadcast_json(self, value: Any = None, root: int = 0) -> Any:
        """Send a JSON-able value from one rank to all."""
        ...

    @property
    def place(self) -> tuple[int, int]:
        """Rank and size."""
        ...


class Transport(Protocol):
    """A way to sum contiguous device arrays in place.

    Attributes
    ----------
    name : str
        For the head of a run.
    """

    name: str

    def sum(self, group: HostSums, array: Any) -> None:
        """Return when the array holds the sum, or when all later work on the device will see it."""
        ...

    def begin(self, group: HostSums, array: Any) -> Callable[[], None]:
        """Begin; what is returned makes sure of the same as :meth:`sum`."""
        ...

    def free(self, group: HostSums) -> None:
        """Free what was made for a group (collective over it)."""
        ...


class Staged:
    """Through page-locked host buffers, which are used again and again.

    Messages longer than a piece go piece by piece in two buffers: while one travels, the next is copied.
    """

    name = "MPI, staged through host memory"

    def __init__(self, piece_bytes: int = PIECE_BYTES) -> None:
        self._piece_bytes = piece_bytes
        self._free: dict[int, list[Array]] = {}

    def sum(self, group: HostSums, array: Any) -> None:
        """Sum a device array: the same number of pieces on all ranks, as their arrays are of the same size."""
        check_contiguous(array)
        flat, library = array.reshape(-1), library_of(array)
        step = max(1, self._piece_bytes // array.itemsize)
        if flat.size <= step:
            # the very call that an array on the host would make, so that numbers are the same
            buffer, host = self._take(flat)
            library.download(flat, host)
            group.sum_buffer(host)
            library.upload(host, flat)
            self._give(buffer)
            return
        travelling: deque[Callable[[], None]] = deque()
        for start in range(0, flat.size, step):
            if len(travelling) == 2:
                travelling.popleft()()
            travelling.append(self._begin(group, flat[start : start + step]))
        while travelling:
            travelling.popleft()()

    def begin(self, group: HostSums, array: Any) -> Callable[[], None]:
        """Begin the sum of a device array, as one message."""
        check_contiguous(array)
        return self._begin(group, array.reshape(-1))

    def free(self, group: HostSums) -> None:
        """Nothing belongs to a group."""

    def _begin(self, group: HostSums, flat: Any) -> Callable[[], None]:
        buffer, host = self._take(flat)
        library = library_of(flat)
        library.download(flat, host)
        wait = group.begin_sum_buffer(host)

        def finish() -> None:
            wait()
            library.upload(host, flat)
            self._give(buffer)

        return finish

    def _take(self, flat: Any) -> tuple[Array, Array]:
        """A free buffer that is large enough, and its part for the numbers of an array."""
        n_bytes = max(1, flat.nbytes)
        size = 1 << (n_bytes - 1).bit_length()
        free = self._free.setdefault(size, [])
        buffer = free.pop() if free else library_of(flat).pinned(size)
        return buffer, buffer[: flat.nbytes].view(flat.dtype)

    def _give(self, buffer: Array) -> None:
        self._free[buffer.nbytes].append(buffer)


class Direct:
    """MPI reads and writes the device's memory: only for libraries of which that was tried."""

    name = "MPI on GPU memory"

    def sum(self, group: HostSums, array: Any) -> None:
        """Sum a device array."""
        # MPI knows nothing of the stream in which the array is still being made
        library_of(array).synchronize()
        group.sum_buffer(array)

    def begin(self, group: HostSums, array: Any) -> Callable[[], None]:
        """Begin the sum of a device array."""
        library_of(array).synchronize()
        return group.begin_sum_buffer(array)

    def free(self, group: HostSums) -> None:
        """Nothing belongs to a group."""


class Nccl:
    """NCCL, with its id sent over MPI: sums are work on a stream of their own, and the host waits for none of them.

    Parameters
    ----------
    cupy : module
        As imported; the device is the current one.

    Notes
    -----
    That stream waits for what the current stream was to do before a sum, and the current stream for the sum where its
    end is asked for: in between both have work.
    """

    name = "NCCL"

    def __init__(self, cupy: Any) -> None:
        from cupy.cuda import nccl

        self._cupy, self._nccl = cupy, nccl
        # one that waits for the default stream by itself would leave nothing to do meanwhile
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._groups: dict[int, Any] = {}
        self._types = {
            np.dtype(kind): getattr(nccl, name)
            for kind, name in (
                (np.float32, "NCCL_FLOAT32"),
                (np.float64, "NCCL_FLOAT64"),
                (np.int64, "NCCL_INT64"),
                (np.int32, "NCCL_INT32"),
                (np.uint8, "NCCL_UINT8"),
            )
        }

    def sum(self, group: HostSums, array: Any) -> None:
        """Sum a device array: what the current stream does later sees the sum."""
        self.begin(group, array)()

    def begin(self, group: HostSums, array: Any) -> Callable[[], None]:
        """Begin the sum of a device array, which stays alive until its end was asked for."""
        check_contiguous(array)
        communicator, pointer, stream = self._of(group), array.data.ptr, self._stream
        stream.wait_event(self._current().record())
        communicator.allReduce(pointer, pointer, array.size, self._types[array.dtype], self._nccl.NCCL_SUM, stream.ptr)
        summed = stream.record()

        def finish(_alive: Any = array) -> None:
            self._current().wait_event(summed)

        return finish

    def free(self, group: HostSums) -> None:
        """Free NCCL's communicator of a group."""
        communicator = self._groups.pop(id(group), None)
        if communicator is not None:
            self._stream.synchronize()
            communicator.destroy()

    def _current(self) -> Any:
        """The stream that products are work of."""
        return self._cupy.cuda.get_current_stream()

    def _of(self, group: HostSums) -> Any:
        """NCCL's communicator of a group, made at its first sum."""
        if id(group) not in self._groups:
            rank, size = group.place
            # 128 bytes as numbers; NCCL itself needs no other way between the ranks to begin
            unique = bytes(group.broadcast_json(list(self._nccl.get_unique_id()) if rank == 0 else None))
            self._groups[id(group)] = self._nccl.NcclCommunicator(size, unique, rank)
        return self._groups[id(group)]


def check_contiguous(array: Any) -> None:
    """Refuse an array whose numbers do not lie in a row: its sum would go into a copy."""
    if not array.flags.c_contiguous:
        raise ValueError(f"only contiguous arrays are summed, got one of shape {array.shape}")
