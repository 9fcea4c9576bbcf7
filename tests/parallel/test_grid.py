"""The grid's communicators are those that ownership asks for, shared, working and freed."""

from __future__ import annotations

import numpy as np
import pytest
from problems import alternating

from distnewton.errors import ConfigError
from distnewton.parallel.collectives import Communicator
from distnewton.parallel.grid import ProcessGrid
from distnewton.parallel.partition import Partition

pytestmark = pytest.mark.mpi(min_size=1, sizes=(1, 2, 3, 4, 7))

WIDTHS = (5, 9, 4, 6, 3)


def grids(world):
    """Regular grids, those that leave ranks idle, and one whose ranks stand on two boundaries of a layer."""
    return [Partition(WIDTHS, splits) for splits in [*alternating(world.size, 4), (1, 1, world.size, 1, 1)]]


def test_each_boundary_sums_over_its_ranks_and_no_others(world):
    for partition in grids(world):
        with ProcessGrid(world, partition) as grid:
            wrong = False
            for m in range(1, partition.n_layers):
                mine = [j for j in range(partition.splits[m]) if grid.rank in partition.boundary(m, j)]
                wrong |= grid.groups(m) != mine
                for j in mine:
                    members = np.zeros(grid.size)
                    members[grid.rank] = 1
                    grid.sum_boundary(m, j, members)
                    wrong |= tuple(np.flatnonzero(members)) != partition.boundary(m, j) or members.max() != 1
            assert not world.any(wrong)
            assert grid.sum_all(np.ones(2)).tolist() == [grid.size] * 2


def test_a_rank_sees_its_own_blocks(world):
    for partition in grids(world):
        with ProcessGrid(world, partition) as grid:
            wrong = list(grid.blocks.values()) != partition.blocks(grid.rank)
            wrong |= list(grid.blocks) != sorted(grid.blocks)
            features = grid.feature_range()
            wrong |= features != (grid.blocks[1].inputs if 1 in grid.blocks else (0, 0))
            for (m, j), width in {(b.layer, b.j): b.shape[1] for b in partition.blocks(grid.rank)}.items():
                wrong |= grid.group_width(m, j) != width
            # every feature is counted once by those who speak for their group
            counted = np.zeros(WIDTHS[0])
            counted[slice(*features)] += grid.first_of_feature_group()
            assert world.sum_inplace(counted).tolist() == [1.0] * WIDTHS[0]
            assert not world.any(wrong)


def test_a_regular_grid_has_a_row_and_a_column_communicator(world):
    for a in (a for a in range(1, world.size + 1) if world.size % a == 0):
        b = world.size // a
        # all ranks have variables
        with ProcessGrid(world, Partition((10, 9, 8, 7, 7), (a, b, a, b, a))) as grid:
            assert not world.any({comm.size for comm in grid._boundaries.values()} != {a, b})
            assert not world.any(len(set(grid._boundaries.values())) > 2)


def test_costs_go_to_the_ledger_of_the_communicator(world):
    with ProcessGrid(world, Partition(WIDTHS, (1, world.size, 1, world.size, 1))) as grid:
        world.ledger.take()
        with world.ledger.phase("gradient"):
            grid.sum_boundary(2, 0, np.zeros(10))
        assert grid.ledger is world.ledger
        assert world.ledger.take()["gradient"].n_messages == (world.size > 1)


@pytest.mark.mpi(min_size=1, sizes=(1, 3))
def test_many_grids_leave_no_communicator_behind(world):
    # MPICH has 2048 communicators, and grids come and go with models
    for _ in range(300):
        with ProcessGrid(world, Partition((4, 3, 2), (1, world.size, 1))):
            pass
    grid = ProcessGrid(world, Partition((4, 3, 2), (1, world.size, 1)))
    grid.free()
    assert grid.comm.mpi is None
    assert world.sum_scalars(1.0) == [world.size]


def test_a_wrong_number_of_ranks_is_refused_by_all(world):
    with pytest.raises(ConfigError, match=rf"needs {world.size + 1} ranks .*, but {world.size} were started") as caught:
        ProcessGrid(world, Partition((4, 3), (world.size + 1, 1)))
    assert caught.value.collective


def test_one_process_has_a_grid_without_mpi():
    with ProcessGrid(Communicator(), Partition(WIDTHS, (1, 1, 1, 1, 1))) as grid:
        assert grid.comm.mpi is None
        assert grid.feature_range() == (0, 5)
        assert grid.sum_boundary(1, 0, np.ones(3)).tolist() == [1.0] * 3
