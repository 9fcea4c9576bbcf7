"""Ways to sum device arrays over ranks: through host memory, by a device-aware MPI, or by NCCL.

Only :class:`~distnewton.parallel.collectives.Communicator` calls MPI; it passes in its two ways of summing a buffer in
place. This module manages the buffers and their order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from distnewton.backend import Array, library_of

PIECE_BYTES = 1 << 23
"""Bytes of a staged message that are sent while the next ones are copied."""


class HostSums(Protocol):
    """MPI's sums of a buffer over the ranks of a group, in place."""

    def sum_buffer(self, buffer: Any) -> None:
        """Return when the buffer holds the sum."""
        ...

    def begin_sum_buffer(self, buffer: Any) -> Callable[[], None]:
        """Start the sum; the returned function waits for completion."""
        ...

    def broadcast_json(self, value: Any = None, root: int = 0) -> Any:
        """Send a JSON-able value from one rank to all."""
        ...

    @property
    def place(self) -> tuple[int, int]:
        """Return rank and size."""
        ...


class Transport(Protocol):
    """A way to sum contiguous device arrays in place.

    Attributes
    ----------
    name : str
        Name in the head of a run.
    """

    name: str

    def sum(self, group: HostSums, array: Any) -> None:
        """Return when the array holds the sum, or when all later work on the device will see it."""
        ...

    def begin(self, group: HostSums, array: Any) -> Callable[[], None]:
        """Start the sum; the returned function makes the same guarantee as :meth:`sum`."""
        ...

    def free(self, group: HostSums) -> None:
        """Free what was allocated for a group (collective over it)."""
        ...


class Staged:
    """Sums through page-locked host buffers, which are reused.

    Messages longer than a piece are sent piece by piece in two buffers: while one is sent, the next is copied.
    """

    name = "MPI, staged through host memory"

    def __init__(self, piece_bytes: int = PIECE_BYTES) -> None:
        self._piece_bytes = piece_bytes
        self._free: dict[int, list[Array]] = {}

    def sum(self, group: HostSums, array: Any) -> None:
        """Sum a device array; all ranks send the same number of pieces, since their arrays have the same size."""
        check_contiguous(array)
        flat, library = array.reshape(-1), library_of(array)
        step = max(1, self._piece_bytes // array.itemsize)
        if flat.size <= step:
            # the same call as for a host array, so that results are the same
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
        """Start the sum of a device array, as one message."""
        check_contiguous(array)
        return self._begin(group, array.reshape(-1))

    def free(self, group: HostSums) -> None:
        """Do nothing: no resource belongs to a group."""

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
        """Return a free buffer that is large enough, and the part of it for the numbers of an array."""
        n_bytes = max(1, flat.nbytes)
        size = 1 << (n_bytes - 1).bit_length()
        free = self._free.setdefault(size, [])
        buffer = free.pop() if free else library_of(flat).pinned(size)
        return buffer, buffer[: flat.nbytes].view(flat.dtype)

    def _give(self, buffer: Array) -> None:
        self._free[buffer.nbytes].append(buffer)


class Direct:
    """Sums for which MPI accesses device memory; only for libraries in which this was tested."""

    name = "MPI on GPU memory"

    def sum(self, group: HostSums, array: Any) -> None:
        """Sum a device array."""
        # MPI does not know the stream in which the array is still being computed
        library_of(array).synchronize()
        group.sum_buffer(array)

    def begin(self, group: HostSums, array: Any) -> Callable[[], None]:
        """Start the sum of a device array."""
        library_of(array).synchronize()
        return group.begin_sum_buffer(array)

    def free(self, group: HostSums) -> None:
        """Do nothing: no resource belongs to a group."""


class Nccl:
    """Sums by NCCL, on a stream of their own, for which the host does not wait; MPI distributes NCCL's id.

    Parameters
    ----------
    cupy : module
        The imported module; the current device is used.

    Notes
    -----
    NCCL's stream waits for work that the current stream had queued before a sum, and the current stream waits for the
    sum once its completion is requested: in between both run concurrently.
    """

    name = "NCCL"

    def __init__(self, cupy: Any) -> None:
        from cupy.cuda import nccl

        self._cupy, self._nccl = cupy, nccl
        # a blocking stream would wait for the default stream, so nothing could overlap
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
        """Sum a device array; later work on the current stream sees the sum."""
        self.begin(group, array)()

    def begin(self, group: HostSums, array: Any) -> Callable[[], None]:
        """Start the sum of a device array, which is kept alive until its completion is requested."""
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
        """Stream on which products run."""
        return self._cupy.cuda.get_current_stream()

    def _of(self, group: HostSums) -> Any:
        """Return NCCL's communicator of a group, created at its first sum."""
        if id(group) not in self._groups:
            rank, size = group.place
            # 128 bytes sent as numbers; NCCL needs no other exchange between the ranks to start
            unique = bytes(group.broadcast_json(list(self._nccl.get_unique_id()) if rank == 0 else None))
            self._groups[id(group)] = self._nccl.NcclCommunicator(size, unique, rank)
        return self._groups[id(group)]


def check_contiguous(array: Any) -> None:
    """Refuse an array that is not contiguous: its sum would go into a copy."""
    if not array.flags.c_contiguous:
        raise ValueError(f"only contiguous arrays are summed, got one of shape {array.shape}")
