"""Logical blocks: the same method on every grid that can share them, by histories, dense solves and checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
from groups import dense_summary
from problems import dense_system, linearization, make_case, named_direction
from resumed import StopAfter, blobs, free, settings

import distnewton
from distnewton.curvature.groups import ParameterGroups
from distnewton.errors import ConfigError
from distnewton.network.layout import layout_of
from distnewton.parallel.collectives import Communicator
from distnewton.parallel.early_stop import FinishBoard
from distnewton.parallel.partition import Partition, regular_blocks
from distnewton.parallel.termination import NEVER, EarlyTermination
from distnewton.planning.plan import candidates

CUTS = [(2, 2, 2, 2), (1, 4, 1, 4), (4, 1, 4, 1)]
"""Of 7-8-5-3: uneven, and with 4 groups of 3 outputs one is empty."""
METHODS = {
    "block_diagonal": {"cg_tolerance": 0.01, "subsample": 0.5, "subsample_min": 1, "warm_start": 0.5},
    "block_diagonal by layer": {"blocks": "layer", "preconditioner": "kfac", "subsample_min": 30},
    "block_diagonal damped": {"damping_form": "diagonal", "preconditioner": "diagonal", "subsample_min": 30},
    "block_dual": {"subsample_min": 20},
    "block_dual by layer": {"subsample_min": 20, "blocks": "layer"},
    "sgn": {"batch": 30},
    "kfac": {"batch": 20},
    "mini_block_fisher": {"batch": 20, "mini_blocks": "neuron", "learning_rate": 0.02},
    "gauss_newton": {"preconditioner": "mini_block_fisher", "subsample_min": 30},
    "grouped_newton": {"batch": 40, "rate_period": 2, "proposal": "kfac", "groups": "rank"},
}


def on(world, n_ranks, work):
    """Do work on the first ranks; None on others, which wait."""
    result = None
    if world.rank < n_ranks:
        comm = Communicator(None) if n_ranks == 1 else world.subgroup(range(n_ranks))
        result = work(comm)
        comm.free()
    world.barrier()
    return result


def training(method, cut, *, iterations=3, **options):
    """Work that trains 7-8-5-3 with logical blocks; returns its numbers and notes."""
    config = settings({"direction": method.split()[0], **METHODS[method]}, iterations, partition={"blocks": list(cut)})

    def work(comm):
        result = distnewton.train(config, comm, train_data=distnewton.ArraySource(*blobs()), **options)
        free(result)
        rows = [[r.objective, r.gradient_norm or 0.0, r.damping, r.step_size] for r in result.history]
        steps = [max(r.direction.inner_iterations) for r in result.history[1:]]
        return rows, steps, result.summary.notes

    return work


def sharing(cut, n_ranks):
    """Whether so many ranks can share blocks of 7-8-5-3."""
    shape = distnewton.make_config({"network": {"layers": [7, 8, 5, 3]}}).network.shape(7, None, 3)
    try:
        return bool(candidates(shape, n_ranks, blocks=cut))
    except ConfigError:
        return False


@pytest.mark.mpi(min_size=1, sizes=(4,))
@pytest.mark.parametrize(("method", "cut"), [
    *((method, CUTS[k % len(CUTS)]) for k, method in enumerate(METHODS)),
    *(("kfac", cut) for cut in CUTS[1:]), ("block_diagonal", CUTS[1]),
])  # fmt: skip
def test_every_grid_makes_the_run_of_one_rank(world, method, cut):
    alone = on(world, 1, training(method, cut))
    sizes = {n for n in (2, 3, world.size) if 1 < n <= world.size and sharing(cut, n)}
    assert sizes or world.size == 1
    for n in sizes:
        found = on(world, n, training(method, cut))
        if world.rank == 0:
            np.testing.assert_allclose(found[0], alone[0], rtol=1e-9, atol=1e-12, err_msg=f"{n} ranks")
            assert found[1] == alone[1]
            assert alone[0][-1][0] < alone[0][0][0]


@pytest.mark.mpi(min_size=1, sizes=(3,))
@pytest.mark.parametrize("direction", ["block_diagonal", "kfac"])
def test_convolutions_are_cut_by_channels(world, direction):
    rng = np.random.default_rng(0)
    source = distnewton.ArraySource(rng.standard_normal((30, 3 * 6 * 6)), rng.integers(3, size=30))
    layers = [
        {"type": "conv", "channels": 6, "kernel": 3}, {"type": "max_pool", "size": 2},
        {"type": "conv", "channels": 5, "kernel": 2}, {"type": "avg_pool", "size": 1},
        {"type": "dense", "width": "auto"},
    ]  # fmt: skip
    method = {"direction": direction} | ({"batch": 10} if direction == "kfac" else {"cg_tolerance": 1e-3})

    def work(blocks):
        network = {"layers": layers, "input": [3, 6, 6], "activation": "tanh"}
        config = settings(method, 3, network=network, partition={"blocks": blocks})

        def train(comm):
            result = distnewton.train(config, comm, train_data=source)
            free(result)
            return [record.objective for record in result.history]

        return train

    for blocks in ([3, 1, 3, 1], [1, 6, 1, 6]):
        alone, found = on(world, 1, work(blocks)), work(blocks)(world)
        if world.rank == 0:
            np.testing.assert_allclose(found, alone, rtol=1e-9)


def index_of_block(case, number):
    logical = case.grid.partition.logical
    parts = [case.dense.index(b.layer, b.rows, b.outputs, b.owns_bias) for b in logical.blocks(number)]
    return np.concatenate([np.zeros(0, int), *parts])


SHARED = [((5, 4, 6, 3), (2, 2, 2, 2)), ((3, 5, 2), (1, 8, 1)), ((4, 6, 3), (4, 2, 4))]


def shared_cases(world, **options):
    """Cases of all regular grids of these ranks that can share the blocks."""
    for widths, cut in SHARED:
        for a in range(1, world.size + 1):
            splits = tuple((a, world.size // a)[m % 2] for m in range(len(widths)))
            fits = world.size % a == 0 and all(n <= of for n, of in zip(splits, cut, strict=True))
            if fits:
                yield make_case(world, widths, splits, blocks=cut, **options)


@pytest.mark.mpi(min_size=1, sizes=(1, 2, 4))
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(("name", "options"), [
    ("block_diagonal", {"cg_tolerance": 1e-13, "cg_max": 500}), ("block_dual", {}),
])  # fmt: skip
def test_each_block_solves_its_own_dense_system(world, name, options, sparse):
    n_cases = 0
    for case in shared_cases(world, loss="cross_entropy", sparse=sparse):
        with case.grid:
            problem = linearization(case, (1, 8), damping=0.3, rooted=name == "block_dual")
            found = case.whole(named_direction(name, damping=0.3, **options).solve(problem, NEVER).direction)
            A, b = dense_system(case, (1, 8), 0.3)
            expected = np.zeros_like(b)
            for number in range(case.grid.partition.logical.n_ranks):
                index = index_of_block(case, number)
                expected[index] = np.linalg.solve(A[np.ix_(index, index)], b[index])
            # the loss Hessian of the dense problem is by finite differences
            assert case.agree(np.allclose(found, expected, rtol=1e-6, atol=1e-8))
            n_cases += 1
    assert n_cases or world.size == 1


@pytest.mark.mpi(min_size=1, sizes=(2,))
@pytest.mark.parametrize("kind", ["kfac", "mini_block_fisher"])
def test_factors_of_a_block_are_those_of_a_rank_that_owns_it(world, kind):
    """A rank of its own for each block has the factors that one rank has for all of them."""
    cut = (1, world.size, 1)
    inverses = []
    for comm, splits in ((world, cut), (Communicator(None), (1, 1, 1))):
        case = make_case(comm, (3, 5, 2), splits, blocks=() if splits == cut else cut)
        with case.grid:
            direction = named_direction(kind, damping=0.2)
            inverses.append(case.whole(direction.solve(linearization(case, (0, 9), curvature=False), NEVER).direction))
    assert not world.any(not np.allclose(inverses[0], inverses[1], rtol=1e-10, atol=1e-13))


@pytest.mark.mpi(min_size=1, sizes=(2,))
def test_step_lengths_of_blocks_come_from_their_own_curves(world):
    case = make_case(world, (3, 4, 2), (1, world.size, 1), blocks=(1, 4, 1))
    with case.grid:
        problem = linearization(case, (0, 9))
        u = np.random.default_rng(3).standard_normal(case.dense.n_params)
        groups = ParameterGroups("rank", case.grid.partition, case.grid.rank)
        found = problem.sample.summarise(u[case.own_index], groups, problem.regularization)
        expected = dense_summary(case, u, [index_of_block(case, p) for p in range(4)], (0, 9))
        scaled = case.whole(groups.scaled(case.network.layout, np.arange(4.0), u[case.own_index]))
        for p in range(4):
            np.testing.assert_allclose(scaled[index_of_block(case, p)], p * u[index_of_block(case, p)], rtol=1e-12)
    for a, b in zip((found.gradient, found.hessian, found.third), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.mpi(min_size=1, sizes=(4,))
@pytest.mark.parametrize(("method", "grids"), [
    ("block_diagonal", (1, 4)), ("block_diagonal damped", (2, 4)), ("sgn", (4, 1)), ("kfac", (4, 1)), ("kfac", (2, 4)),
    ("mini_block_fisher", (1, 4)),
])  # fmt: skip
def test_a_run_goes_on_as_on_the_old_grid(world, folder, method, grids):
    before, after = (min(n, world.size) for n in grids)
    cut, kept = (2, 2, 2, 2), {"iterations": 4, "checkpoints": folder / "c"}
    whole = on(world, before, training(method, cut, iterations=4))
    on(world, before, lambda comm: training(method, cut, clock=StopAfter(2, comm), **kept)(comm))
    rest = on(world, after, training(method, cut, resume=True, **kept))
    if world.rank == 0:
        np.testing.assert_allclose(rest[0], whole[0][2:], rtol=1e-9, atol=1e-12)
        assert not any("starts anew" in note for note in rest[2])


def test_other_blocks_do_not_resume(folder):
    training("kfac", (1, 2, 1, 1), iterations=1, checkpoints=folder / "c")(None)
    with pytest.raises(distnewton.errors.DataError, match=r"partition.blocks: .*1, 2, 1, 1.* in the checkpoint"):
        training("kfac", (1, 4, 1, 1), iterations=2, checkpoints=folder / "c", resume=True)(None)


def test_enough_finished_blocks_of_one_rank_end_the_others():
    """Blocks of one rank stop after the step in which enough of them have finished."""
    case = make_case(Communicator(None), (4, 6, 3), (1, 1, 1), blocks=(1, 4, 1))
    options = {"cg_tolerance": 0.3, "cg_max": 50, "cg_min": 1, "preconditioner": "none"}
    with case.grid:
        problem = linearization(case, (0, 9), damping=0.01)
        own = []
        for block, _ in problem.by_block:
            alone = named_direction("block_diagonal", **options)
            solvers = alone._solvers(*next(pair for pair in problem.by_block if pair[0] is block))
            while not solvers[0].finished:
                solvers[0].step()
            own.append(solvers[0].n_steps)
        assert len(set(own)) > 1
        for enough in range(1, 5):
            termination = EarlyTermination(FinishBoard(weights=[4]), enough)
            termination.begin(0)
            result = named_direction("block_diagonal", **options).solve(problem, termination)
            assert result.inner_iterations == sorted(own)[enough - 1]
            assert result.finished == (result.inner_iterations == max(own))
            termination.end([0] if result.finished else [])


def test_a_rank_owns_whole_blocks():
    partition = Partition((7, 8, 5, 3), (1, 3, 1, 3), block_splits=(1, 4, 1, 4))
    assert [partition.group(1, j) for j in range(3)] == [(0, 4), (4, 6), (6, 8)]
    assert [partition.numbers(rank) for rank in range(3)] == [[0, 1], [2], [3]]
    assert [partition.holder(number) for number in range(4)] == [0, 0, 1, 2]
    # 3 outputs in 4 groups: the last one is empty
    assert partition.group(3, 2) == (3, 3)
    assert partition.logical.idle_ranks() == []
    assert [part.number for part in layout_of(partition, 0).parts] == [0, 1]
    slow = Partition((7, 8, 5, 3), (1, 2, 1, 2), speeds=(1.0, 0.34), block_splits=(1, 4, 1, 4))
    assert [slow.numbers(rank) for rank in range(2)] == [[0, 1, 2], [3]]
    papers = Partition((9, 8, 6, 2), (1, 1, 3, 1), block_splits=(1, 1, 3, 1))
    assert [papers.numbers(rank) for rank in range(3)] == [[0], [1], [2]]
    for splits, cut, message in [
        ((1, 4, 1), (1, 2, 1), "a rank owns whole blocks"), ((2, 1, 1), (2, 1, 2), "on several ranks"),
        ((1, 1, 1), (2, 2), "one number per width"),
    ]:  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            Partition((7, 8, 5), splits, block_splits=cut)


def test_a_number_of_blocks_is_cut_by_the_network_alone():
    assert regular_blocks(4, (16, 300, 300, 26), (1, 1, 1)) == (2, 2, 2, 2)
    assert regular_blocks(4, (130107, 64, 20), (1, 1)) == (4, 1, 4)
    assert regular_blocks(8, (2, 100, 1), (1, 1)) == (1, 8, 1)
    shape = distnewton.make_config({"network": {"layers": [7, 8, 5, 3]}}).network.shape(7, None, 3)
    assert set(candidates(shape, 2, blocks=(2, 2, 2, 2))) == {(1, 2, 1, 2), (2, 1, 2, 1)}
    with pytest.raises(ConfigError, match=r"3 ranks cannot share partition.blocks = 2-2-2-2.*1, 2, 4"):
        candidates(shape, 3, blocks=(2, 2, 2, 2))


def test_without_blocks_nothing_is_copied():
    case = make_case(Communicator(None), (3, 4, 2), (1, 1, 1))
    with case.grid:
        problem = linearization(case, (0, 9))
        ((_, model),) = problem.by_block
        assert model is problem
