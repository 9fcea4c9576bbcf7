"""The only module that calls MPI's collectives: arrays pass between ranks through a :class:`Communicator`.

A communicator counts bytes and waiting in a :class:`~distnewton.guards.ledger.Ledger`, makes all ranks agree on errors
that only one of them can see, and is trivial without MPI (``comm=None``), so a single process needs no MPI library.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distnewton.backend import on_device
from distnewton.errors import EXIT_CODES, DistNewtonError, NoMemoryError
from distnewton.guards.faults import MESSAGE, faults
from distnewton.guards.hangs import ranges
from distnewton.guards.ledger import Ledger, allreduce_bytes
from distnewton.guards.watchdog import Watchdog, calling_place, watchdog
from distnewton.parallel.cuts import bounds
from distnewton.parallel.progress_thread import progress_thread
from distnewton.parallel.rounding import rounded, widened
from distnewton.parallel.transport import Transport

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm

Array = NDArray[Any]
_MOST_BYTES = 1 << 30
"""Largest message between two ranks: MPI libraries count up to 2^31."""
CHECK_VARIABLE = "DISTNEWTON_CHECK"
_VIEW_BYTES = 256
"""Length of a rank's description of a collective in checked mode, truncated or padded."""


class CollectiveMismatchError(RuntimeError):
    """Ranks are about to call different collectives: a bug that would hang them or give wrong numbers."""


class PendingSum:
    """A sum that has started and may still be in transit.

    Parameters
    ----------
    finish : callable or None
        Waits for completion; None if there is nothing to wait for.
    """

    def __init__(self, finish: Callable[[], None] | None = None) -> None:
        self._finish = finish

    def wait(self) -> None:
        """Return when the array holds the sum."""
        if self._finish is not None:
            self._finish()
            self._finish = None


