"""Newton steps on mini-batches, stages one after the other, and whole runs of every direction."""

from __future__ import annotations

import gc
import re
from weakref import ref

import numpy as np
import pytest
from dense import history
from problems import (
    alternating,
    batch_newton,
    make_case,
    named_direction,
    newton_trainer,
    rate_stage,
    stage_trainer,
)

import distnewton
from distnewton.directions.direction import Direction, DirectionResult
from distnewton.directions.dual import Dual
from distnewton.directions.first_order import Adam, SteepestDescent
from distnewton.errors import ConfigError
from distnewton.method.batches import Batches
from distnewton.method.newton import NewtonStep, StepOptions
from distnewton.method.stages import FullBatch
from distnewton.solvers.damping import LevenbergMarquardt

pytestmark = pytest.mark.mpi(min_size=1, sizes=(4,))

NETWORKS = [((4, 3, 5, 3), "cross_entropy"), ((5, 4, 3, 2), "squared"), ((3, 4, 2, 1), "logistic"),
            ((4, 3, 2, 3), "logistic")]  # fmt: skip
CG = {"cg_tolerance": 0.0, "cg_max": 4, "cg_min": 1}


def gauss_newton():
    return named_direction("gauss_newton", **CG)


@pytest.mark.parametrize("name", ["block_diagonal", "gauss_newton", "dual", "block_dual"])
@pytest.mark.parametrize(("widths", "loss"), NETWORKS)
def test_newton_steps_on_batches_equal_a_dense_derivation(world, widths, loss, name):
    for splits in alternating(world.size, 3):
        case = make_case(world, widths, splits, loss=loss, n=14)
        with case.grid:
            plain = {"preconditioner": "none"} if name == "block_diagonal" else {}  # the oracle has no preconditioner
            direction = named_direction(name, **CG, **plain)
            trainer = stage_trainer(case, (batch_newton(case, direction, batch=5, steps=1), 4))
            found = [record.objective for record in trainer.iterations(4)][1:]
            rows = [Batches(14, 5, 0).rows(t).tolist() for t in range(4)]
            whole = [np.arange(case.dense.n_params)]
            own = [index for rank in range(world.size) if len(index := case.index_of(rank))]
            expected = history(
                case.dense,
                case.theta,
                whole if name in {"gauss_newton", "dual"} else own,
                rows,
                cg_steps=200 if name.endswith("dual") else 4,
                batches=True,
            )
            np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_a_stage_that_has_ended_leaves_the_memory(world):
    case = make_case(world, NETWORKS[0][0], next(iter(alternating(world.size, 3))))
    with case.grid:
        first, last = (rate_stage(case, named_direction(name), learning_rate=0.1) for name in ("kfac", "adam"))
        stage, trainer = ref(first), stage_trainer(case, (first, 2), (last, 2))
        del first
        alive = []
        for _ in trainer.iterations(4):
            gc.collect()
            alive.append(stage() is not None)
        assert alive == [True, True, True, False, False]


class Watching(Direction):
    """A direction that keeps the problems it saw."""

    name = "test"
    stops_early = averages_gradient = apart = False
    curvature = "jacobian"

    def __init__(self, direction):
        self._direction, self.problems = direction, []

    def solve(self, problem, termination):
        self.problems.append(problem)
        return self._direction.solve(problem, termination)


def test_gradient_and_curvature_are_of_the_same_batch(world):
    for splits in alternating(world.size, 3):
        case = make_case(world, (4, 3, 5, 3), splits, loss="cross_entropy", n=14)
        with case.grid:
            watching = Watching(gauss_newton())
            list(stage_trainer(case, (batch_newton(case, watching, batch=5), 1)).iterations(1))
            assert len(watching.problems) == 3
            rows = Batches(14, 5, 0).rows(0)
            first = watching.problems[0]
            g = case.dense.gradient(case.theta, rows.tolist())
            np.testing.assert_allclose(case.whole(first.gradient), g, rtol=0, atol=1e-12)
            v = np.random.default_rng(0).standard_normal(len(g))
            Jv = case.grid.comm.sum_inplace(first.jacobian.matvec(v[case.own_index]))
            J = case.dense.jacobian(case.theta, rows.tolist())
            np.testing.assert_allclose(Jv, J @ v, rtol=0, atol=1e-11)


