"""Early termination: what ranks say is heard, in its own phase only, and nobody ever waits."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from distnewton.parallel import early_stop
from distnewton.parallel.early_stop import FinishBoard, stop_threshold

LAYOUTS = ["shared", "messages", "pairs", "auto"]
"""``pairs``: as if every two ranks had a node, so that both transports are in use."""


@pytest.fixture
def comm():
    from mpi4py import MPI

    comm = MPI.COMM_WORLD.Dup()
    yield comm
    comm.Free()


@pytest.fixture(params=LAYOUTS)
def board(request, comm, monkeypatch):
    layout = request.param
    if layout == "pairs":
        monkeypatch.setattr(early_stop, "_split_by_node", lambda comm: comm.Split(comm.Get_rank() // 2))
    if layout == "shared" and n_nodes(comm) > 1:
        pytest.skip("several nodes")
    board = FinishBoard(comm, "auto" if layout == "pairs" else layout)
    yield board
    comm.Barrier()
    board.free()


@pytest.fixture
def folder(comm):
    """One for all ranks; pytest's tmp_path is one a rank, and ranks disturb one another's clean-up."""
    with tempfile.TemporaryDirectory() if comm.rank == 0 else nullcontext() as path:
        yield comm.bcast(path)
        comm.Barrier()


def n_nodes(comm):
    node = early_stop._split_by_node(comm)
    first = int(node.Get_rank() == 0)
    node.Free()
    return comm.allreduce(first)


def verdict(comm, ok):
    """A check that all ranks pass or fail together."""
    failed = [rank for rank, good in enumerate(comm.allgather(bool(ok))) if not good]
    assert not failed, f"failed on ranks {failed}"


def who(comm, announced):
    """The collective after a phase."""
    return np.flatnonzero(comm.allgather(bool(announced))).tolist()


def raises(kind, call):
    try:
        call()
    except kind:
        return True
    return False


@pytest.mark.parametrize(
    ("n_solving", "fraction", "expected"),
    [(1, 0.5, 1), (4, 0.5, 2), (5, 0.5, 3), (3, 1e-9, 1), (7, 1.0, 7), (100, 0.07, 7), (10, 0.71, 8)],
)
def test_threshold(n_solving, fraction, expected):
    assert stop_threshold(n_solving, fraction) == expected


@pytest.mark.parametrize("fraction", [0.0, -1.0, 1.01, float("nan")])
def test_threshold_refuses_fractions(fraction):
    with pytest.raises(ValueError, match="finish_fraction must be above 0 and at most 1, got"):
        stop_threshold(4, fraction)


def test_threshold_refuses_nobody():
    with pytest.raises(ValueError, match="n_solving must be at least 1, got 0"):
        stop_threshold(0, 0.5)


def test_alone_needs_no_mpi():
    code = """
import sys
from distnewton.parallel.early_stop import FinishBoard
board = FinishBoard(None)
for phase in (0, 1, 5):
    board.begin(phase)
    assert board.n_finished() == 0
    if phase != 1:
        board.announce()
    assert board.n_finished() == int(phase != 1)
    board.end([0] if phase != 1 else [])
assert (board.transport, board.n_messages_sent) == ("shared", 0)
board.free()
assert "mpi4py.MPI" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_misuse_is_an_error():
    with pytest.raises(ValueError, match=r"transport must be one of auto, shared, messages, got 'pigeon'$"):
        FinishBoard(None, "pigeon")
    board = FinishBoard()
    with pytest.raises(RuntimeError, match="outside of a phase"):
        board.announce()
    with pytest.raises(ValueError, match="phase_number must be larger than -1, got -1"):
        board.begin(-1)
    board.begin(3)
    with pytest.raises(RuntimeError, match="phase 4 begins, but phase 3 was not ended"):
        board.begin(4)
    with pytest.raises(RuntimeError, match=r"end\(\[0\]\) on rank 0, which did not announce in phase 3$"):
        board.end([0])
    board.announce()
    with pytest.raises(RuntimeError, match=r"which announced in phase 3$"):
        board.end([])
    board.end([0])
    with pytest.raises(RuntimeError, match="already ended"):
        board.end([0])
    with pytest.raises(ValueError, match="phase_number must be larger than 3, got 3"):
        board.begin(3)


