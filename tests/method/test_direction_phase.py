"""What the direction phase communicates: nothing but early termination's own messages; and how it ends."""

from __future__ import annotations

import numpy as np
import pytest
from problems import alternating, linearization, make_case, named_direction, newton_trainer

from distnewton.curvature.jacobian import linearize
from distnewton.directions.direction import Direction, DirectionResult
from distnewton.guards.faults import faults
from distnewton.guards.ledger import allreduce_bytes
from distnewton.parallel.collectives import Communicator
from distnewton.parallel.early_stop import FinishBoard
from distnewton.parallel.relay import FAN_OUT
from distnewton.parallel.termination import NEVER, EarlyTermination

pytestmark = pytest.mark.mpi(min_size=1)

WIDTHS = (6, 5, 4, 3)


class CountingComm:
    """An mpi4py communicator that counts what is called on it."""

    def __init__(self, comm):
        self._comm, self.calls = comm, []

    def __getattr__(self, name):
        attribute = getattr(self._comm, name)
        if callable(attribute):
            self.calls.append(name)
        return attribute


def count_calls(grid):
    """Replace the communicators of a grid by counting ones."""
    counting = []
    for comm in {id(c): c for c in [grid.comm, *grid._boundaries.values()]}.values():
        if comm.mpi is not None:
            comm.mpi = CountingComm(comm.mpi)
            counting.append(comm.mpi)
    return counting


def restore(grid):
    for comm in {id(c): c for c in [grid.comm, *grid._boundaries.values()]}.values():
        if comm.mpi is not None:
            comm.mpi = comm.mpi._comm


@pytest.mark.parametrize("transport", ["shared", "messages"])
def test_block_directions_make_no_mpi_call(world, transport):
    case = make_case(world, WIDTHS, alternating(world.size, 3)[-2 if world.size > 1 else 0])
    with case.grid:
        problem = linearization(case, (0, 6))
        board = FinishBoard(case.grid.comm.mpi, transport)
        sent = board.n_messages_sent
        case.grid.ledger.take()
        counting = count_calls(case.grid)
        board.begin(1)
        with case.grid.ledger.phase("direction"):
            direction = named_direction("block_diagonal", cg_tolerance=0.0, cg_max=4, cg_min=1)
            result = direction.solve(problem, EarlyTermination(board, world.size))
        calls = [name for comm in counting for name in comm.calls]
        restore(case.grid)
        assert not world.any(calls != [])
        cost = case.grid.ledger.take()["direction"]
        assert (cost.n_messages, cost.sent_bytes) == (0, 0.0)
        # of the tree's, which are sent by others' children and parents
        n_edges = min(world.size - 1, 1 + FAN_OUT) if transport == "messages" else 0
        assert not world.any(board.n_messages_sent - sent > 2 * n_edges)
        assert not world.any(transport == "shared" and board.n_messages_sent > 0)
        board.leave()
        finished = np.flatnonzero(case.grid.comm.allgather(np.array([float(result.finished)]))[:, 0])
        board.end(finished.tolist())
        board.free()


@pytest.mark.parametrize("transport", ["shared", "messages"])
def test_flags_of_finished_ranks_count_as_sent_in_the_record(world, transport):
    case = make_case(world, WIDTHS, (1, world.size, 1, world.size))
    with case.grid:
        board = FinishBoard(case.grid.comm.mpi, transport, case.grid.ledger)
        # ranks whose own rule is met at once, and one that only ever is stopped
        options = {"cg_tolerance": 0.0, "cg_max": 50 if world.rank == 0 and world.size > 1 else 2, "cg_min": 1}
        faults.arm(world.rank, world.ledger, "rank=0 at=cg kind=slow factor=100" if world.size > 1 else "")
        direction = named_direction("block_diagonal", **options)
        trainer = newton_trainer(case, direction, termination=EarlyTermination(board, max(1, world.size - 1)))
        records = list(trainer.iterations(4))[1:]
        faults.arm(world.rank, world.ledger, "")
        for record in records:
            # news goes up the tree in messages of 24 bytes
            sent = record.sent_bytes["direction"]
            assert (sent > 0) == (transport == "messages" and world.size > 1)
            assert sent % 24 == 0
        assert world.size == 1 or 0 not in records[-1].direction.finished_ranks
        board.free()