class Communicator:
    """Collective operations on arrays over a group of ranks.

    Its twelve attributes are what each call needs: the group (in MPI, and described in words), the number of its next
    call, and what the process shares (ledger, transport, checked mode).

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm or None
        The group; None for one process without MPI.
    ledger : Ledger or None
        Ledger that is charged; a new one by default.
    owned : bool
        Whether :meth:`free` frees the MPI communicator.
    name : str
        Name of the group in messages and reports, the same on all of its ranks.
    members : sequence of int or None
        World ranks of this group; by default all.

    Attributes
    ----------
    checked : bool
        Whether each collective first compares its number, name, operation, dtype, count, phase and calling line over
        the ranks, because MPI libraries may silently return wrong numbers if counts differ. Enabled by
        ``DISTNEWTON_CHECK=1`` in the environment; derived groups inherit it.
    n_calls : int
        Number of collectives so far.
    transport : Transport or None
        Transport of sums of device arrays; derived groups inherit it.
    """

    def __init__(
        self,
        comm: Intracomm | None = None,
        ledger: Ledger | None = None,
        *,
        owned: bool = False,
        name: str = "world",
        members: Sequence[int] | None = None,
    ) -> None:
        self.mpi = comm
        self.ledger = Ledger() if ledger is None else ledger
        self.rank = 0 if comm is None else comm.Get_rank()
        self.size = 1 if comm is None else comm.Get_size()
        self.name, self.members = name, list(range(self.size)) if members is None else list(members)
        self._who = f"rank {ranges(self.members)}"
        self._owned = owned
        self.checked = os.environ.get(CHECK_VARIABLE, "0") == "1"
        self.n_calls = self._n_copies = 0
        self.transport: Transport | None = None

    def _derived(self, comm: Intracomm | None, name: str, members: Sequence[int]) -> Communicator:
        """Make a communicator derived from this one."""
        part = Communicator(comm, self.ledger, owned=True, name=f"{self.name}/{name}", members=members)
        part.checked, part.transport = self.checked, self.transport
        return part

    def _inside(self, name: str, count: int = 0, dtype: object = "") -> Watchdog:
        """Number, check and announce a collective, as a context manager."""
        self.n_calls += 1
        if self.checked:
            self._compare(name, count, str(dtype))
        return watchdog.inside(name, count, self.name, self._who, self.n_calls)

    def duplicate(self) -> Communicator:
        """Duplicate the group, so that its messages never match another's (collective)."""
        self._n_copies += 1
        copy = None
        if self.mpi is not None:
            with self._inside("duplicate"):
                copy = self.mpi.Dup()
        return self._derived(copy, str(self._n_copies), self.members)

    def subgroup(self, ranks: Sequence[int]) -> Communicator:
        """Make a communicator of some ranks (collective over those ranks only).

        Parameters
        ----------
        ranks : sequence of int
            Ascending ranks of this communicator, including this one.

        Returns
        -------
        Communicator
        """
        members = [self.members[rank] for rank in ranks]
        if self.mpi is None or len(ranks) == 1:
            return self._derived(None, ranges(ranks), members)
        world = self.mpi.Get_group()
        group = world.Incl(list(ranks))
        try:
            # numbered separately: not all ranks of this group take part
            with watchdog.inside("subgroup", 0, f"{self.name}/{ranges(ranks)}", f"rank {ranges(members)}"):
                return self._derived(self.mpi.Create_group(group), ranges(ranks), members)
        finally:
            group.Free()
            world.Free()

    def free(self) -> None:
        """Free what MPI has allocated (collective)."""
        if self._owned and self.mpi is not None:
            if self.transport is not None:
                self.transport.free(self)
            with self._inside("free"):
                self.mpi.Free()
        self.mpi, self._owned = None, False

    def sum_inplace(self, array: Array) -> Array:
        """Sum an array over the ranks, in place.

        Parameters
        ----------
        array : Array
            C-contiguous, of the same shape and dtype on all ranks, on the host or on a device.

        Returns
        -------
        Array
            ``array``, now the sum on every rank.
        """
        if self.mpi is None or self.size == 1 or array.size == 0:
            return array
        summed = faults.spoil(array) if faults.wrong_sum else array
        if summed is None:
            return array
        faults.at(MESSAGE)
        # in checked mode the comparison itself waits for the other ranks
        start = time.perf_counter()
        with self._inside("sum", summed.size, summed.dtype):
            if on_device(summed):
                self._device_transport().sum(self, summed)
            else:
                self.sum_buffer(summed)
        self.ledger.charge(allreduce_bytes(array.nbytes, self.size), time.perf_counter() - start)
        return array

    def sum_rounded(self, array: Array) -> Array:
        """Sum an array over the ranks in place, sending its numbers as bfloat16.

        Each rank sums a part of the array, in float32 and in the order of the ranks, and sends the rounded sums to all.
        Numbers are rounded in both directions, to nearest with ties to even.

        Parameters
        ----------
        array : Array of float32
            C-contiguous, on the host, of the same shape on all ranks.

        Returns
        -------
        Array
            ``array``, now the sum, bitwise the same on every rank and in every run.
        """
        if self.mpi is None or self.size == 1 or array.size == 0:
            return array
        start = time.perf_counter()
        with self._inside("rounded sum", array.size, array.dtype):
            self._sum_rounded(self.mpi, array.reshape(-1))
        self.ledger.charge(allreduce_bytes(2 * array.size, self.size), time.perf_counter() - start)
        return array

    def _sum_rounded(self, mpi: Intracomm, numbers: Array) -> None:
        from mpi4py import MPI

        limits = [bounds(numbers.size, self.size, rank) for rank in range(self.size)]
        counts, starts = [stop - start for start, stop in limits], [start for start, _ in limits]
        own = counts[self.rank]
        parts = np.empty((self.size, own), dtype=np.uint16)
        everywhere = own * np.arange(self.size)
        mpi.Alltoallv(
            [rounded(numbers), counts, starts, MPI.UINT16_T], [parts, [own] * self.size, everywhere, MPI.UINT16_T]
        )
        sums = np.empty(numbers.size, dtype=np.uint16)
        total = np.add.reduce(widened(parts), axis=0, dtype=np.float32)
        mpi.Allgatherv([rounded(total), own, MPI.UINT16_T], [sums, counts, starts, MPI.UINT16_T])
        numbers[...] = widened(sums)

    def start_sum(self, array: Array) -> PendingSum:
        """Start to sum an array over the ranks in place; other work can continue until :meth:`PendingSum.wait`.

        Parameters
        ----------
        array : Array
            Array as for :meth:`sum_inplace`; not to be read or written before :meth:`PendingSum.wait`.

        Returns
        -------
        PendingSum

        Notes
        -----
        All ranks must start their sums in the same order.
        """
        if self.mpi is None or self.size == 1 or array.size == 0:
            return PendingSum()
        if faults.wrong_sum:
            self.sum_inplace(array)
            return PendingSum()
        faults.at(MESSAGE)
        start = time.perf_counter()
        with self._inside("start of a sum", array.size, array.dtype):
            wait = self._device_transport().begin(self, array) if on_device(array) else self.begin_sum_buffer(array)
        self.ledger.charge(allreduce_bytes(array.nbytes, self.size), time.perf_counter() - start)
        return PendingSum(partial(self._finish_sum, wait, self.n_calls))

    def _finish_sum(self, wait: Callable[[], None], n_call: int) -> None:
        """Wait for completion of the sum that was started as the call of this number."""
        faults.at(MESSAGE)
        start = time.perf_counter()
        with watchdog.inside("sum", 0, self.name, self._who, n_call):
            wait()
        self.ledger.wait(time.perf_counter() - start)

    def sum_buffer(self, buffer: Any) -> None:
        """Sum a buffer in place by MPI, for transports: neither announced nor charged."""
        from mpi4py import MPI

        if self.mpi is not None:
            self.mpi.Allreduce(MPI.IN_PLACE, buffer, op=MPI.SUM)

    def begin_sum_buffer(self, buffer: Any) -> Callable[[], None]:
        """Start :meth:`sum_buffer`; the returned function waits for completion."""
        from mpi4py import MPI

        if self.mpi is None:
            raise RuntimeError("one process has nobody to sum with")
        return progress_thread.follow(self.mpi.Iallreduce(MPI.IN_PLACE, buffer, op=MPI.SUM))

    @property
    def place(self) -> tuple[int, int]:
        """Return rank and size."""
        return self.rank, self.size

    def _device_transport(self) -> Transport:
        if self.transport is None:
            raise RuntimeError("say how arrays on a device travel before one is summed: Communicator.transport")
        return self.transport

    def local_place(self) -> tuple[int, int]:
        """Return this rank's number among those that share its node's memory, and their count (collective)."""
        if self.mpi is None or self.size == 1:
            return 0, 1
        from mpi4py import MPI

        with self._inside("ranks of a node"):
            node = self.mpi.Split_type(MPI.COMM_TYPE_SHARED)
            place = node.Get_rank(), node.Get_size()
            node.Free()
        return place

    def sum_scalars(self, *values: float) -> list[float]:
        """Sum a few float64 numbers over the ranks; the result is bitwise the same on all of them."""
        return [float(value) for value in self.sum_inplace(np.array(values, dtype=np.float64))]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank (by a sum, since MPI's MAX and MIN drop NaN)."""
        return self.sum_scalars(float(flag))[0] > 0

    def allgather(self, values: Array) -> Array:
        """Stack a small float64 vector of every rank.

        Parameters
        ----------
        values : Array of shape (n,)
            The same length on all ranks.

        Returns
        -------
        Array of shape (size, n)
        """
        stacked = np.zeros((self.size, values.size))
        stacked[self.rank] = values
        return self.sum_inplace(stacked)

    def broadcast_bytes(self, data: bytes | None, root: int = 0) -> bytes:
        """Send bytes from one rank to all; ``data`` is read on the root only."""
        if self.mpi is None or self.size == 1:
            return data or b""
        length = np.array([len(data) if self.rank == root and data is not None else 0], dtype=np.int64)
        with self._inside(f"broadcast of a length from rank {root}", 1, length.dtype):
            self.mpi.Bcast(length, root=root)
        buffer = np.empty(int(length[0]), dtype=np.uint8)
        if self.rank == root and data is not None:
            buffer[:] = np.frombuffer(data, dtype=np.uint8)
        start = time.perf_counter()
        with self._inside(f"broadcast from rank {root}", buffer.size, buffer.dtype):
            self.mpi.Bcast(buffer, root=root)
        self.ledger.charge(buffer.nbytes * (self.size - 1) / self.size, time.perf_counter() - start)
        return buffer.tobytes()

    def broadcast_json(self, value: Any = None, root: int = 0) -> Any:
        """Send a JSON-able value from one rank to all."""
        return json.loads(self.broadcast_bytes(json.dumps(value).encode() if self.rank == root else None, root))

    def on_first(self, compute: Callable[[], Any]) -> Any:
        """Call a function on rank 0 alone, and return its JSON-able result, or raise its error, on all ranks."""
        result = None
        with self.collective_errors():
            if self.rank == 0:
                result = compute()
        return self.broadcast_json(result)

    def allgather_json(self, value: Any) -> list[Any]:
        """Gather a JSON-able value of every rank on all ranks, ordered by rank."""
        mine = np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)
        lengths = self.allgather(np.array([float(mine.size)]))[:, 0].astype(int)
        ends = np.cumsum(lengths)
        buffer = np.zeros(int(ends[-1]), dtype=np.uint8)
        buffer[ends[self.rank] - mine.size : ends[self.rank]] = mine
        self.sum_inplace(buffer)
        return [json.loads(buffer[end - n : end].tobytes()) for n, end in zip(lengths, ends, strict=True)]

    def broadcast_array(self, array: Array | None, root: int = 0) -> Array:
        """Send an array of numbers or fixed-width text from one rank to all, with its shape and dtype."""
        head = None if array is None else {"shape": array.shape, "dtype": array.dtype.str}
        head = self.broadcast_json(head, root)
        data = self.broadcast_bytes(None if array is None else np.ascontiguousarray(array).tobytes(), root)
        return np.frombuffer(data, dtype=head["dtype"]).reshape(head["shape"]).copy()

    def gather_array(self, array: Array, shapes: Sequence[tuple[int, ...]], root: int = 0) -> list[Array] | None:
        """Gather an array of every rank on one rank, with one message per rank.

        Parameters
        ----------
        array : Array
            This rank's part, of shape ``shapes[rank]``.
        shapes : sequence of tuple
            Shape of every rank's part, known to the root in advance; empty parts are not sent.
        root : int
            Rank that gathers.

        Returns
        -------
        list of Array or None
            The parts by rank on the root, None elsewhere.
        """
        if self.mpi is None or self.size == 1:
            return [array]
        # numbered and checked once for all parts: the messages themselves are point-to-point
        self.n_calls += 1
        if self.checked:
            self._compare(f"gather on rank {root}", 0, str(array.dtype))
        whole = 0, self.name, self._who, self.n_calls
        if self.rank != root:
            if array.size:
                start = time.perf_counter()
                with watchdog.inside(f"gather on rank {root}", *whole):
                    self.mpi.Send(np.ascontiguousarray(array), dest=root, tag=1)
                self.ledger.charge(array.nbytes, time.perf_counter() - start)
            return None
        parts = [np.empty(shape, dtype=array.dtype) for shape in shapes]
        for source, part in enumerate(parts):
            if source == root:
                part[...] = array
            elif part.size:
                with watchdog.inside(f"gather from rank {source}", *whole):
                    self.mpi.Recv(part, source=source, tag=1)
        return parts

    def exchange(self, parts: Sequence[Mapping[str, Array]]) -> list[Mapping[str, Array]]:
        """Send named arrays to each rank, and receive those sent by each rank (collective).

        Parameters
        ----------
        parts : sequence of mapping of str to Array
            Arrays for each rank, by rank; host arrays of any shapes and numeric dtypes. An empty mapping sends nothing.

        Returns
        -------
        list of mapping of str to Array
            Arrays from each rank, by rank; the rank's own are not copied. Arrays keep their memory order.
        """
        if self.mpi is None or self.size == 1:
            return list(parts)
        from mpi4py import MPI

        empty: Mapping[str, Array] = {}
        outgoing = [_packed(empty if rank == self.rank else part) for rank, part in enumerate(parts)]
        sent, lengths = np.array([part.size for part in outgoing]), np.empty(self.size, np.int64)
        start = time.perf_counter()
        with self._inside("exchange"):
            self.mpi.Alltoall(sent, lengths)
            incoming = [np.empty(n, np.uint8) for n in lengths.tolist()]
            requests = [
                pass_on(piece, rank, 2)
                for pass_on, buffers in ((self.mpi.Irecv, incoming), (self.mpi.Isend, outgoing))
                for rank, buffer in enumerate(buffers)
                for piece in np.split(buffer, range(_MOST_BYTES, buffer.size, _MOST_BYTES))
                if piece.size
            ]
            MPI.Request.Waitall(requests)
        self.ledger.charge(float(sent.sum()), time.perf_counter() - start)
        received = [_unpacked(buffer) for buffer in incoming]
        received[self.rank] = parts[self.rank]
        return received

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.mpi is not None:
            with self._inside("barrier"):
                self.mpi.Barrier()

    @contextmanager
    def collective_errors(self) -> Iterator[None]:
        """Run local work that may fail on some ranks only; afterwards all ranks continue, or all raise the same error.

        Yields
        ------
        None

        Raises
        ------
        DistNewtonError
            On every rank, with the class of the lowest failing rank and all distinct messages.

        Notes
        -----
        Collective on exit; the block must not communicate. Only :class:`DistNewtonError` and MemoryError are handled
        this way: any other exception is a bug, propagates at once and ends the job.
        """
        error: DistNewtonError | None = None
        try:
            yield
        except DistNewtonError as caught:
            error = caught
        except MemoryError as caught:
            error = NoMemoryError(str(caught))
        if not self.any(error is not None):
            return
        raise self._joint_error(error)

    def _joint_error(self, error: DistNewtonError | None) -> DistNewtonError:
        """Build the same error on all ranks from the errors of some of them."""
        codes = self.allgather(np.array([error.exit_code if error else 0.0]))[:, 0]
        messages: dict[str, list[int]] = {}
        for rank in np.flatnonzero(codes):
            text = self.broadcast_json(str(error) if rank == self.rank else None, int(rank))
            messages.setdefault(text, []).append(int(rank))
        several = self.size > 1 and any(len(ranks) < self.size for ranks in messages.values())
        lines = [f"{text} (rank {ranges(ranks)})" if several else text for text, ranks in messages.items()]
        kind = EXIT_CODES.get(int(codes[np.flatnonzero(codes)[0]]), DistNewtonError)
        return kind("\n".join(lines), collective=True)

    def _compare(self, name: str, count: int, dtype: str) -> None:
        """Raise an error if the ranks are not about to make the same call."""
        if self.mpi is None:
            return
        from mpi4py import MPI

        what = f"{name} of {count} {dtype}" if count else name
        view = f"number {self.n_calls}, {what}, at {calling_place(sys._getframe(1))}, phase {self.ledger.current}"
        mine = zlib.crc32(view.encode())
        extremes = np.array([mine, -mine], dtype=np.int64)
        with watchdog.inside(f"check before {name}", count, self.name, self._who, self.n_calls):
            self.mpi.Allreduce(MPI.IN_PLACE, extremes, op=MPI.MAX)
            if extremes[0] == -extremes[1]:
                return
            views = np.zeros((self.size, _VIEW_BYTES), dtype=np.uint8)
            text = view.encode()[:_VIEW_BYTES]
            views[self.rank, : len(text)] = np.frombuffer(text, dtype=np.uint8)
            self.mpi.Allreduce(MPI.IN_PLACE, views, op=MPI.SUM)
        ranks_by_view: dict[str, list[int]] = defaultdict(list)
        for rank, row in zip(self.members, views, strict=True):
            ranks_by_view[row.tobytes().rstrip(b"\0").decode(errors="replace")].append(rank)
        lines = [f"  rank {ranges(ranks)}: {text}" for text, ranks in ranks_by_view.items()]
        raise CollectiveMismatchError("ranks are about to make different collectives:\n" + "\n".join(lines))


def _packed(arrays: Mapping[str, Array]) -> Array:
    """Encode named arrays as bytes; an empty mapping as no bytes."""
    buffer = io.BytesIO()
    if arrays:
        np.savez(buffer, allow_pickle=False, **arrays)
    return np.frombuffer(buffer.getbuffer(), np.uint8)


def _unpacked(data: Array) -> Mapping[str, Array]:
    """Invert :func:`_packed`."""
    if not data.size:
        return {}
    with np.load(io.BytesIO(data.tobytes()), allow_pickle=False) as arrays:
        return dict(arrays.items())
