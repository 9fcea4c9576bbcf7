"""A checkpoint read on other numbers of ranks and other splits: the same objectives to rounding."""

from __future__ import annotations

import numpy as np
import pytest
from resumed import StopAfter, blobs, free, settings

import distnewton
from distnewton.parallel.collectives import Communicator

GRIDS = {
    "1 to all": (1, "auto", "all", "auto"),
    "all to 1": ("all", "auto", 1, "auto"),
    "2x2 to 4x1": (4, [2, 2, 2, 2], 4, [4, 1, 4, 1]),
    "uneven": (4, [1, 1, 4, 1], 3, [3, 1, 3, 1]),
    "3 to 7": (3, [1, 3, 1, 3], 7, [7, 1, 7, 1]),
    "4 to 3": (4, [2, 2, 2, 2], 3, [1, 3, 1, 3]),
}
# directions that are the same on every grid
METHODS = {
    "gauss_newton": {"cg_tolerance": 0.0, "cg_max": 5, "subsample": 0.4, "subsample_min": 1},
    "gauss_newton diagonal": {
        "cg_tolerance": 0.0, "cg_max": 4, "warm_start": 0.5, "preconditioner": "diagonal",
        "subsample": 0.4, "subsample_min": 1,
    },
    "dual": {"subsample": 0.2, "subsample_min": 1},
    "adam": {"batch": 20, "average": 0.9},
    "sgd": {"batch": 20, "learning_rate": 0.02},
    "grouped_newton": {"batch": 20, "rate_period": 3, "steps": 2},
}  # fmt: skip


def on(world, n_ranks, work):
    """Do work on the first ranks; None on others, which wait."""
    if n_ranks == world.size:
        return work(world)
    result = None
    if world.rank < n_ranks:
        comm = Communicator(None) if n_ranks == 1 else world.subgroup(range(n_ranks))
        result = work(comm)
        comm.free()
    world.barrier()
    return result


def run_on(folder, source, config, splits, **options):
    """Work that trains and returns objectives and weights."""
    config = config.model_copy(update={"partition": config.partition.model_copy(update={"splits": splits})})

    def work(comm):
        result = distnewton.train(config, comm, train_data=source, checkpoints=folder, **options)
        weights = result.model.weights()
        free(result)
        return [record.objective for record in result.history], weights, result.summary.notes

    return work


def sizes(world, name):
    before, old, after, new = (world.size if value == "all" else value for value in GRIDS[name])
    if max(before, after) > world.size:
        pytest.skip("more ranks than there are")
    return before, old, after, new


@pytest.mark.mpi(min_size=1, sizes=(4,))
@pytest.mark.parametrize(("grids", "name"), [
    *((grids, name) for grids in GRIDS for name in ("gauss_newton diagonal", "adam")),
    *(("1 to all", name) for name in METHODS if name not in ("gauss_newton diagonal", "adam")),
])  # fmt: skip
def test_the_run_goes_on_as_on_the_old_grid(world, folder, grids, name):
    before, old, after, new = sizes(world, grids)
    source = distnewton.ArraySource(*blobs())
    config = settings({"direction": name.split()[0], **METHODS[name]}, iterations=8)
    whole = on(world, before, run_on(folder / "whole", source, config, old))
    on(world, before, lambda comm: run_on(folder / "c", source, config, old, clock=StopAfter(3, comm))(comm))
    rest = on(world, after, run_on(folder / "c", source, config, new, resume=True))
    if world.rank == 0:
        np.testing.assert_allclose(rest[0], whole[0][3:], rtol=1e-9)
        assert len(rest[0]) == 6
        for key, weight in whole[1].items():
            np.testing.assert_allclose(rest[1][key], weight, rtol=1e-6, atol=1e-9)


@pytest.mark.mpi(min_size=1, sizes=(4,))
@pytest.mark.parametrize("direction", ["block_diagonal", "kfac", "mini_block_fisher", "sgn"])
def test_block_directions_go_on_from_the_same_point_and_learn(world, folder, direction):
    source = distnewton.ArraySource(*blobs())
    config = settings({"direction": direction}, iterations=3)
    part = on(world, 1, run_on(folder / "c", source, config, "auto"))
    more = settings({"direction": direction}, iterations=6)
    rest = distnewton.train(more, world, train_data=source, checkpoints=folder / "c", resume=True)
    if world.rank == 0:
        assert rest.history[0].objective == part[0][-1]
    assert rest.last.iteration == 6
    assert rest.last.objective < rest.history[0].objective
    assert any("starts anew" in note for note in rest.summary.notes) == (world.size > 1)
    free(rest)


@pytest.mark.mpi(min_size=1, sizes=(4,))
@pytest.mark.parametrize("grids", ["1 to all", "all to 1", "2x2 to 4x1"])
def test_networks_on_images_change_grids(world, folder, grids):
    before, _, after, _ = sizes(world, grids)
    rng = np.random.default_rng(0)
    source = distnewton.ArraySource(rng.standard_normal((40, 3 * 6 * 6)), rng.integers(3, size=40))
    layers = [
        {"type": "conv", "channels": 4, "kernel": 3},
        {"type": "max_pool", "size": 2},
        {"type": "conv", "channels": 5, "kernel": 2},
        {"type": "dense", "width": "auto"},
    ]
    network = {"layers": layers, "input": [3, 6, 6], "activation": "tanh"}
    old, new = ([2, 2, 2, 2], [4, 1, 4, 1]) if grids == "2x2 to 4x1" else ("auto", "auto")
    method = {"direction": "gauss_newton", "cg_tolerance": 0.0, "cg_max": 4, "preconditioner": "diagonal"}
    config = settings(method, network=network, iterations=7)
    whole = on(world, before, run_on(folder / "whole", source, config, old))
    on(world, before, lambda comm: run_on(folder / "c", source, config, old, clock=StopAfter(2, comm))(comm))
    rest = on(world, after, run_on(folder / "c", source, config, new, resume=True))
    if world.rank == 0:
        np.testing.assert_allclose(rest[0], whole[0][2:], rtol=1e-9)