def test_gauss_newton_sums_once_a_step(world):
    for splits in alternating(world.size, 3):
        case = make_case(world, WIDTHS, splits)
        with case.grid:
            problem = linearization(case, (0, 6))
            case.grid.ledger.take()
            with case.grid.ledger.phase("direction"):
                result = named_direction("gauss_newton", cg_tolerance=0.0, cg_max=3, cg_min=1).solve(problem, NEVER)
            cost = case.grid.ledger.take()["direction"]
            assert result.inner_iterations == 3
            one = allreduce_bytes(8 * (6 * 3 + 3), world.size) if world.size > 1 else 0.0
            assert cost.n_messages == (4 if world.size > 1 else 0)
            assert cost.sent_bytes == pytest.approx(4 * one)


def test_bytes_of_gradient_and_jacobian_follow_the_model(world):
    n, itemsize = 9, 8
    for a in [a for a in range(1, world.size + 1) if world.size % a == 0]:
        splits = tuple((a, world.size // a)[m % 2] for m in range(4))
        case = make_case(world, WIDTHS, splits)
        with case.grid:
            evaluation = case.objective.evaluate(case.params, (0, 6))
            case.grid.ledger.take()
            with case.grid.ledger.phase("gradient"):
                case.objective.gradient(evaluation)
            with case.grid.ledger.phase("jacobian"):
                linearize(case.network, case.params, evaluation.subsample[1])
            costs = case.grid.ledger.take()
            widths = {(m, j): case.grid.group_width(m, j) for m in (1, 2) for j in case.grid.groups(m)}
            members = {key: len(case.grid.partition.boundary(*key)) for key in widths}
            # weights and biases of three outputs stand for the cotangents of six samples, but not for those of three
            outputs = {key: 3 * (w + 1) for key, w in widths.items()}
            numbers = {key: n * w if key[0] == 1 else outputs[key] + 3 * w for key, w in widths.items()}
            gradient = sum(allreduce_bytes(itemsize * numbers[key], members[key]) for key in widths)
            numbers = {key: 3 * 6 * w if key[0] == 1 else outputs[key] for key, w in widths.items()}
            jacobian = sum(allreduce_bytes(itemsize * numbers[key], members[key]) for key in widths)
            assert not world.any(abs(costs["gradient"].sent_bytes - gradient) > 1e-9)
            assert not world.any(abs(costs["jacobian"].sent_bytes - jacobian) > 1e-9)


@pytest.mark.mpi(min_size=2)
def test_a_slow_rank_is_stopped_when_enough_have_finished(world):
    slow = world.size - 1
    splits = (1, world.size, 1, world.size)
    case = make_case(world, (6, 14, 5, 7), splits, n=40, loss="cross_entropy")
    with case.grid:
        faults.arm(world.rank, world.ledger, f"rank={slow} at=cg kind=slow factor=400")
        # the slow rank would need hundreds of steps, the others stop at their second
        options = {"cg_tolerance": 1e-14, "cg_max": 200 if world.rank == slow else 2, "cg_min": 1}
        board = FinishBoard(case.grid.comm.mpi)
        direction = named_direction("block_diagonal", **options)
        trainer = newton_trainer(case, direction, termination=EarlyTermination(board, world.size - 1))
        records = list(trainer.iterations(6))
        faults.arm(world.rank, world.ledger, "")
        assert records[-1].objective < 0.9 * records[0].objective
        for record in records[1:]:
            direction = record.direction
            assert direction.finished_ranks == list(range(world.size - 1))
            assert direction.stopped_early
            assert direction.inner_iterations[:-1] == [2] * (world.size - 1)
            # counts, not seconds: it was stopped long before its own rule
            assert 1 <= direction.inner_iterations[slow] < 100
        board.free()


class Uphill(Direction):
    """A direction in which the objective grows."""

    name = "test"
    stops_early = averages_gradient = apart = False
    curvature = "jacobian"

    def solve(self, problem, termination):
        return DirectionResult(problem.gradient.copy(), 0, True, 0.0)


def test_a_rejected_direction_raises_damping_and_is_recorded(world):
    case = make_case(world, WIDTHS, (1, world.size, 1, 1))
    with case.grid:
        trainer = newton_trainer(case, Uphill(), combine="none")
        records = list(trainer.iterations(3))
        assert [r.note for r in records[1:]] == ["no descent direction"] * 3
        assert [r.step_size for r in records[1:]] == [0.0] * 3
        assert [r.damping for r in records[1:]] == [1.0, 1.5, 2.25]
        assert records[-1].objective == records[0].objective


def test_serial_communicator_has_no_mpi():
    assert Communicator().mpi is None
