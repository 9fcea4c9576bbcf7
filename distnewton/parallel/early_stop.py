"""Early termination of the direction phase of [DNM]: say "I have finished", ask how many have, never block.

Inside a node the board is a table in shared memory: a rank stores the phase's number in its own slot, and
the others read it. Neither calls MPI, so it does not matter that the others are inside a GEMM. Between nodes,
a rank that has finished sends 8 bytes to every rank of the other nodes, and each looks for them between two
of its CG steps. Raising or reading a counter in a one-sided window would instead block until its owner's next
MPI call wherever the network has no hardware for it, for milliseconds.
``python -m benchmarks.early_stop`` measures these.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distnewton.guards.ledger import Ledger
from distnewton.guards.watchdog import watchdog

if TYPE_CHECKING:
    from mpi4py.MPI import Comm, Intracomm

Slots = NDArray[np.int64]

TRANSPORTS = ("auto", "shared", "messages")
_NEVER, _OPENING = -2, -1
"""Content of a slot before its first phase; number of the phase that opens the connections."""
_STRIDE = 8
"""int64 from slot to slot: 64 bytes, so that a store takes no cache line from the readers of another slot."""
_N_LOOKS = 4
"""Looks without a message that end a search. A look may advance the library and yet say no: with MPICH and
Open MPI, over shared memory and TCP, up to 2 in a row did before a message that had long been there."""


def stop_threshold(n_solving: int, finish_fraction: float) -> int:
    """Count the finished ranks that end the phase for all.

    Parameters
    ----------
    n_solving : int
        Ranks that solve a system, at least one.
    finish_fraction : float
        Above 0 and at most 1; 1 waits for all.

    Returns
    -------
    int
        ``ceil(finish_fraction * n_solving)``; a product above an integer by rounding only counts as it.

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
    """Where the ranks of a communicator say that they have finished a phase, and see how many have.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm or None
        The ranks that take part; duplicated. None, or a single rank, needs no MPI.
    transport : str
        ``auto``: shared memory inside a node, messages between nodes, and messages only where memory cannot
        be shared; ``shared``: shared memory or an error; ``messages``: messages only.
    ledger : Ledger or None
        Where the bytes of messages are charged, of those that open the connections, too; by default one of its own.
    weights : sequence of int or None
        As how much each rank counts; 1 each by default.

    Attributes
    ----------
    transport : str
        What this rank uses: ``shared``, ``messages`` or ``shared+messages``.
    n_messages_sent : int
        What this rank has sent, with the one message a peer that opens the connections.

    Raises
    ------
    ValueError
        If the transport is unknown, or ``shared`` is asked for on several nodes; on all ranks alike.
    RuntimeError
        If ``shared`` is asked for and memory cannot be shared; on all ranks alike.

    Notes
    -----
    Construction and :meth:`free` are collective over ``comm``, nothing else is. A phase is, on each rank ::

        board.begin(k)                        # k grows: no slot needs a reset, and no old message counts
        step, board.n_finished(), step, ...   # and board.announce() when the stopping rule is met
        a collective from which every rank learns who announced
        board.end(finished_ranks)

    Memory order: each slot has one writer, and an aligned int64 is stored and loaded whole. The number
    publishes nothing but itself: it needs no order with other memory and no fence, only coherent caches.
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
        self._phase, self._announced, self._is_open = _NEVER, False, False
        self._slots: Slots = np.full(1, _NEVER, dtype=np.int64)  # of this node's ranks; own: _slots[_i_own]
        self._rank = self._i_own = 0
        self._mailbox: _Mailbox | None = None
        n_ranks = 1 if comm is None else comm.Get_size()
        self._weights: Slots = np.array([1] * n_ranks if weights is None else weights, dtype=np.int64)
        self._node = np.zeros(1, dtype=np.intp)  # ranks of the slots
        if comm is not None and n_ranks > 1:
            self._rank = comm.Get_rank()
            self._mailbox = self._connect(comm, transport)
        self.transport = "shared" if len(self._slots) > 1 or self._mailbox is None else "messages"
        if self._mailbox is not None and len(self._slots) > 1:
            self.transport = "shared+messages"
        # A first phase, finished by all, opens the connections: later no message waits for an answer of its
        # receiver, who may be in a GEMM.
        self.begin(_OPENING)
        self.announce()
        self.end(range(n_ranks))

    def begin(self, phase_number: int) -> None:
        """Open a phase.

        Parameters
        ----------
        phase_number : int
            The same on all ranks, not negative, and larger than that of the phase before.

        Raises
        ------
        ValueError
            If the number does not grow.
        RuntimeError
            If the phase before was not ended.
        """
        if self._is_open:
            raise RuntimeError(f"phase {phase_number} begins, but phase {self._phase} was not ended")
        if phase_number <= self._phase:
            raise ValueError(f"phase_number must be larger than {self._phase}, got {phase_number}")
        self._phase, self._announced, self._is_open = phase_number, False, True

    def announce(self) -> None:
        """Say that this rank has met its stopping rule; does not block, and does nothing when said before.

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
        self._slots[self._i_own] = self._phase
        if self._mailbox is not None:
            self._mailbox.send(self._phase)
            self.n_messages_sent += self._mailbox.n_peers
            self._ledger.charge(self._mailbox.n_peers * self._slots.itemsize, 0.0)

    def n_finished(self) -> int:
        """Count the ranks known to have finished this phase, each by its weight, this one included; does not block.

        To be asked before the collective that follows; after it, ranks that are in the next phase already may
        count no longer.

        Returns
        -------
        int
            Never more than have announced: of this node all, of other nodes those whose message is here.
        """
        n = self._weights[self._node[self._slots == self._phase]].sum()
        if self._mailbox is not None:
            self._mailbox.receive()
            n += self._weights[self._mailbox.heard == self._phase].sum()
        return int(n)

    def end(self, finished_ranks: Sequence[int]) -> None:
        """Close the phase: receive what is still under way, complete what was sent.

        Parameters
        ----------
        finished_ranks : sequence of int
            The ranks that announced in this phase.

        Raises
        ------
        RuntimeError
            If the list is wrong about this rank: others would wait for a message that was never sent.

        Notes
        -----
        Waits only for messages sent before the collective that told who finished. A fast rank's message of
        the next phase may arrive here already; it carries that phase's number, and counts there.
        """
        if not self._is_open or (self._rank in finished_ranks) != self._announced:
            raise RuntimeError(
                f"end({list(finished_ranks)}) on rank {self._rank}, which "
                f"{'announced' if self._announced else 'did not announce'} in phase {self._phase}"
                f"{'' if self._is_open else ', already ended'}"
            )
        self._is_open = False
        if self._mailbox is not None:
            with watchdog.inside("end of the direction phase"):
                self._mailbox.drain(finished_ranks, self._phase)

    def free(self) -> None:
        """Free what MPI allocated; collective, outside of a phase."""
        self._slots, self._i_own = self._slots[:1].copy(), 0
        if self._mailbox is not None:
            self._mailbox.free()
            self._mailbox = None

    def _connect(self, comm: Intracomm, transport: str) -> _Mailbox | None:
        # Share slots with the ranks of this node; what is returned reaches the others.
        from mpi4py import MPI

        every = np.arange(comm.Get_size(), dtype=np.int64)
        nodes = every.copy()  # by rank: the lowest rank with which it shares slots
        if transport != "messages":
            node = _split_by_node(comm)
            leader, i_own = np.array([self._rank], dtype=np.int64), node.Get_rank()
            node.Bcast(leader, root=0)
            comm.Allgather(leader, nodes)
            table, path = _map_table(node)
            node.Free()
            shared = np.array([table is not None], dtype=np.int64)
            comm.Allreduce(MPI.IN_PLACE, shared, op=MPI.MIN)
            if path:  # all have it open, or have failed to
                os.unlink(path)
            if transport == "shared" and nodes.any():
                raise ValueError(f"transport='shared' works on one node, got {len(np.unique(nodes))} nodes")
            if transport == "shared" and not shared[0]:
                raise RuntimeError(f"transport='shared': no file could be shared in {_shared_folder()}")
            if table is not None and shared[0]:
                self._slots, self._i_own = table, i_own
            else:
                nodes = every
        self._node = np.flatnonzero(nodes == nodes[self._rank])
        peers = np.flatnonzero(nodes != nodes[self._rank]).tolist()
        return _Mailbox(comm.Dup(), peers) if peers else None