class Uphill(Direction):
    """A direction in which the objective grows."""

    name = "test"
    stops_early = averages_gradient = apart = False
    curvature = "none"

    def solve(self, problem, termination):
        return DirectionResult(problem.gradient.copy())


def test_an_iteration_of_batches_sums_up_its_steps(world):
    case = make_case(world, (4, 3, 5, 3), (1, world.size, 1, world.size), loss="cross_entropy", n=14)
    with case.grid:
        records = list(stage_trainer(case, (batch_newton(case, gauss_newton(), batch=5), 2)).iterations(2))[1:]
        for record in records:
            assert record.steps == 3
            assert record.direction.inner_iterations == [12] * world.size
            assert record.line_search_trials >= 3
            assert record.note == ""
        stage = batch_newton(case, Uphill(), batch=5, combine="none")
        rejected = list(stage_trainer(case, (stage, 2)).iterations(2))
        assert [r.note for r in rejected] == ["", *["3 of 3 batches rejected"] * 2]
        assert [r.objective for r in rejected] == [rejected[0].objective] * 3
        # each batch raised the damping, of which the record has the last step's
        assert [r.damping for r in rejected[1:]] == pytest.approx([1.5**2, 1.5**5])


class WatchedFullBatch(FullBatch):
    """Newton iterations that remember where they began."""

    def start(self, params, known):
        super().start(params, known)
        self.started = params.copy(), self.value


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_a_stage_goes_on_from_the_point_and_objective_of_the_last(world, average):
    for splits in alternating(world.size, 3):
        case = make_case(world, (4, 3, 5, 3), splits, loss="cross_entropy", n=14)
        with case.grid:
            def first(case=case):
                return rate_stage(case, SteepestDescent(), batch=5, learning_rate=0.1, average=average)

            newton = NewtonStep(gauss_newton(), LevenbergMarquardt(1.0), StepOptions())
            second = WatchedFullBatch(case.objective, newton, 0.5, 1, 0)
            third = rate_stage(case, Adam(), batch=7, learning_rate=1e-6)
            trainer = stage_trainer(case, (first(), 2), (second, 3), (third, 1))
            records = list(trainer.iterations(6))
            alone = stage_trainer(case, (first(), 2))
            expected = list(alone.iterations(2))
            assert [r.direction.method for r in records[1:]] == ["sgd"] * 2 + ["gauss_newton"] * 3 + ["adam"]
            assert [r.objective for r in records[:3]] == [r.objective for r in expected]
            params, value = second.started
            assert case.agree(np.array_equal(params, alone.params))
            assert value == pytest.approx(expected[-1].objective, rel=1e-13)
            # Newton descends from there, and tiny steps after it hardly move
            assert records[3].objective < records[2].objective
            assert records[6].objective == pytest.approx(records[5].objective, rel=1e-4)
            assert records[6].objective != records[5].objective


def test_the_last_stage_takes_all_iterations_that_remain_and_none_that_do_not(world):
    case = make_case(world, (4, 3, 2), (1, world.size, 1), n=14)
    with case.grid:
        def methods(n_iterations):
            directions = SteepestDescent(), SteepestDescent()
            directions[0].name, directions[1].name = "first", "last"
            first, last = (rate_stage(case, direction, learning_rate=0.01) for direction in directions)
            trainer = stage_trainer(case, (first, 2), (last, 1))
            return [r.direction.method for r in trainer.iterations(n_iterations) if r.direction]

        assert methods(5) == ["first"] * 2 + ["last"] * 3
        assert methods(1) == ["first"]
        assert methods(0) == []


# whole runs


