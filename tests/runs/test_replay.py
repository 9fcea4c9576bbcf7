"""A run whose directions ended early is repeated bit for bit from its record, however fast its ranks then are."""

from __future__ import annotations

import json

import pytest
from launched import call_together, small_data
from resumed import untimed

pytestmark = pytest.mark.mpi(min_size=3, sizes=(3,))

SLOW = {"DISTNEWTON_FAULT": "rank=1 at=cg kind=slow factor=30"}
MANY_STEPS = ["--method.cg_tolerance", "1e-10", "--method.cg_max", "80", "--method.cg_min", "1"]
METHODS = {
    "block_diagonal": ["--method.direction", "block_diagonal", *MANY_STEPS, "--method.subsample_min", "40"],
    "sgn": ["--method.direction", "sgn", *MANY_STEPS, "--method.batch", "30", "--method.preconditioner", "none"],
    "schedule": ["--method.schedule", "sgn:2", "--method.direction", "block_diagonal", *MANY_STEPS],
}


@pytest.fixture
def place(world, folder):
    if world.rank == 0:
        small_data(folder)
    world.barrier()
    return folder


def lines(folder):
    return [untimed(json.loads(line)) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def trained(world, place, name, *more):
    data = ["--data.train", place / "small.npz", "--data.directory", place]
    return call_together(world, "train", *data, "--network.layers", "auto-12-12-auto", "--run.iterations", 5,
                         "--run-dir", place / "R", "--quiet", *METHODS[name], *more, **SLOW)  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_a_run_with_a_slow_rank_is_repeated_without_it(world, place, name):
    done = trained(world, place, name)
    assert done.returncode == 0, done.stderr
    before = lines(place / "R")
    directions = [line["direction"] for line in before[1:]]
    assert all(direction["phases"] for direction in directions)
    assert any(direction["stopped_early"] for direction in directions)
    again = call_together(world, "train", "--replay", place / "R", "--run-dir", place / "S", "--quiet")
    assert again.returncode == 0, again.stderr
    assert lines(place / "S") == before
    assert "repeats it bit for bit, 5 iterations" in again.stderr
    model = "model.safetensors"
    assert (place / "S" / model).read_bytes() == (place / "R" / model).read_bytes()
    # and a replay, which has a record of its own, can be repeated
    third = call_together(world, "train", "--replay", place / "S", "--quiet")
    assert third.returncode == 0, third.stderr
    assert lines(place / "S-replay") == before


def test_other_data_are_told(world, place):
    trained(world, place, "block_diagonal")
    if world.rank == 0:
        small_data(place, n=91)
    world.barrier()
    done = call_together(world, "train", "--replay", place / "R", "--quiet")
    assert "differs from iteration 0 on: objective" in done.stderr


def test_what_cannot_be_repeated_is_refused(world, place):
    trained(world, place, "block_diagonal")
    here, other = (f'"ranks": {n}' for n in (world.size, world.size + 1))
    done = call_together(world, "train", place / "R/config.toml", "--replay", place / "R")
    assert done.returncode == 2
    assert "no recipe, no --resume" in done.stderr
    done = call_together(world, "train", "--replay", place / "nowhere")
    assert done.returncode == 66
    if world.rank == 0:
        environment = place / "R/environment.json"
        environment.write_text(environment.read_text().replace(here, other))
    world.barrier()
    done = call_together(world, "train", "--replay", place / "R", "--run-dir", place / "T")
    assert done.returncode == 78
    assert f"the run had {world.size + 1} ranks, but there are {world.size}" in done.stderr
    world.barrier()
    if world.rank == 0:
        metrics = place / "R/metrics.jsonl"
        kept = metrics.read_text().splitlines()
        environment.write_text(environment.read_text().replace(other, here))
        metrics.write_text("\n".join([*kept[:2], *kept[3:]]) + "\n")
    world.barrier()
    done = call_together(world, "train", "--replay", place / "R", "--run-dir", place / "T")
    assert done.returncode == 65
    assert "the records have gaps" in done.stderr


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [("metrics.jsonl", "[" * 100_000, "metrics.jsonl:1: not a record"),
     ("environment.json", "{", "environment.json is damaged"),
     ("environment.json", "[]", "environment.json is damaged")],
)  # fmt: skip
def test_damaged_records_are_refused(world, place, file, content, message):
    trained(world, place, "block_diagonal")
    if world.rank == 0:
        (place / "R" / file).write_text(content + "\n")
    world.barrier()
    done = call_together(world, "train", "--replay", place / "R", "--run-dir", place / "T")
    assert done.returncode == 65
    assert message in done.stderr
