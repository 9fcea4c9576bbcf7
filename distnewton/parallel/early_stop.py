"""Early termination of the direction phase of [DNM]: ranks announce that they have finished and count, never blocking.

Within a node the board is a table in shared memory: a rank stores the phase number in its own slot, and the others read
it. Neither calls MPI, so it does not matter if the others are inside a GEMM. Between nodes, the first rank of each
passes counts along a tree (:mod:`.relay`) between two of its CG steps and, once it has finished, until no node below
needs it. A counter in a one-sided window would instead block for milliseconds, until its owner's next MPI call, unless
the network has hardware support. ``python -m benchmarks.early_stop`` measures these variants.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distnewton.guards.ledger import Ledger
from distnewton.guards.watchdog import watchdog
from distnewton.parallel.relay import Message, Relay

if TYPE_CHECKING:
    from mpi4py.MPI import Comm, Intracomm

Slots = NDArray[np.int64]

TRANSPORTS = ("auto", "shared", "messages")
_NEVER, _OPENING = -2, -1
"""Content of a slot before its first phase, and number of the phase that opens the connections."""
_STRIDE = 8
"""Distance of slots in int64: 64 bytes, so that a store does not invalidate another slot's cache line."""
_FINISHED, _LEFT = 0, 1
"""Columns of the table: the phase in which a rank has finished, and the phase that it has left."""
_BITS, _COUNT = 32, (1 << 32) - 1
"""The last row of the table stores what a node has heard, phase and count, as one number."""
_MESSAGE_BYTES = 24
_N_LOOKS = 4
"""Consecutive probes without a message that end a search. A probe may advance the library and yet find nothing: with
MPICH and Open MPI, over shared memory and TCP, up to 2 probes in a row missed a message that had long arrived."""


