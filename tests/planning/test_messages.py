"""The formula of bytes and messages against what the program counts, on every grid, phase by phase."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from convolutional import Conv
from problems import alternating, make_case, make_image_case, named_direction, newton_trainer

from distnewton.directions.block_diagonal import BlockDiagonal
from distnewton.directions.dual import Dual
from distnewton.directions.gauss_newton import GaussNewton
from distnewton.guards.ledger import PHASES, Ledger
from distnewton.method.batches import Subsamples
from distnewton.parallel.partition import divisors
from distnewton.planning.messages import Messages, widest_kept
from distnewton.planning.problem import PlannedMethod, Problem, Share

pytestmark = pytest.mark.mpi(min_size=1)

ITERATIONS = 3


class CountedMessages:
    """What this rank's ledger held after each iteration."""

    def __init__(self, monkeypatch):
        self.taken = []

        def take(ledger, inner=Ledger.take):
            costs = inner(ledger)
            self.taken.append({phase: [cost.sent_bytes, cost.n_messages] for phase, cost in costs.items()})
            return costs

        monkeypatch.setattr(Ledger, "take", take)


def check(case, monkeypatch, direction, *, combine="previous", **given):
    """Compare bytes and numbers of messages of each iteration from the second on, on each rank."""
    counted = CountedMessages(monkeypatch)
    options = {"combine": combine, "line_search_max": 20, "sketch": given.get("sketch", 0)}
    records = list(newton_trainer(case, direction, subsample=0.4, **options).iterations(ITERATIONS))
    # one is taken before an iteration, for what came between, and one at its end
    counts = counted.taken[1::2]
    network, partition = case.network, case.grid.partition
    shares = [Share(network.shape, partition, rank) for rank in range(partition.n_ranks)]
    n, wrong, share = case.objective.n_samples, [], case.objective.share
    for k in range(2, ITERATIONS + 1):
        record, before = records[k], records[k - 1]
        assert not record.note
        problem = Problem(
            network.shape,
            n_samples=n,
            n_curvature=int(np.ceil(0.4 * n)),
            n_rows=given.get("sketch", 0) or network.n_out,
            itemsize=8,
            memory_bytes=case.objective.memory_bytes,
            method=PlannedMethod(
                direction=direction.planned_as,
                n_steps=record.direction.inner_iterations[0],
                n_trials=record.line_search_trials,
                n_directions=1 + (combine == "previous" and not before.note),
                warm=given.get("warm", False),
                recomputed=given.get("recomputed", False),
                n_pieces=case.network.n_pieces,
                preconditioner=given.get("preconditioner", "none"),
            ),
            n_replicas=case.grid.n_replicas,
        )
        # the next point's subsample is the line search's
        subsamples = Subsamples(n, problem.n_curvature, 0)
        sizes = [len(share.choose(subsamples.rows(i))[0]) for i in (k - 1, k)]
        own, width = shares[case.grid.rank], widest_kept(problem, shares)
        # replicas may differ by a sample
        problems = [replace(problem, n_samples=share.n_own, n_curvature=size) for size in sizes]
        here, there = (Messages(p, own, width).by_phase() for p in problems)
        # nothing is measured here, for which replicas would have to add up
        for phase in set(PHASES) - {"evaluation"}:
            messages = there[phase] if phase == "line_search" else here[phase]
            expected = [sum(m.sent_bytes for m in messages), sum(m.n_calls for m in messages)]
            found = counts[k][phase]
            same = found[0] == pytest.approx(expected[0], rel=1e-12) and found[1] == expected[1]
            if not same:
                wrong.append((k, phase, found, expected))
    assert case.agree(not wrong), wrong
    monkeypatch.undo()


def solver(kind, **options):
    if kind == "dual":
        return Dual()
    direction = GaussNewton if kind == "gauss_newton" else BlockDiagonal
    return direction(direction.own_options(cg_max=5, **options))


@pytest.mark.parametrize("kind", ["gauss_newton", "block_diagonal", "dual"])
@pytest.mark.parametrize("combine", ["previous", "none"])
def test_dense_networks(world, monkeypatch, kind, combine):
    for widths in ((6, 5, 4, 3), (7, 3)):
        for splits in alternating(world.size, len(widths) - 1):
            case = make_case(world, widths, splits, n=30)
            with case.grid:
                check(case, monkeypatch, solver(kind), combine=combine)


def test_pieces_that_take_turns(world, monkeypatch):
    for splits in alternating(world.size, 3):
        for given in ({"memory": 1e9}, {"memory": 40_000, "n": 200}):
            case = make_case(world, (6, 5, 4, 3), splits, n_pieces=3, **{"n": 30} | given)
            with case.grid:
                check(case, monkeypatch, solver("gauss_newton"))
                check(case, monkeypatch, solver("block_diagonal"), sketch=2)


@pytest.mark.parametrize("kind", ["gauss_newton", "block_diagonal"])
@pytest.mark.parametrize("given", [{}, {"warm": True}, {"recomputed": True}, {"sketch": 2}])
def test_replicas(world, monkeypatch, kind, given):
    if kind == "block_diagonal" and given.keys() & {"warm", "recomputed"}:
        pytest.skip("sends nothing more")
    options = {"warm_start": 0.5} if "warm" in given else {}
    options |= {"jacobian": "recomputed"} if "recomputed" in given else {}
    for n_replicas in divisors(world.size)[1:]:
        for splits in alternating(world.size // n_replicas, 3):
            case = make_case(world, (6, 5, 4, 3), splits, n=31, n_replicas=n_replicas)
            with case.grid:
                check(case, monkeypatch, solver(kind, **options), **given)


@pytest.mark.parametrize("kind", ["gauss_newton", "block_diagonal"])
def test_kronecker_factors_as_preconditioner(world, monkeypatch, kind):
    options = {"preconditioner": "kfac", "cg_tolerance": 0.1, "cg_max": 4}
    for n_replicas in divisors(world.size):
        for splits in alternating(world.size // n_replicas, 3):
            case = make_case(world, (6, 5, 4, 3), splits, n=31, n_replicas=n_replicas)
            with case.grid:
                check(case, monkeypatch, named_direction(kind, **options), preconditioner="kfac")


@pytest.mark.parametrize("given", [{"warm": True}, {"recomputed": True}, {"sketch": 2}])
def test_ways_to_multiply(world, monkeypatch, given):
    options = {"warm_start": 0.5} if "warm" in given else {}
    options |= {"jacobian": "recomputed"} if "recomputed" in given else {}
    for splits in alternating(world.size, 3):
        case = make_case(world, (6, 5, 4, 3), splits, n=30)
        with case.grid:
            check(case, monkeypatch, solver("gauss_newton", **options), **given)


def test_samples_in_chunks_that_are_not_all_kept(world, monkeypatch):
    for splits in alternating(world.size, 3):
        case = make_case(world, (6, 5, 4, 3), splits, n=400, memory=40_000)
        with case.grid:
            check(case, monkeypatch, solver("gauss_newton"))


@pytest.mark.parametrize("pool", [None, ("max_pool", (2, 2), (2, 2)), ("avg_pool", (2, 2), (2, 2))])
def test_images(world, monkeypatch, pool):
    for splits in alternating(world.size, 3):
        convs = [Conv(4, (3, 3), padding=(1, 1), pool=pool), Conv(3, (2, 2))]
        case = make_image_case(world, (2, 6, 6), convs, (), 3, splits, n=20)
        with case.grid:
            check(case, monkeypatch, solver("gauss_newton"))
            check(case, monkeypatch, solver("gauss_newton", jacobian="recomputed"), recomputed=True)
