"""Saving on many ranks: when, what fails on one of them, what is left on the disk, and what is refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import namedtuple

import numpy as np
import pytest
from resumed import StopAfter, blobs, facts, free, settings

import distnewton
from distnewton.checkpoint import files
from distnewton.checkpoint.folder import list_checkpoints
from distnewton.errors import CreateError, DataError, DistNewtonError, NumericalError, WriteError
from distnewton.runs.resume_check import state_bytes
from distnewton.runs.session import Session

pytestmark = pytest.mark.mpi(min_size=1, sizes=(2,))

EACH = {"checkpoint_minutes": 0.0}
METHOD = {"direction": "block_diagonal", "subsample_min": 1}


def train(world, folder, iterations=3, method=METHOD, data=None, **options):
    tables = {name: options.pop(name) for name in ("network", "data_settings") if name in options}
    if "data_settings" in tables:
        tables["data"] = tables.pop("data_settings")
    config = settings(method, iterations=iterations, run=EACH | options.pop("run", {}), **tables)
    source = distnewton.ArraySource(*(data or blobs()))
    result = distnewton.train(config, world, train_data=source, checkpoints=folder, **options)
    free(result)
    return result


def names(world, folder):
    """What rank 0 sees, on all ranks."""
    seen = sorted(path.name for path in folder.iterdir()) if world.rank == 0 else None
    return world.broadcast_json(seen)


class FullDisk:
    """os.write of one rank that fails at its n-th call, as on a full disk: after half of the bytes."""

    def __init__(self, at):
        self.n_calls, self._at, self._write = 0, at, os.write

    def __call__(self, file, data):
        self.n_calls += 1
        if self.n_calls == self._at:
            return self._write(file, data[: len(data) // 2])
        if self.n_calls == self._at + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._write(file, data)


def n_writes(world, folder, monkeypatch):
    """Calls of os.write in a checkpoint, by rank."""
    counter = FullDisk(-5)
    monkeypatch.setattr(files.os, "write", counter)
    train(world, folder, iterations=0)
    monkeypatch.undo()
    return world.allgather_json(counter.n_calls)


def test_a_disk_that_is_full_at_any_write_leaves_the_checkpoint_before(world, folder, monkeypatch):
    calls = n_writes(world, folder / "count", monkeypatch)
    train(world, folder / "c", iterations=2)
    before = names(world, folder / "c")
    for rank in sorted({0, world.size - 1}):
        for at in range(1, calls[rank] + 1):
            # the write that is cut in half needs a second one, which fails
            with monkeypatch.context() as patch:
                if world.rank == rank:
                    patch.setattr(files.os, "write", FullDisk(at))
                with pytest.raises(WriteError, match="No space left on device: free some space") as caught:
                    train(world, folder / "c", iterations=3, resume=True)
            good = caught.value.collective and caught.value.exit_code == 74 and names(world, folder / "c") == before
            assert not world.any(not good)
    result = train(world, folder / "c", iterations=3, resume=True)
    assert [record.iteration for record in result.history] == [2, 3]


@pytest.mark.parametrize("call", ["fsync", "rename", "mkdir"])
def test_other_calls_that_fail(world, folder, monkeypatch, call):
    train(world, folder / "c", iterations=2)
    before = names(world, folder / "c")

    def fails(*arguments, **options):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with monkeypatch.context() as patch:
        if world.rank == (world.size - 1 if call == "fsync" else 0):
            patch.setattr(files.os if call == "fsync" else files.Path, call, fails)
        with pytest.raises(WriteError, match="quota exceeded") as caught:
            train(world, folder / "c", iterations=3, resume=True)
    assert not world.any(not (caught.value.collective and names(world, folder / "c") == before))


def test_too_little_room_is_told_before_training(world, folder, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6, 1000))
    told = []
    with pytest.raises(WriteError, match=r"0.001 MB are free, but 3 checkpoints .*run.keep_checkpoints = 0"):
        train(world, folder / "c", observers=[Told(told)])
    assert told == []
    assert not (folder / "c").exists()
    train(world, folder / "c", run={"keep_checkpoints": 0})
    assert not (folder / "c").exists()


class Told:
    def __init__(self, told):
        self._told = told

    def start(self, summary):
        self._told.append("start")

    def iteration(self, record):
        self._told.append(record.iteration)


@pytest.mark.parametrize("method", [
    METHOD, {"direction": "kfac", "batch": 40}, {"direction": "adam", "average": 0.9},
    {"direction": "mini_block_fisher", "mini_blocks": "neuron", "batch": 40},
    {"direction": "gauss_newton", "preconditioner": "diagonal", "warm_start": 0.5},
])  # fmt: skip
def test_the_predicted_size_is_about_the_true_one(world, folder, method):
    network = {"layers": [7, 40, 30, 3]}
    train(world, folder / "c", method=method, network=network)
    config = settings(method, network=network)
    session = Session(config, world, given={"train": distnewton.ArraySource(*blobs())})
    network = session.setup.placement.network
    predicted = state_bytes(config.method, network.shape, network.grid.partition, 8)
    manifest = list_checkpoints(folder / "c")[0].manifest
    written = sum(part.n_bytes for part in manifest.parts) - 1500 * len(manifest.parts)
    assert not world.any(not 0.7 * predicted < written < 1.3 * predicted), (written, predicted)
    session.free()


def test_what_is_not_finite_is_never_saved(world, folder):
    train(world, folder / "c", iterations=1)
    before = names(world, folder / "c")

    class Spoils(Told):
        """Overwrites a variable of the last rank that has some, behind the back of the method."""

        def iteration(self, record):
            params = self.session_params()
            if len(params) and world.rank == 0:
                params[0] = np.nan

    source = distnewton.ArraySource(*blobs())
    config = settings(METHOD, iterations=2, run=EACH)
    session = Session(config, world, given={"train": source})
    observer = Spoils([])
    from distnewton.runs import engine as module

    made = []

    class Remembered(module.Trainer):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

    observer.session_params = lambda: made[0].params
    original, module.Trainer = module.Trainer, Remembered
    try:
        told = r"(?s)params is not finite after iteration 2: no checkpoint.*step-000001"
        with pytest.raises(NumericalError, match=told):
            session.train(config, observers=[observer], checkpoints=folder / "c", resume=True)
    finally:
        module.Trainer = original
    assert not world.any(names(world, folder / "c") != before)
    session.free()


def test_saved_by_time_and_at_the_end(world, folder):
    clock = StopAfter(10**6)
    train(world, folder / "long", iterations=5, run={"checkpoint_minutes": 60.0}, clock=clock)
    assert names(world, folder / "long") == ["step-000005"]
    assert len(clock.save_seconds) == 2
    train(world, folder / "each", iterations=5)
    assert len({"step-000003", "step-000004", "step-000005"} - set(names(world, folder / "each"))) == 0
    # a thousandth of a second is asked for, and a hundred times what a save takes is waited
    clock = StopAfter(10**6)
    train(world, folder / "share", iterations=5, run={"checkpoint_minutes": 1e-3 / 60}, clock=clock)
    assert len(clock.save_seconds) <= 3


OTHERS = {
    "network.layers: [7, 8, 5, 3] in the checkpoint, [7, 8, 6, 3] now": {"network": {"layers": ["auto", 8, 6, "auto"]}},
    "network.activation: tanh in the checkpoint, relu now": {"network": {"layers": ["auto", 8, 5, "auto"],
                                                                          "activation": "relu"}},
    "data.features: 7 in the checkpoint, 8 now": {"data": blobs(n_features=8)},
    "data.samples: 80 in the checkpoint, 81 now": {"data": blobs(n=81)},
    "data.classes: [0, 1, 2] in the checkpoint, [1, 2, 3] now": {"data": (blobs()[0], blobs()[1] + 1)},
    "data.scale: none in the checkpoint, standard now": {"data_settings": {"scale": "standard"}},
    "method.direction: block_diagonal in the checkpoint, gauss_newton now": {"method": {"direction": "gauss_newton"}},
    "run.dtype: float64 in the checkpoint, float32 now": {"run": {"dtype": "float32"}},
    "run.seed: 0 in the checkpoint, 4 now": {"run": {"seed": 4}},
    "data.values, labels and weights (hash): ": {"data": (blobs()[0] + 0.01, blobs()[1])},
}  # fmt: skip


@pytest.mark.parametrize("difference", OTHERS)
def test_a_checkpoint_of_something_else_is_refused_with_the_difference(world, folder, difference):
    train(world, folder / "c", iterations=1)
    with pytest.raises(DataError) as caught:
        train(world, folder / "c", iterations=2, resume=True, **OTHERS[difference])
    good = difference in str(caught.value) and caught.value.collective
    assert not world.any(not good), str(caught.value)


def test_the_checkpoints_of_another_run_stay(world, folder):
    train(world, folder / "c", iterations=1)
    with pytest.raises(CreateError, match="holds the checkpoints of another run"):
        train(world, folder / "c", iterations=1)


def test_resume_without_a_folder(world):
    with pytest.raises(DistNewtonError, match="resume needs checkpoints"):
        train(world, None, resume=True)


def test_the_same_seed_gives_the_same_files(world, folder):
    config, source = settings(METHOD, iterations=4, run=EACH), distnewton.ArraySource(*blobs())
    kept = []
    for name in ("a", "b"):
        result = distnewton.train(config, world, train_data=source, checkpoints=folder / name)
        result.model.save(folder / f"{name}.safetensors")
        kept.append([facts(record) for record in result.history])
        free(result)
    assert kept[0] == kept[1]
    if world.rank == 0:
        assert (folder / "a.safetensors").read_bytes() == (folder / "b.safetensors").read_bytes()
        manifests = [json.loads((folder / n / "step-000004" / "manifest.json").read_text()) for n in "ab"]
        assert manifests[0]["parts"] == manifests[1]["parts"]