class _Mailbox:
    """A number to many ranks, and the last number of each of them; over a communicator of its own."""

    def __init__(self, comm: Intracomm, peers: list[int]) -> None:
        from mpi4py import MPI

        self._comm, self._peers, self.n_peers = comm, set(peers), len(peers)
        self.heard: Slots = np.full(comm.Get_size(), _NEVER, dtype=np.int64)
        self._incoming, self._outgoing = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
        rank, size = comm.Get_rank(), comm.Get_size()
        peers = sorted(peers, key=lambda peer: (peer - rank) % size)  # not all to one rank at the same time
        self._sends = [comm.Send_init(self._outgoing, peer) for peer in peers]
        self._start, self._wait, self._status = MPI.Prequest.Startall, MPI.Request.Waitall, MPI.Status()

    def send(self, number: int) -> None:
        """Start one message to each peer; they complete in :meth:`drain`."""
        self._outgoing[0] = number
        self._start(self._sends)

    def receive(self) -> None:
        """Take all messages that are here, of whichever phase; one peer's come in their order."""
        # No receive is posted: one from any source, posted beforehand, hangs with MPICH 5.0 over UCX.
        n_looks = 0
        while n_looks < _N_LOOKS:
            n_looks += 1
            if self._comm.Iprobe(status=self._status):
                source, n_looks = self._status.Get_source(), 0
                self._comm.Recv(self._incoming, source)
                self.heard[source] = self._incoming[0]

    def drain(self, senders: Sequence[int], number: int) -> None:
        """Receive until each of the senders is at this number, and complete the own messages."""
        awaited = sorted(self._peers.intersection(senders))
        while np.any(self.heard[awaited] < number):
            self.receive()
        self._wait(self._sends)

    def free(self) -> None:
        """Free requests and communicator (collective)."""
        for request in self._sends:
            request.Free()
        self._comm.Free()


