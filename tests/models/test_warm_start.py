"""Runs that start from a model, in a file or in memory, of whatever grid."""

from __future__ import annotations

import numpy as np
import pytest
from resumed import blobs, free, settings

import distnewton
from distnewton.errors import ConfigError, DataError, DistNewtonError, MissingInputError
from distnewton.parallel.collectives import Communicator
from distnewton.runs.session import Session

mpi = pytest.mark.mpi(min_size=1)
METHOD = {"direction": "gauss_newton", "cg_tolerance": 0.0, "cg_max": 5}


def config_of(iterations=3, method=METHOD, **tables):
    return settings(method, iterations, **tables)


def source(n=80, **more):
    return distnewton.ArraySource(*blobs(n), **more)


@mpi
@pytest.mark.parametrize("how", ["file", "folder", "memory"])
def test_a_run_begins_where_the_model_ended_on_any_grid(world, folder, how):
    n = world.size
    scaled = {"data": {"scale": "standard"}}
    first = config_of(partition={"splits": [1, n, 1, n]}, **scaled)
    second = config_of(partition={"splits": [n, 1, n, 1]}, **scaled)
    before = distnewton.train(first, world, train_data=source())
    start = before.model
    if how in ("file", "folder"):
        start.save(folder / "model.safetensors")
        start = str(folder) if how == "folder" else folder / "model.safetensors"
    after = distnewton.train(second, world, train_data=source(), start=start)
    assert after.history[0].objective == pytest.approx(before.last.objective, rel=1e-12)
    assert after.history[0].train == before.last.train
    assert after.last.objective < before.last.objective
    assert any(note.startswith("starts from ") for note in after.summary.notes)
    free(before, after)


@mpi
def test_a_model_of_one_rank_starts_a_run_of_several_where_each_has_it(world):
    alone = distnewton.train(config_of(partition={"splits": [1, 1, 1, 1]}), None, train_data=source())
    together = distnewton.train(config_of(), world, train_data=source(), start=alone.model)
    assert together.history[0].objective == pytest.approx(alone.last.objective, rel=1e-12)


@mpi
def test_other_data_are_scaled_as_the_models_were(world, folder):
    X, y = blobs()
    before = distnewton.train(config_of(data={"scale": "standard"}), world, train_data=distnewton.ArraySource(X, y))
    before.model.save(folder / "model.safetensors")
    config = config_of(0, data={"scale": "standard"}, network={"layers": [7, 8, 5, 3], "start": str(folder)})
    other = distnewton.ArraySource(3 * X[:40] + 2, y[:40])
    after = distnewton.train(config, world, train_data=other, test_data=distnewton.ArraySource(X, y))
    # with a scaling of its own the run would see other features
    assert after.history[0].test == before.last.train
    assert not world.any(not np.array_equal(after.model.scaling.offset, before.model.scaling.offset))
    free(before, after)


@mpi
def test_images_start_from_images_on_other_splits(world):
    rng = np.random.default_rng(0)
    images = distnewton.ArraySource(rng.standard_normal((30, 2, 6, 6)), rng.integers(3, size=30))
    layers = [
        {"type": "conv", "channels": 4, "kernel": 3},
        {"type": "max_pool", "size": 2},
        {"type": "dense", "width": 5},
        {"type": "dense", "width": "auto"},
    ]
    n, runs = world.size, []
    for splits in ([1, n, 1, n], [n, 1, n, 1]):
        config = config_of(2, partition={"splits": splits}, network={"layers": layers})
        runs.append(distnewton.train(config, world, train_data=images, start=runs[0].model if runs else None))
    assert runs[1].history[0].objective == pytest.approx(runs[0].last.objective, rel=1e-12)
    free(*runs)


@mpi
def test_a_start_is_cast_to_the_runs_dtype(world):
    before = distnewton.train(config_of(), world, train_data=source())
    after = distnewton.train(config_of(1, run={"dtype": "float32"}), world, train_data=source(), start=before.model)
    assert str(after.model.params.dtype) == "float32"
    assert after.history[0].objective == pytest.approx(before.last.objective, rel=1e-5)
    free(before, after)


