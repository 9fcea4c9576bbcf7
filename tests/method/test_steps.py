"""The outer loop where a step fails: damping, the last direction, what is computed again, and when training ends."""

from __future__ import annotations

import weakref
from itertools import pairwise

import numpy as np
import pytest
from problems import alternating, make_case, named_direction, newton_trainer
from resumed import blobs, free, settings

import distnewton
from distnewton.directions.direction import Direction, DirectionResult
from distnewton.errors import NumericalError
from distnewton.method.batches import Subsamples
from distnewton.method.objective import Evaluation, Objective
from distnewton.method.stages import MAX_REJECTIONS

pytestmark = pytest.mark.mpi(min_size=1)

WIDTHS = (6, 5, 4, 3)


def gauss_newton():
    return named_direction("gauss_newton", cg_tolerance=1e-3, cg_max=20, cg_min=1)


class Scripted(Direction):
    """A direction that is a multiple of the gradient, each iteration as it is told; keeps the problems it saw."""

    name = "test"
    stops_early = averages_gradient = apart = False
    curvature = "jacobian"

    def __init__(self, *factors):
        self._factors, self.problems = list(factors), []

    def solve(self, problem, termination):
        self.problems.append(problem)
        factor = self._factors[min(len(self.problems), len(self._factors)) - 1]
        return DirectionResult(factor * problem.gradient, 1, True, 0.0)


def make_trainer(case, direction, combine="none", **options):
    return newton_trainer(case, direction, combine=combine, **({"line_search_max": 8} | options))


class LongThenWeak(Scripted):
    """Steps far too long at first, so that trials follow one another; knows its last Jacobian by a weak reference."""

    def __init__(self):
        super().__init__(-300.0, -300.0, -0.1)
        self.jacobians = []

    def solve(self, problem, termination):
        self.jacobians.append(weakref.ref(problem.jacobian))
        result = super().solve(problem, termination)
        self.problems[-1] = None
        return result


def test_a_step_holds_two_points_and_one_jacobian_at_most(world, monkeypatch):
    alive, most = weakref.WeakSet(), []

    def evaluate(objective, params, last, inner=Objective.evaluate):
        evaluation = inner(objective, params, last)
        alive.add(evaluation)
        most.append(len(alive))
        return evaluation

    def gradient(objective, evaluation, inner=Objective.gradient):
        living.append(sum(reference() is not None for reference in direction.jacobians))
        return inner(objective, evaluation)

    monkeypatch.setattr(Evaluation, "__hash__", object.__hash__)
    monkeypatch.setattr(Objective, "evaluate", evaluate)
    monkeypatch.setattr(Objective, "gradient", gradient)
    for splits in alternating(world.size, 3):
        case = make_case(world, WIDTHS, splits, n=20)
        with case.grid:
            direction, living = LongThenWeak(), []
            records = list(make_trainer(case, direction, line_search_max=20).iterations(3))[1:]
            assert records[0].line_search_trials > 2
            assert [r.note for r in records] == ["", "", ""]
            assert case.agree(max(most) == 2)
            assert case.agree(living == [0, 0, 0])


def test_a_rejected_direction_costs_the_last_one_and_no_new_gradient(world):
    for splits in alternating(world.size, 3):
        case = make_case(world, WIDTHS, splits, n=20)
        with case.grid:
            direction = Scripted(-0.1, -0.1, 0.1, -0.1, -0.1)
            records = list(make_trainer(case, direction).iterations(5))[1:]
            assert [bool(r.note) for r in records] == [False, False, True, False, False]
            rejected, after = records[2], records[3]
            assert rejected.note == "no descent direction"
            assert (rejected.step_size, rejected.line_search_trials, rejected.reduction_ratio) == (0.0, 0, None)
            assert rejected.objective == records[1].objective
            assert rejected.loss == records[1].loss
            assert after.damping == 1.5 * rejected.damping
            assert after.objective < rejected.objective
            # the same point: the same gradient and Jacobian, not another one
            same = direction.problems[3].gradient is direction.problems[2].gradient
            same &= direction.problems[3].jacobian is direction.problems[2].jacobian
            same &= direction.problems[3].damping == after.damping
            assert case.agree(same)
            assert after.gradient_norm == rejected.gradient_norm
            assert after.sent_bytes["gradient"] == after.sent_bytes["jacobian"] == 0.0
            # the next new point moves on to the next subsample
            assert case.agree(direction.problems[4].jacobian is not direction.problems[3].jacobian)