def blobs(n=90, n_features=6, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    centres = 2 * rng.standard_normal((n_classes, n_features))
    y = rng.integers(n_classes, size=n)
    return centres[y] + rng.standard_normal((n, n_features)), y


def run(comm, method, iterations=4, dtype="float64", **tables):
    tree = {
        "network": {"layers": ["auto", 6, 4, "auto"]},
        "run": {"iterations": iterations, "dtype": dtype, "deterministic": True, "threads": 1},
        "method": method,
    }
    X, y = blobs()
    result = distnewton.train(distnewton.make_config(tree | tables), comm, train_data=distnewton.ArraySource(X, y))
    result.model.grid.free()
    return result


def objectives(result):
    return [record.objective for record in result.history]


SAME_ON_EVERY_GRID = [
    {"direction": "sgd", "batch": 20, "momentum": 0.5},
    {"direction": "adam", "batch": 20, "learning_rate": 0.01, "rate_decay": "cosine", "average": 0.5},
    {"direction": "dual", "subsample_min": 20},
    {"direction": "dual", "subsample_min": 20, "sketch": 1},
    {"direction": "gauss_newton", "subsample_min": 20, "preconditioner": "diagonal", "warm_start": 0.5},
    {"direction": "gauss_newton", "subsample_min": 20, "cg_stop": "progress", "cg_tolerance": 0.0},
    {"direction": "sgn", "solver": "gauss_newton", "preconditioner": "none", "batch": 30},
    {"direction": "sgn", "solver": "gauss_newton", "batch": 30, "preconditioner": "diagonal", "sketch": 2},
    {"direction": "sgn", "solver": "dual", "batch": 30},
]


@pytest.mark.parametrize("method", SAME_ON_EVERY_GRID, ids=str)
def test_history_is_the_same_on_every_number_of_ranks(world, method):
    together, alone = run(world, method), run(None, method)
    np.testing.assert_allclose(objectives(together), objectives(alone), rtol=1e-7)
    assert objectives(alone)[-1] < objectives(alone)[0]


LEARNING = [
    {"direction": "kfac", "batch": 30},
    {"direction": "mini_block_fisher", "batch": 30},
    {"direction": "mini_block_fisher", "batch": 30, "mini_blocks": "neuron", "learning_rate": 0.02},
    {"direction": "block_dual", "subsample_min": 40},
    {"direction": "block_dual", "subsample_min": 40, "blocks": "layer"},
    {"direction": "block_diagonal", "subsample_min": 40, "preconditioner": "kfac"},
    {"direction": "block_diagonal", "subsample_min": 40, "preconditioner": "mini_block_fisher", "sketch": 2},
    {"direction": "gauss_newton", "subsample_min": 40, "preconditioner": "mini_block_fisher", "warm_start": 0.9},
    {"direction": "sgn", "batch": 30},
    {"direction": "sgn", "solver": "block_dual", "batch": 30},
    {"direction": "sgn", "solver": "kfac", "batch": 30},
    {"direction": "sgn", "solver": "mini_block_fisher", "batch": 30},
]


@pytest.mark.parametrize("method", LEARNING, ids=str)
def test_every_direction_learns_in_float32(world, method):
    result = run(world, method, iterations=12, dtype="float32")
    assert result.last.train["accuracy"] > 0.85
    # a rate may trade regularisation for loss, the more the more blocks there are
    assert result.last.loss < 0.5 * result.history[0].loss
    solver = method.get("solver", "block_diagonal")
    name = f"sgn/{solver}" if method["direction"] == "sgn" else method["direction"]
    assert {record.direction.method for record in result.history[1:]} == {name}


def test_a_schedule_runs_its_stages_in_turn(world):
    method = {"direction": "gauss_newton", "subsample_min": 30, "schedule": "sgd:2,sgn:1"}
    result = run(world, method, iterations=6)
    methods = ["sgd"] * 2 + ["sgn/block_diagonal"] + ["gauss_newton"] * 3
    assert [r.direction.method for r in result.history[1:]] == methods
    assert np.diff(objectives(result))[-3:].max() < 0
    early = run(world, method, iterations=2)
    assert [r.direction.method for r in early.history[1:]] == ["sgd"] * 2
    assert objectives(early) == pytest.approx(objectives(result)[:3], rel=1e-12)
    only = run(world, {"direction": "sgd"}, iterations=2)
    assert objectives(only) == pytest.approx(objectives(early), rel=1e-12)


def test_the_rate_of_a_stage_falls_over_the_iterations_it_gets(world):
    stage = {"direction": "sgd", "rate_decay": "linear", "batch": 30, "iterations": 3, "learning_rate": 0.1}
    method = {"direction": "sgd", "rate_decay": "linear", "batch": 30, "schedule": [stage], "learning_rate": 0.2}
    whole = run(world, method, iterations=5)
    # 3 batches an iteration: 9 steps, then 6
    assert [r.step_size for r in whole.history[1:4]] == pytest.approx([0.1 * (1 - t / 9) for t in (2, 5, 8)])
    assert [r.step_size for r in whole.history[4:]] == pytest.approx([0.2 * (1 - t / 6) for t in (2, 5)])
    short = run(world, method, iterations=2)
    assert [r.step_size for r in short.history[1:]] == pytest.approx([0.1 * (1 - t / 6) for t in (2, 5)])


def test_stages_draw_other_cotangents_than_each_other(world):
    case = make_case(world, (4, 3, 5, 3), (1, world.size, 1, world.size), loss="cross_entropy", n=14)
    with case.grid:
        histories = [
            [r.objective for r in newton_trainer(case, gauss_newton(), sketch=1, stage=k).iterations(1)]
            for k in (0, 1, 0)
        ]
        assert histories[0] == histories[2]
        assert histories[0][1] != histories[1][1]


@pytest.mark.parametrize("direction", ["sgd", "adam"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_rate_that_diverges_ends_the_run_with_advice(world, direction, dtype):
    rate = 1e30 if dtype == "float32" else 1e250
    network = {"layers": ["auto", 6, "auto"], "activation": "relu", "loss": "squared"}
    result = run(
        world, {"direction": direction, "learning_rate": rate, "batch": 30}, dtype=dtype, network=network,
        data={"task": "classification"},
    )  # fmt: skip
    assert "diverged" in result.ended
    assert "lower method.learning_rate" in result.last.note
    assert not world.any(not np.isfinite(result.model.params).all())


def test_a_dual_system_too_large_is_refused_before_the_run_and_its_advice_followed_runs(world):
    wide = {"layers": ["auto", 40, 4, "auto"]}  # 459 variables, more than the 270 unknowns of 90 samples
    half = Dual().system_bytes(270, 8, world.size) / 2**21
    limits = {"iterations": 1, "dtype": "float64", "threads": 1, "memory_mb": half}
    dual_sgn = {"direction": "sgn", "solver": "dual", "sketch": 0}
    for method in ({"direction": "dual", "subsample_min": 90}, {**dual_sgn, "batch": 90}):
        with pytest.raises(ConfigError, match=r"90 samples x 3 rows = 270 unknowns: .*, 2.0 times run") as caught:
            run(world, method, run=limits, network=wide)
        assert caught.value.collective
        assert "sketch = 2" in str(caught.value)
        fitting = int(re.search(r"at most (\d+) samples", str(caught.value))[1])
        assert 50 < fitting < 90
    for method in (
        {"direction": "dual", "subsample_min": fitting},
        {"direction": "dual", "subsample_min": 90, "sketch": 2},
        {**dual_sgn, "batch": fitting},
    ):
        assert len(run(world, method, run=limits, network=wide).history) == 2
    with pytest.raises(ConfigError, match=f"{fitting} samples"):
        run(world, {"direction": "sgd", "schedule": [{"direction": "dual", "subsample_min": 90, "iterations": 1}]},
            run=limits, network=wide)  # fmt: skip