def stop_threshold(n_solving: int, finish_fraction: float) -> int:
    """Compute the number of finished ranks that ends the phase for all.

    Parameters
    ----------
    n_solving : int
        Number of ranks that solve a system, at least one.
    finish_fraction : float
        Above 0 and at most 1; 1 waits for all ranks.

    Returns
    -------
    int
        ``ceil(finish_fraction * n_solving)``, not rounded up for a product that exceeds an integer by rounding only.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    if n_solving < 1:
        raise ValueError(f"n_solving must be at least 1, got {n_solving}")
    if not 0.0 < finish_fraction <= 1.0:
        raise ValueError(f"finish_fraction must be above 0 and at most 1, got {finish_fraction}")
    return max(1, math.ceil(finish_fraction * n_solving * (1.0 - 1e-12)))


class FinishBoard:
    """A board on which ranks announce that they have finished a phase, and count how many have.

    It holds the slots of its node, the state of the open phase, and the mailbox for other nodes: a single look at the
    board reads all three, between two steps, and must cost next to nothing.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm or None
        Participating ranks; the communicator is duplicated. None, or a single rank, needs no MPI.
    transport : str
        ``auto``: shared memory within a node and messages between nodes, but only messages if memory cannot be shared;
        ``shared``: shared memory or an error; ``messages``: messages only.
    ledger : Ledger or None
        Charged with the bytes of messages, including those that open the connections; by default a new one.
    weights : sequence of int or None
        Weight of each rank; 1 each by default.

    Attributes
    ----------
    transport : str
        Transport in use: ``shared``, ``messages`` or ``shared+messages``.
    n_messages_sent : int
        Number of messages sent by this rank, including those that open the connections.

    Raises
    ------
    ValueError
        If the transport is unknown, or ``shared`` is requested on several nodes; on all ranks alike.
    RuntimeError
        If ``shared`` is requested but memory cannot be shared; on all ranks alike.

    Notes
    -----
    Construction and :meth:`free` are collective over ``comm``; all other methods are local. On each rank a phase is ::

        board.begin(k, enough)                # k increases: slots need no reset, and old messages do not count
        step, board.n_finished(), step, ...   # and board.announce() when the stopping rule is met
        board.leave()                         # pass on what others need
        a collective from which every rank learns who announced
        board.end(finished_ranks)

    Memory order: each slot has one writer, and an aligned int64 is stored and loaded atomically. The number publishes
    no other data, so it needs coherent caches but no ordering and no fence.
    """

    def __init__(
        self,
        comm: Intracomm | None = None,
        transport: str = "auto",
        ledger: Ledger | None = None,
        weights: Sequence[int] | None = None,
    ) -> None:
        if transport not in TRANSPORTS:
            raise ValueError(f"transport must be one of {', '.join(TRANSPORTS)}, got {transport!r}")
        self._ledger, self.n_messages_sent = ledger or Ledger(), 0
        self._phase, self._announced, self._is_open, self._n_final = _NEVER, False, False, 0
        # slots of this node's ranks, and what the node has heard; own slot: _table[_i_own]
        self._table: Slots = np.full((2, 2), _NEVER, dtype=np.int64)
        self._rank = self._i_own = 0
        self._mailbox: _Mailbox | None = None
        n_ranks = 1 if comm is None else comm.Get_size()
        self._weights: Slots = np.array([1] * n_ranks if weights is None else weights, dtype=np.int64)
        self._node = np.zeros(1, dtype=np.intp)  # ranks of the slots
        if comm is not None and n_ranks > 1:
            self._rank = comm.Get_rank()
            self._mailbox = self._connect(comm, transport)
        n_shared, several = len(self._node), len(self._node) < n_ranks
        self.transport = "shared" if not several else "messages" if n_shared == 1 else "shared+messages"
        # An initial phase, finished by all ranks, opens the connections: later no message has to wait for its receiver,
        # which may be in a GEMM.
        self.begin(_OPENING)
        self.announce()
        self.end(range(n_ranks))

    def begin(self, phase_number: int, enough: int | None = None) -> None:
        """Open a phase.

        Parameters
        ----------
        phase_number : int
            Number of the phase: the same on all ranks, not negative, and larger than the previous one.
        enough : int or None
            Weight of finished ranks of which all nodes are told; smaller counts are known only where they were made. By
            default that of all ranks. The same on all ranks.

        Raises
        ------
        ValueError
            If the number does not increase.
        RuntimeError
            If the previous phase was not ended.
        """
        if self._is_open:
            raise RuntimeError(f"phase {phase_number} begins, but phase {self._phase} was not ended")
        if phase_number <= self._phase:
            raise ValueError(f"phase_number must be larger than {self._phase}, got {phase_number}")
        self._phase, self._announced, self._is_open = phase_number, False, True
        if self._mailbox is not None:
            self._mailbox.relay.begin(phase_number, int(self._weights.sum()) if enough is None else enough)

    def announce(self) -> None:
        """Announce that this rank has met its stopping rule; does not block, and has no effect if repeated.

        Raises
        ------
        RuntimeError
            If no phase is open.
        """
        if not self._is_open:
            raise RuntimeError("announce() outside of a phase: call begin() first")
        if self._announced:
            return
        self._announced = True
        self._table[self._i_own, _FINISHED] = self._phase
        self._pass_on()

    def leave(self) -> None:
        """End this rank's part of the phase; ranks that relay messages do so until no node below needs them.

        Call it before the collective that ends the phase, during which a rank cannot relay. On the first rank of a node
        it waits until enough ranks have finished or all nodes below have left; the collective could not end earlier
        anyway.
        """
        self._table[self._i_own, _LEFT] = self._phase
        self._wait("messages of the direction phase", lambda relay: relay.may_leave)

    def n_finished(self) -> int:
        """Count the ranks known to have finished this phase, by weight and including this one; does not block.

        Call it before the collective that follows, after which ranks may be in the next phase. Once the phase has
        ended, it returns the result of that collective.

        Returns
        -------
        int
            At most the weight of those that have announced. It includes all ranks of this node; of other nodes what the
            tree has reported: a sufficient count, or at the end that of all.
        """
        if not self._is_open:
            return self._n_final
        self._pass_on()
        heard = int(self._table[-1, _FINISHED])
        n_of_all = heard & _COUNT if heard >> _BITS == self._phase else 0
        return max(self._n_of_node(), n_of_all)

    def end(self, finished_ranks: Sequence[int]) -> None:
        """Close the phase: receive messages still in transit, and complete those sent.

        Parameters
        ----------
        finished_ranks : sequence of int
            Ranks that announced in this phase.

        Raises
        ------
        RuntimeError
            If the list is wrong about this rank: others would wait for a message that was never sent.

        Notes
        -----
        Waits only for messages that ranks send when they leave, or here. A fast rank's message of the next phase may
        already arrive here; it carries that phase's number, and counts in that phase.
        """
        if not self._is_open or (self._rank in finished_ranks) != self._announced:
            raise RuntimeError(
                f"end({list(finished_ranks)}) on rank {self._rank}, which "
                f"{'announced' if self._announced else 'did not announce'} in phase {self._phase}"
                f"{'' if self._is_open else ', already ended'}"
            )
        self._is_open, self._n_final = False, int(self._weights[list(finished_ranks)].sum())
        self._table[self._i_own, _LEFT] = self._phase
        self._wait("end of the direction phase", lambda relay: relay.is_done)
        if self._mailbox is not None:
            self._mailbox.complete()

    def free(self) -> None:
        """Free what MPI has allocated; collective, outside a phase."""
        self._table, self._i_own = self._table[[self._i_own, -1]].copy(), 0
        self._node = self._node[:1]
        if self._mailbox is not None:
            self._mailbox.free()
            self._mailbox = None

    def _n_of_node(self) -> int:
        """Weight of the finished ranks of this node."""
        return int(self._weights[self._node[self._table[:-1, _FINISHED] == self._phase]].sum())

    def _pass_on(self) -> None:
        """On the first rank of a node, receive available messages and send those due; does not block."""
        if self._mailbox is None:
            return
        # a rank that relays nothing may already be in a later phase
        left = bool((self._table[:-1, _LEFT] >= self._phase).all())
        # count after seeing that all have left, so that the count is final
        self._mailbox.relay.update(self._n_of_node(), all_left=left)
        n_sent = self._mailbox.exchange()
        self._table[-1, _FINISHED] = self._phase << _BITS | self._mailbox.relay.count
        self.n_messages_sent += n_sent
        if n_sent:
            self._ledger.charge(n_sent * _MESSAGE_BYTES, 0.0)

    def _wait(self, what: str, is_over: Callable[[Relay], bool]) -> None:
        """Relay messages until a condition holds; nothing on ranks that relay none."""
        if self._mailbox is None:
            return
        start = time.perf_counter()
        with watchdog.inside(what):
            self._pass_on()
            while not is_over(self._mailbox.relay):
                # another rank of this node may need this core
                time.sleep(0)
                self._pass_on()
        self._ledger.wait(time.perf_counter() - start)

    def _connect(self, comm: Intracomm, transport: str) -> _Mailbox | None:
        # Share a table with the ranks of this node; the first of them receives messages from other nodes.
        from mpi4py import MPI

        every = np.arange(comm.Get_size(), dtype=np.int64)
        nodes = every.copy()  # by rank: the lowest rank that shares its table
        if transport != "messages":
            node = _split_by_node(comm)
            leader, i_own = np.array([self._rank], dtype=np.int64), node.Get_rank()
            node.Bcast(leader, root=0)
            comm.Allgather(leader, nodes)
            table, path = _map_table(node)
            node.Free()
            shared = np.array([table is not None], dtype=np.int64)
            comm.Allreduce(MPI.IN_PLACE, shared, op=MPI.MIN)
            if path:  # all ranks have opened it, or failed to
                os.unlink(path)
            if transport == "shared" and nodes.any():
                raise ValueError(f"transport='shared' works on one node, got {len(np.unique(nodes))} nodes")
            if transport == "shared" and not shared[0]:
                raise RuntimeError(f"transport='shared': no file could be shared in {_shared_folder()}")
            if table is not None and shared[0]:
                self._table, self._i_own = table, i_own
            else:
                nodes = every
        self._node = np.flatnonzero(nodes == nodes[self._rank])
        if not nodes.any():
            return None
        first = self._rank == self._node[0]
        own = comm.Split(0 if first else MPI.UNDEFINED, key=self._rank)
        return _Mailbox(own) if first else None


class _Mailbox:
    """Messages along the tree of nodes, over a communicator of their first ranks."""

    def __init__(self, comm: Comm) -> None:
        from mpi4py import MPI

        self._comm, self._incoming = comm, np.zeros(3, dtype=np.int64)
        self.relay = Relay(comm.Get_rank(), comm.Get_size())
        neighbours = [*self.relay.children, *([] if self.relay.parent is None else [self.relay.parent])]
        self._outgoing: dict[int, Slots] = {node: np.zeros(3, dtype=np.int64) for node in neighbours}
        self._sends = {node: comm.Send_init(self._outgoing[node], node) for node in neighbours}
        self._status = MPI.Status()

    def exchange(self) -> int:
        """Receive all available messages, of any phase, and start to send those due; returns the number received."""
        # No receive is posted: one from any source, posted in advance, hangs with MPICH 5.0 over UCX.
        n_looks = 0
        while n_looks < _N_LOOKS:
            n_looks += 1
            if self._comm.Iprobe(status=self._status):
                source, n_looks = self._status.Get_source(), 0
                self._comm.Recv(self._incoming, source)
                phase, count, left = self._incoming.tolist()
                self.relay.hear(source, (phase, count, left))
        # an inactive request has completed
        messages: list[tuple[int, Message]] = self.relay.due(lambda node: bool(self._sends[node].Test()))
        for node, message in messages:
            self._outgoing[node][:] = message
            self._sends[node].Start()
        return len(messages)

    def complete(self) -> None:
        """Wait until the sent messages are on their way."""
        for request in self._sends.values():
            request.Wait()

    def free(self) -> None:
        """Free requests and communicator (collective)."""
        for request in self._sends.values():
            request.Free()
        self._comm.Free()


def _split_by_node(comm: Intracomm) -> Comm:
    # The ranks on this one's node, in the order of their ranks; collective.
    from mpi4py import MPI

    return comm.Split_type(MPI.COMM_TYPE_SHARED, key=comm.Get_rank())


def _shared_folder() -> str:
    # The folder whose files are in memory, if the system has one.
    return "/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir()  # noqa: S108


def _map_table(node: Comm) -> tuple[Slots | None, str]:
    # One slot for each rank, and one more, in memory that the node shares (or None); on its first rank also the file to
    # remove. It is a mapped file rather than an MPI window: failure is an OSError that can be handled, ranks that die
    # leave nothing in /dev/shm, and Open MPI does not first look for RMA hardware and complain on stderr.
    n_rows, path, name = node.Get_size() + 1, "", np.zeros(1024, dtype=np.uint8)
    n_bytes = 8 * _STRIDE * n_rows
    table = None
    if node.Get_size() == 1:
        return np.full((2, 2), _NEVER, dtype=np.int64), path
    if node.Get_rank() == 0:
        with suppress(OSError):
            handle, path = tempfile.mkstemp(prefix="distnewton-", dir=_shared_folder())
            with os.fdopen(handle, "wb") as file:  # written, not truncated: without space OSError, not SIGBUS
                file.write(np.full(n_bytes // 8, _NEVER, dtype=np.int64).tobytes())
            name[: len(os.fsencode(path))] = np.frombuffer(os.fsencode(path), dtype=np.uint8)
    node.Bcast(name, root=0)
    with suppress(OSError), open(os.fsdecode(name.tobytes().rstrip(b"\0")), "r+b") as file:
        table = np.frombuffer(mmap.mmap(file.fileno(), n_bytes), dtype=np.int64).reshape(n_rows, _STRIDE)[:, :2]
    return table, path