def test_the_last_direction_joins_unless_the_step_before_failed(world):
    case = make_case(world, WIDTHS, (1, world.size, 1, 1), n=20)
    with case.grid:
        # without a first direction the scaled step is nothing: no slope, so it is rejected
        trainer = make_trainer(case, Scripted(-0.1, -0.1, 0.0, -0.1, -0.1), combine="previous")
        records = list(trainer.iterations(5))[1:]
        assert [len(r.betas) for r in records] == [1, 2, 2, 1, 2]
        assert [r.note for r in records] == ["", "", "no descent direction", "", ""]
        assert all(r.betas[0] > 0 for r in records if not r.note)
        scaled = list(make_trainer(case, Scripted(-0.1), combine="scale").iterations(3))[1:]
        assert [len(r.betas) for r in scaled] == [1, 1, 1]
        taken = list(make_trainer(case, Scripted(-0.1)).iterations(2))[1:]
        assert [r.betas for r in taken] == [[1.0], [1.0]]


def test_scaling_makes_the_step_independent_of_the_length_of_the_direction(world):
    case = make_case(world, WIDTHS, (1, world.size, 1, 1), n=20)
    with case.grid:
        histories = [
            [r.objective for r in make_trainer(case, Scripted(factor), combine="previous").iterations(4)]
            for factor in (-1.0, -1e-6, 1e3)
        ]
        np.testing.assert_allclose(histories[1], histories[0], rtol=1e-10)
        np.testing.assert_allclose(histories[2], histories[0], rtol=1e-10)


def test_a_search_without_decrease_is_told_apart(world):
    case = make_case(world, WIDTHS, (1, world.size, 1, 1), n=20)
    with case.grid:
        # so far along the gradient that eight halvings are not enough
        records = list(make_trainer(case, Scripted(-1e9), line_search_max=8).iterations(2))
        assert [r.note for r in records[1:]] == ["no decrease along the direction"] * 2
        assert [r.line_search_trials for r in records[1:]] == [8, 8]
        assert [r.step_size for r in records[1:]] == [0.0, 0.0]
        assert [r.damping for r in records[1:]] == [1.0, 1.5]


def test_an_overflowing_trial_is_one_more_halving(world):
    case = make_case(world, WIDTHS, (1, world.size, 1, 1), activation="identity", n=20)
    with case.grid:
        records = list(make_trainer(case, Scripted(-1e120), line_search_max=600).iterations(1))
        assert records[1].objective < records[0].objective
        assert records[1].line_search_trials > 380
        assert records[1].step_size == 0.5 ** (records[1].line_search_trials - 1)


def test_training_ends_after_too_many_rejections(world):
    case = make_case(world, WIDTHS, (1, world.size, 1, 1))
    with case.grid:
        records = list(make_trainer(case, Scripted(1.0)).iterations(1000))
        assert len(records) == 1 + MAX_REJECTIONS
        assert records[-1].damping == pytest.approx(1.5 ** (MAX_REJECTIONS - 1))
        assert all(r.objective == records[0].objective for r in records)


def test_a_start_that_overflows_is_told_by_all_ranks(world):
    case = make_case(world, WIDTHS, (1, world.size, 1, 1), activation="identity")
    with case.grid:
        case.theta = 1e160 * case.theta
        pattern = r"objective is not finite at the start.*layer.*on rank.*float64"
        with pytest.raises(NumericalError, match=pattern) as caught:
            next(iter(make_trainer(case, Scripted(-1.0)).iterations(1)))
        assert caught.value.collective


@pytest.mark.parametrize("threshold", [0.5, 0.95])
def test_damping_reacts_to_the_ratio_of_the_accepted_step(world, threshold):
    source = distnewton.ArraySource(*blobs())
    for splits in alternating(world.size, 3):
        method = {"direction": "gauss_newton", "drop": 2 / 3, "subsample_min": 16}
        config = settings(method | {"damping_threshold": threshold}, iterations=12, partition={"splits": list(splits)})
        result = distnewton.train(config, world, train_data=source)
        ratios = []
        for record, after in pairwise(result.history[1:]):
            ratios.append(record.reduction_ratio)
            factor = 2 / 3 if ratios[-1] > threshold else 1.5 if ratios[-1] < 0.25 else 1.0
            assert after.damping == pytest.approx(factor * record.damping)
        # some lie where the thresholds differ
        assert any(0.5 < ratio < 0.95 for ratio in ratios)
        free(result)


def test_rho_is_the_decrease_over_the_undamped_model(world):
    case = make_case(world, WIDTHS, (1, world.size, 1, 1), n=12, loss="cross_entropy")
    with case.grid:
        trainer = make_trainer(case, gauss_newton(), combine="previous")
        theta, value = case.theta, case.dense.value(case.theta)
        iterator = trainer.iterations(4)
        assert next(iterator).objective == pytest.approx(value, rel=1e-13)
        for k, record in enumerate(iterator):
            rows = Subsamples(12, 6, 0).rows(k).tolist()
            g, G = case.dense.gradient(theta), case.dense.gauss_newton(theta, rows)
            moved = case.whole(trainer.params)
            step = moved - theta
            actual = case.dense.value(moved) - value
            assert record.reduction_ratio == pytest.approx(actual / (g @ step + 0.5 * step @ G @ step), rel=1e-8)
            theta, value = moved, value + actual
