"""NaN and inf planted in data, weights, activations, gradient, Jacobian and direction of each rank: one verdict."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from planted import plant

from distnewton.config import make_config
from distnewton.data.in_memory import ArraySource
from distnewton.errors import NumericalError
from distnewton.guards.failures import failures
from distnewton.runs.session import Session

pytestmark = pytest.mark.mpi(min_size=1)

# The middle number of a rank's variables lies in layer 1, or in 2 where it owns few of layer 1's.
# point -> (iteration of the fault, of the verdict, what the message says), with numbers that stay: no retry helps
STOPS = {
    "data": (None, None, r"feature \d+ \(counted from 0, on rank {rank}\) is {value}, which overflows in layer 1"),
    "init": (None, 0, r"objective is not finite at the start\. First found: {value} in the weights of layer [12]"),
    "forward": (0, 1, r"gradient is not finite in iteration 1\. First found: {value} in the activations of layer 1, "),
    "gradient": (2, 2, r"gradient is not finite in iteration 2\. First found: {value} in the gradient of layer [12], "),
    "jacobian": (2, 2, r"direction.* is not finite in iteration 2\. First found: {value} in the Jacobian of layer "),
}


def session(world, direction="block_diagonal", rows=40):
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=rows)
    X = 2 * rng.standard_normal((3, 14))[y] + rng.standard_normal((rows, 14))
    p = world.size
    config = make_config({
        # every rank owns features, and units of every hidden layer
        "network": {"layers": ["auto", 14, 8, "auto"]}, "partition": {"splits": [1, p, 1, p][:4]},
        "method": {"direction": direction, "subsample": 0.5}, "run": {"iterations": 4, "deterministic": True},
    })  # fmt: skip
    return Session(config, world, given={"train": ArraySource(X, y)}), config


class Collect:
    """Observer that keeps the records."""

    def __init__(self):
        self.records = []

    def start(self, summary):
        pass

    def iteration(self, record):
        self.records.append(record)


def outcome(world, direction="block_diagonal"):
    """The error on this rank, the iteration, and the records."""
    watch = Collect()
    try:
        made, config = session(world, direction)
        made.train(config, observers=[watch])
    except NumericalError as error:
        return error, failures.current_iteration, watch.records
    made.free()
    return None, failures.current_iteration, watch.records


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize("point", STOPS)
def test_what_stays_ends_the_run_alike_on_all_ranks(world, monkeypatch, point, value):
    when, iteration, pattern = STOPS[point]
    for rank in sorted({0, world.size // 2, world.size - 1}):
        with monkeypatch.context() as patch:
            plant(patch, point, value, here=world.rank == rank, iteration=when)
            error, reached, records = outcome(world)
        texts = world.allgather_json([str(error), bool(error and error.collective), reached])
        alike = all(text == texts[0] for text in texts)
        shown = "(nan|NaN)" if value == "nan" else "inf"
        found = re.search(pattern.format(rank=rank, value=shown), texts[0][0])
        named = f"on rank {rank}" in texts[0][0]
        right = alike and texts[0][1] and found and named and (iteration is None or reached == iteration)
        assert not world.any(not right), (rank, texts[0])
        assert not world.any(not all(math.isfinite(record.objective) for record in records))


@pytest.mark.parametrize("direction", ["block_diagonal", "gauss_newton"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_direction_that_is_not_finite_is_sought_again(world, monkeypatch, direction, value):
    for rank in sorted({0, world.size - 1}):
        with monkeypatch.context() as patch:
            plant(patch, "direction", value, here=world.rank == rank, iteration=2)
            error, _, records = outcome(world, direction)
        good = error is None and len(records) == 5
        good = good and records[2].note.startswith(f"direction not finite (rank {rank}), damping ")
        good = good and records[2].damping == pytest.approx(10 * records[1].damping, rel=9)
        good = good and all(not r.note.startswith("direction not") for k, r in enumerate(records) if k != 2)
        assert not world.any(not good), (str(error), [record.note for record in records])


def test_a_model_that_is_not_finite_is_not_saved(world, folder):
    made, config = session(world)
    result = made.train(config.model_copy(update={"run": config.run.model_copy(update={"iterations": 0})}))
    model = result.model
    model.save(folder / "good.safetensors")
    if world.rank == world.size - 1 and model.params.size:
        model.params[0] = np.nan
    with pytest.raises(NumericalError, match="holds numbers that are not finite, so it is not saved"):
        model.save(folder / "bad.safetensors")
    world.barrier()
    assert not (folder / "bad.safetensors").exists()
    made.free()


def test_records_stay_json():
    from distnewton.method.records import IterationRecord, plain

    record = IterationRecord(1, 0.0, math.nan, math.inf, train={"rmse": math.nan})
    text = json.dumps(plain(record.as_dict()), allow_nan=False)
    assert json.loads(text)["train"] == {"rmse": None}