def _split_by_node(comm: Intracomm) -> Comm:
    # The ranks on this one's node, in the order of their ranks; collective.
    from mpi4py import MPI

    return comm.Split_type(MPI.COMM_TYPE_SHARED, key=comm.Get_rank())


def _shared_folder() -> str:
    # Where files are memory, if the system has such a folder.
    return "/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir()  # noqa: S108


def _map_table(node: Comm) -> tuple[Slots | None, str]:
    # One slot a rank in memory that the node shares, or None; and on its first rank the file to remove.
    # A mapped file and not a window of MPI: that it fails is an OSError to answer, ranks that die leave
    # nothing in /dev/shm, and Open MPI does not look for RMA hardware first and complain on stderr.
    n_bytes, path, name = 8 * _STRIDE * node.Get_size(), "", np.zeros(1024, dtype=np.uint8)
    table = None
    if node.Get_size() == 1:
        return np.full(1, _NEVER, dtype=np.int64), path
    if node.Get_rank() == 0:
        with suppress(OSError):
            handle, path = tempfile.mkstemp(prefix="distnewton-", dir=_shared_folder())
            with os.fdopen(handle, "wb") as file:  # written, not truncated: without space OSError, not SIGBUS
                file.write(np.full(n_bytes // 8, _NEVER, dtype=np.int64).tobytes())
            name[: len(os.fsencode(path))] = np.frombuffer(os.fsencode(path), dtype=np.uint8)
    node.Bcast(name, root=0)
    with suppress(OSError), open(os.fsdecode(name.tobytes().rstrip(b"\0")), "r+b") as file:
        table = np.frombuffer(mmap.mmap(file.fileno(), n_bytes), dtype=np.int64)[::_STRIDE]
    return table, path