@mpi
def test_runs_of_a_session_start_from_its_model_or_from_another(world):
    config = config_of(data={"scale": "standard"})
    session = Session(config, world, given={"train": source()})
    first = session.train(config)
    second = session.train(config, start=first.model)
    assert second.history[0].objective == pytest.approx(first.last.objective, rel=1e-12)
    assert session.train(config).history[0].objective == first.history[0].objective
    X, y = blobs()
    other = distnewton.train(config, world, train_data=distnewton.ArraySource(2 * X, y))
    try:
        session.train(config, start=other.model)
        found = None
    except DataError as error:
        found = error
    assert not world.any("scales the features differently from this session" not in str(found))
    free(first, other)


@mpi
def test_a_run_with_a_start_goes_on_from_its_checkpoint(world, folder):
    before = distnewton.train(config_of(), world, train_data=source())
    before.model.save(folder / "model.safetensors")
    X, y = blobs()
    data = distnewton.ArraySource(X + 1, y)
    straight = distnewton.train(config_of(4), world, train_data=data, start=folder / "model.safetensors")
    more = {"train_data": data, "checkpoints": folder / "checkpoints"}
    distnewton.train(config_of(2), world, **more, start=folder / "model.safetensors")
    after = distnewton.train(config_of(4), world, **more, start=folder / "model.safetensors", resume=True)
    assert after.history[0].iteration == 2
    assert after.last.objective == straight.last.objective
    with pytest.raises(DataError, match=r"network\.start: a model with scaling [0-9a-f]{8} in the checkpoint, None"):
        distnewton.train(config_of(4), world, **more, resume=True)
    free(before, straight, after)


X, Y = blobs()
REFUSED = [
    ({"network": {"layers": [7, 9, 5, 3]}}, X, Y, DataError, "layers: 7-8-5-3 in the model, 7-9-5-3 in the run"),
    ({"network": {"activation": "relu", "layers": [7, 8, 5, 3]}}, X, Y, DataError, "activation: tanh in the model"),
    ({}, X, Y + 1, DataError, "classes: [0, 1, 2] in the model, [1, 2, 3] in the run"),
    ({"data": {"scale": "minmax"}}, X, Y, DataError, "scale: none in the model, minmax in the run"),
    ({"network": {"loss": "squared", "layers": [7, 8, 5, 3]}}, X, X[:, :3], DataError, "task: classification in"),
]


@mpi
@pytest.mark.parametrize(("tables", "X", "y", "kind", "message"), REFUSED, ids=[r[-1] for r in REFUSED])
def test_what_does_not_fit_is_refused_with_the_difference(world, tables, X, y, kind, message):
    before = distnewton.train(config_of(0), world, train_data=source())
    try:
        distnewton.train(config_of(**tables), world, train_data=distnewton.ArraySource(X, y), start=before.model)
        found = None
    except DistNewtonError as error:
        found = error
    assert not world.any(not (type(found) is kind and message in str(found))), found
    free(before)


@mpi
def test_what_is_no_model_is_refused(world, folder):
    for start, kind in ((folder / "none", MissingInputError), (folder, MissingInputError)):
        try:
            distnewton.train(config_of(), world, train_data=source(), start=start)
            found = None
        except DistNewtonError as error:
            found = error
        assert not world.any(type(found) is not kind), found


@mpi
def test_a_model_of_other_ranks_is_refused(world):
    before = distnewton.train(config_of(0), world, train_data=source())
    if world.size > 2:
        comm = world.subgroup(range(2)) if world.rank < 2 else None
        if comm is not None:
            with pytest.raises(ConfigError, match=f"distributed over {world.size} ranks, but the run has 2: save it"):
                distnewton.train(config_of(), comm, train_data=source(), start=before.model)
            comm.free()
        world.barrier()
    free(before)


def test_a_communicator_alone_is_enough():
    before = distnewton.train(config_of(1), Communicator(), train_data=source())
    after = distnewton.train(config_of(1), None, train_data=source(), start=before.model)
    assert after.history[0].objective == pytest.approx(before.last.objective, rel=1e-12)


@mpi
def test_the_tolerance_of_a_linear_network_does_not_depend_on_the_start(world):
    linear = {"layers": ["auto", "auto"], "init": "zero"}
    config = config_of(40, network=linear, run={"tolerance": 1e-3})
    cold = distnewton.train(config, world, train_data=source())
    warm = distnewton.train(config, world, train_data=source(), start=cold.model)
    first = cold.history[1].gradient_norm
    assert cold.last.gradient_norm <= 1e-3 * first < cold.history[len(cold.history) - 2].gradient_norm
    # the first iteration already begins below the tolerance, and thus ends the run
    assert len(warm.history) == 2
    assert warm.ended.startswith("the gradient's norm fell to ")
    free(cold, warm)
