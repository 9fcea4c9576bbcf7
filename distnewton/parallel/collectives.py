"""The one door to MPI: every array that crosses between ranks goes through a :class:`Communicator`.

It counts bytes and waiting in a :class:`~distnewton.parallel.ledger.Ledger`, agrees on errors that one rank alone can
see, and is trivially correct without MPI (``comm=None``), so that one process needs no MPI library at all.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distnewton.errors import EXIT_CODES, DistNewtonError
from distnewton.parallel.ledger import Ledger, allreduce_bytes
from distnewton.parallel.watchdog import watchdog

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm

Array = NDArray[Any]


class Communicator:
    """Collective operations on arrays over a group of ranks.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm or None
        The group; None is one process without MPI.
    ledger : Ledger or None
        Where costs are charged; a new one by default.
    owned : bool
        Whether :meth:`free` frees the MPI communicator.

    Notes
    -----
    With ``DISTNEWTON_CHECK=1`` in the environment every sum first compares operation, dtype and count over the ranks,
    because MPI libraries may return wrong numbers silently where counts differ.
    """

    def __init__(self, comm: Intracomm | None = None, ledger: Ledger | None = None, *, owned: bool = False) -> None:
        self.mpi = comm
        self.ledger = Ledger() if ledger is None else ledger
        self.rank = 0 if comm is None else comm.Get_rank()
        self.size = 1 if comm is None else comm.Get_size()
        self._owned = owned
        self._checked = os.environ.get("DISTNEWTON_CHECK", "0") == "1"
        self._n_calls = 0

    def duplicate(self) -> Communicator:
        """Duplicate the group, so that its messages never meet another's (collective)."""
        with watchdog.inside("duplicate"):
            copy = None if self.mpi is None else self.mpi.Dup()
        return Communicator(copy, self.ledger, owned=True)

    def subgroup(self, ranks: Sequence[int]) -> Communicator:
        """Communicator of some ranks (collective over those ranks only).

        Parameters
        ----------
        ranks : sequence of int
            Ascending ranks of this communicator, this one among them.

        Returns
        -------
        Communicator
        """
        if self.mpi is None or len(ranks) == 1:
            return Communicator(None, self.ledger)
        world = self.mpi.Get_group()
        group = world.Incl(list(ranks))
        try:
            with watchdog.inside("subgroup"):
                return Communicator(self.mpi.Create_group(group), self.ledger, owned=True)
        finally:
            group.Free()
            world.Free()

    def free(self) -> None:
        """Free what MPI allocated (collective)."""
        if self._owned and self.mpi is not None:
            with watchdog.inside("free"):
                self.mpi.Free()
        self.mpi, self._owned = None, False

    def sum_inplace(self, array: Array) -> Array:
        """Sum an array over the ranks, in place.

        Parameters
        ----------
        array : Array
            C-contiguous, of the same shape and dtype on all ranks.

        Returns
        -------
        Array
            ``array``, now the sum on every rank.
        """
        if self.mpi is None or self.size == 1 or array.size == 0:
            return array
        from mpi4py import MPI

        if self._checked:
            self._compare(("sum", str(array.dtype), array.size))
        start = time.perf_counter()
        with watchdog.inside("sum"):
            self.mpi.Allreduce(MPI.IN_PLACE, array, op=MPI.SUM)
        self.ledger.charge(allreduce_bytes(array.nbytes, self.size), time.perf_counter() - start)
        return array

    def sum_scalars(self, *values: float) -> list[float]:
        """Sum a few float64 numbers over the ranks; bitwise the same on all of them."""
        return [float(value) for value in self.sum_inplace(np.array(values, dtype=np.float64))]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank (flags are reduced, since MPI's MAX and MIN drop NaN)."""
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
        with watchdog.inside("broadcast"):
            self.mpi.Bcast(length, root=root)
        buffer = np.empty(int(length[0]), dtype=np.uint8)
        if self.rank == root and data is not None:
            buffer[:] = np.frombuffer(data, dtype=np.uint8)
        start = time.perf_counter()
        with watchdog.inside("broadcast"):
            self.mpi.Bcast(buffer, root=root)
        self.ledger.charge(buffer.nbytes * (self.size - 1) / self.size, time.perf_counter() - start)
        return buffer.tobytes()

    def broadcast_json(self, value: Any = None, root: int = 0) -> Any:
        """Send a JSON-able value from one rank to all."""
        return json.loads(self.broadcast_bytes(json.dumps(value).encode() if self.rank == root else None, root))

    def allgather_json(self, value: Any) -> list[Any]:
        """Collect a JSON-able value of every rank on all ranks, by rank."""
        mine = np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)
        lengths = self.allgather(np.array([float(mine.size)]))[:, 0].astype(int)
        ends = np.cumsum(lengths)
        buffer = np.zeros(int(ends[-1]), dtype=np.uint8)
        buffer[ends[self.rank] - mine.size : ends[self.rank]] = mine
        self.sum_inplace(buffer)
        return [json.loads(buffer[end - n : end].tobytes()) for n, end in zip(lengths, ends, strict=True)]

    def broadcast_array(self, array: Array | None, root: int = 0) -> Array:
        """Send an array of numbers or of fixed-width text from one rank to all; shape and dtype travel along."""
        head = None if array is None else {"shape": array.shape, "dtype": array.dtype.str}
        head = self.broadcast_json(head, root)
        data = self.broadcast_bytes(None if array is None else np.ascontiguousarray(array).tobytes(), root)
        return np.frombuffer(data, dtype=head["dtype"]).reshape(head["shape"]).copy()

    def gather_array(self, array: Array, shapes: Sequence[tuple[int, ...]], root: int = 0) -> list[Array] | None:
        """Collect an array of every rank on one rank, one message a rank.

        Parameters
        ----------
        array : Array
            This rank's part, of shape ``shapes[rank]``.
        shapes : sequence of tuple
            Shape of every rank's part, known to the root without asking; empty parts travel not at all.
        root : int
            Who collects.

        Returns
        -------
        list of Array or None
            The parts by rank on the root, None elsewhere.
        """
        if self.mpi is None or self.size == 1:
            return [array]
        if self.rank != root:
            if array.size:
                start = time.perf_counter()
                with watchdog.inside("gather"):
                    self.mpi.Send(np.ascontiguousarray(array), dest=root, tag=1)
                self.ledger.charge(array.nbytes, time.perf_counter() - start)
            return None
        parts = [np.empty(shape, dtype=array.dtype) for shape in shapes]
        for source, part in enumerate(parts):
            if source == root:
                part[...] = array
            elif part.size:
                with watchdog.inside(f"gather from rank {source}"):
                    self.mpi.Recv(part, source=source, tag=1)
        return parts

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.mpi is not None:
            with watchdog.inside("barrier"):
                self.mpi.Barrier()

    @contextmanager
    def agreeing(self) -> Iterator[None]:
        """Run local work that may fail on some ranks only; afterwards all ranks go on, or all raise the same error.

        Yields
        ------
        None

        Raises
        ------
        DistNewtonError
            On every rank, with the class of the lowest failing rank and all distinct messages.

        Notes
        -----
        Collective on exit; the work inside must not communicate. Only :class:`DistNewtonError` takes this path:
        anything else is a bug, leaves at once and ends the job.
        """
        error: DistNewtonError | None = None
        try:
            yield
        except DistNewtonError as caught:
            error = caught
        if not self.any(error is not None):
            return
        raise self._joint_error(error)

    def _joint_error(self, error: DistNewtonError | None) -> DistNewtonError:
        """Build the same error on all ranks from those that some of them met."""
        codes = self.allgather(np.array([error.exit_code if error else 0.0]))[:, 0]
        messages: dict[str, list[int]] = {}
        for rank in np.flatnonzero(codes):
            text = self.broadcast_json(str(error) if rank == self.rank else None, int(rank))
            messages.setdefault(text, []).append(int(rank))
        several = self.size > 1 and any(len(ranks) < self.size for ranks in messages.values())
        lines = [f"{text} (rank {_ranges(ranks)})" if several else text for text, ranks in messages.items()]
        kind = EXIT_CODES.get(int(codes[np.flatnonzero(codes)[0]]), DistNewtonError)
        return kind("\n".join(lines), agreed=True)

    def _compare(self, call: tuple[str, str, int]) -> None:
        """Stop when the ranks are not about to make the same call."""
        from mpi4py import MPI

        assert self.mpi is not None  # noqa: S101  (only called with MPI)
        self._n_calls += 1
        mine = zlib.crc32(repr((self._n_calls, *call)).encode())
        extremes = np.array([mine, -mine], dtype=np.int64)
        with watchdog.inside(f"check before {call[0]}"):
            self.mpi.Allreduce(MPI.IN_PLACE, extremes, op=MPI.MAX)
        if extremes[0] != -extremes[1]:
            raise RuntimeError(
                f"ranks are in different collectives: rank {self.rank} is in number {self._n_calls}, {call}"
            )


def _ranges(ranks: Sequence[int]) -> str:
    """Ranks as short text: ``0-3, 7``."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