@pytest.mark.mpi(min_size=1, sizes=(2, 3, 4, 7))
def test_all_are_heard_without_a_collective(comm, board):
    board.begin(7)
    board.announce()
    while board.n_finished() < comm.size:
        pass
    board.end(range(comm.size))
    verdict(comm, True)


@pytest.mark.mpi(min_size=1, sizes=(2, 3, 4, 7))
def test_saying_it_twice_is_saying_it_once(comm, board):
    before = board.n_messages_sent
    board.begin(0)
    if comm.rank == 0:
        for _ in range(3):
            board.announce()
    board.end(who(comm, comm.rank == 0))
    sent = board.n_messages_sent - before
    # one down each edge of the tree, and up one when all have left and perhaps one before
    relay = None if board._mailbox is None else board._mailbox.relay
    n_down, n_up = (0, 0) if relay is None else (len(relay.children), relay.parent is not None)
    verdict(comm, n_down + n_up <= sent <= n_down + 2 * n_up)
    cost = board._ledger.take()["other"]
    verdict(comm, cost.sent_bytes == 24 * board.n_messages_sent)


@pytest.mark.mpi(min_size=1, sizes=(2, 3, 4, 7))
def test_many_phases_leave_nothing_behind(comm, board):
    rng, own = np.random.default_rng(0), np.random.default_rng(comm.rank)
    good = True
    for phase in range(400 // comm.size):
        finishers = np.flatnonzero(rng.random(comm.size) < rng.choice([0.0, 0.3, 1.0]))
        board.begin(phase)
        counts = [board.n_finished() for _ in range(own.integers(3))]
        if comm.rank in finishers:
            board.announce()
        counts += [board.n_finished() for _ in range(own.integers(3))]
        finished = who(comm, comm.rank in finishers)
        good &= finished == finishers.tolist()
        good &= counts == sorted(counts)
        if own.random() < 0.2:
            time.sleep(0.001)  # the others may be in the next phase
        counts.append(board.n_finished())
        board.end(finished)
        good &= max(counts) <= len(finishers)
        if phase % 2:
            comm.Barrier()
            good &= board.n_finished() == len(finishers)
            comm.Barrier()
    verdict(comm, good)
    comm.Barrier()
    verdict(comm, board._mailbox is None or not board._mailbox._comm.Iprobe())


@pytest.mark.mpi(min_size=2, sizes=(2, 3, 4, 7))
def test_own_messages_only(comm, board):
    received, successor, predecessor = np.zeros(1), (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    board.begin(0)
    request = comm.Isend(np.array([float(comm.rank)]), successor)
    board.announce()
    board.n_finished()
    comm.Recv(received, predecessor)
    request.Wait()
    board.end(who(comm, True))
    verdict(comm, received[0] == predecessor)


@pytest.mark.mpi(min_size=2, sizes=(2, 3, 4, 7))
def test_nobody_waits_for_a_rank_that_computes(comm, board, folder):
    """The others compute until rank 0 has said and asked: if that needed them, this would hang."""
    sign = Path(folder, "rank_0_went_on")
    a = np.ones((100, 100))
    board.begin(0)
    comm.Barrier()
    if comm.rank == 0:
        board.announce()
        counts = [board.n_finished() for _ in range(100)]
        sign.touch()
    else:
        while not sign.exists():
            a @ a
        counts = [1]
    board.end(who(comm, comm.rank == 0))
    verdict(comm, set(counts) == {1})


@pytest.mark.mpi(min_size=2, sizes=(2, 3, 4, 7))
def test_a_slow_rank_stops_after_the_step_it_is_in(comm, board):
    """Order of events: no question asked after enough had said that they finished is answered with no."""
    if n_nodes(comm) > 1 and len(set(comm.allgather(os.uname().nodename))) > 1:
        pytest.skip("the clocks of several machines")
    rounds, threshold = 6, stop_threshold(comm.size, 0.5)
    a = np.ones((200, 200))
    n_gemm = 25 if comm.rank == comm.size - 1 else 5  # the last rank is five times slower
    missed = []
    for phase in range(rounds):
        finishes_after = phase + 1 + comm.rank if comm.rank < threshold else 10**6
        said, asked = np.inf, []
        board.begin(phase, threshold)
        comm.Barrier()
        for step in range(1, 10**6):
            for _ in range(n_gemm):
                a @ a
            if step == finishes_after:
                board.announce()
                said = time.perf_counter()
                break
            asked.append(time.perf_counter())
            if board.n_finished() >= threshold:
                asked.pop()
                break
        board.leave()
        enough = sorted(comm.allgather(said))[threshold - 1]
        missed.append(sum(start > enough for start in asked))
        board.end(who(comm, said < np.inf))
    if board.transport == "shared":
        verdict(comm, sum(missed) == 0)
    else:  # news climbs and descends two levels of four nodes, and who passes it on may be in a step of its own
        verdict(comm, sum(missed) <= 4 * rounds)


@pytest.mark.mpi(min_size=2, sizes=(2, 3, 4, 7))
def test_shared_memory_leaves_no_file(comm, folder, monkeypatch):
    if n_nodes(comm) > 1:
        pytest.skip("several nodes")
    monkeypatch.setattr(early_stop, "_shared_folder", lambda: folder)
    board = FinishBoard(comm)
    verdict(comm, board.transport == "shared")
    comm.Barrier()
    verdict(comm, not os.listdir(folder))
    board.begin(0)
    board.announce()
    while board.n_finished() < comm.size:
        pass
    board.end(range(comm.size))
    board.free()


@pytest.mark.mpi(min_size=2, sizes=(2, 3, 4, 7))
@pytest.mark.parametrize("where", ["nowhere", "one rank"])
def test_messages_where_memory_cannot_be_shared(comm, monkeypatch, where):
    if n_nodes(comm) > 1:
        pytest.skip("several nodes")
    map_table = early_stop._map_table
    if where == "nowhere":
        monkeypatch.setattr(early_stop, "_shared_folder", lambda: "/no/such/folder")
    elif comm.rank == comm.size - 1:
        monkeypatch.setattr(early_stop, "_map_table", lambda node: (None, map_table(node)[1]))
    verdict(comm, raises(RuntimeError, lambda: FinishBoard(comm, "shared")))
    board = FinishBoard(comm)
    verdict(comm, board.transport == "messages")
    board.begin(0)
    board.announce()
    while board.n_finished() < comm.size:
        pass
    board.end(range(comm.size))
    board.free()


@pytest.mark.mpi(min_size=3, sizes=(2, 3, 4, 7))
def test_shared_alone_refuses_several_nodes(comm, monkeypatch):
    monkeypatch.setattr(early_stop, "_split_by_node", lambda comm: comm.Split(comm.Get_rank() // 2))
    verdict(comm, raises(ValueError, lambda: FinishBoard(comm, "shared")))


@pytest.mark.mpi(min_size=1, sizes=(2, 3, 4, 7))
def test_wrong_lists_are_refused_before_anyone_waits(comm, board):
    board.begin(0)
    if comm.rank == 0:
        board.announce()
    others = list(range(1, comm.size))
    verdict(comm, raises(RuntimeError, lambda: board.end(others)))
    board.end([0])


@pytest.mark.mpi(min_size=2, sizes=(2, 3, 4, 7))
def test_ranks_that_have_finished_pass_on_what_others_say(comm, board):
    """The first rank of each node finishes first: the last one hears of all of them all the same."""
    threshold = comm.size - 1
    for phase in range(20):
        board.begin(phase, threshold)
        if comm.rank < threshold:
            board.announce()
        else:
            while board.n_finished() < threshold:
                pass
        board.leave()
        board.end(who(comm, comm.rank < threshold))
    verdict(comm, True)


@pytest.mark.mpi(min_size=2, sizes=(2, 3, 4, 7))
def test_a_phase_in_which_too_few_finish_ends(comm, board):
    for phase in range(20):
        board.begin(phase, comm.size)
        if comm.rank % 2:
            board.announce()
        board.leave()
        board.end(who(comm, comm.rank % 2))
    verdict(comm, board.n_finished() == comm.size // 2)
