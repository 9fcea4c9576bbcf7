"""Steps of a learning rate against plain numpy loops: sgd, momentum, Adam, decay, averages, clipping; divergence."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from problems import alternating, make_case, named_direction, rate_stage, stage_trainer

from distnewton.directions.direction import Direction, DirectionResult
from distnewton.directions.first_order import Adam, AdamOptions, SteepestDescent
from distnewton.method.batches import Batches
from distnewton.method.records import IterationRecord
from distnewton.method.stages import RateOptions

pytestmark = pytest.mark.mpi(min_size=1, sizes=(3,))

NETWORKS = [((4, 3, 5, 3), "cross_entropy"), ((5, 4, 3, 2), "squared"), ((3, 4, 2, 1), "logistic")]
N, BATCH, N_STEPS = 10, 4, 6


CONSTANTS = AdamOptions(beta1=0.8, beta2=0.95, epsilon=1e-3)


class Averaging(Direction):
    """A direction of the averaged gradient, as mini-block Fisher is."""

    name = "test"
    stops_early, averages_gradient, curvature = False, True, "none"

    def solve(self, problem, termination):
        return DirectionResult(-0.5 * problem.gradient)


def gradients(case):
    """Gradient of the regularised objective on the batch of a step."""
    batches = Batches(N, BATCH, 0)
    return lambda theta, t: case.dense.gradient(theta, batches.rows(t).tolist())


def sgd(case, rate, momentum=0.0, averaging=False, kl_clip=math.inf):
    """Iterates of stochastic gradient descent, its momentum on the directions or on the gradients."""
    gradient, theta, velocity, iterates = gradients(case), case.theta.copy(), 0.0, []
    for t in range(N_STEPS):
        g, alpha = gradient(theta, t), rate(t)
        if averaging:
            velocity = momentum * velocity + g
            d = -0.5 * velocity
        else:
            d = -g
        # the length in the metric of the preconditioner, by the rate before its decay
        slope = abs(d @ (velocity if averaging else g))
        nu = min(1.0, math.sqrt(kl_clip / (rate(0) ** 2 * slope)))
        if not averaging:
            velocity = momentum * velocity + nu * d
        theta = theta + alpha * (nu * d if averaging else velocity)
        iterates.append(theta)
    return iterates


def trained(case, direction, **options):
    """Records of two passes, and the point in the end."""
    trainer = stage_trainer(case, (rate_stage(case, direction, batch=BATCH, **options), 2))
    records = list(trainer.iterations(2))
    return records, case.whole(trainer.params)


@pytest.mark.parametrize(
    ("averaging", "momentum", "kl_clip"),
    [(False, 0.0, math.inf), (False, 0.8, 1e-3), (True, 0.8, 1e-3), (True, 0.8, math.inf), (True, 0.0, 1e-3)],
)
@pytest.mark.parametrize(("widths", "loss"), NETWORKS)
def test_momentum_and_clipping_equal_a_plain_loop(world, widths, loss, averaging, momentum, kl_clip):
    for splits in alternating(world.size, 3):
        case = make_case(world, widths, splits, loss=loss, n=N, C=3.0)
        with case.grid:
            direction = Averaging() if averaging else SteepestDescent()
            options = {"learning_rate": 0.05, "momentum": momentum, "kl_clip": kl_clip}
            records, found = trained(case, direction, **options)
            iterates = sgd(case, lambda t: 0.05, momentum, averaging, kl_clip)
            np.testing.assert_allclose(found, iterates[-1], rtol=0, atol=1e-12)
            assert records[1].objective == pytest.approx(case.dense.value(iterates[2]), rel=1e-12)
            assert records[2].objective == pytest.approx(case.dense.value(iterates[5]), rel=1e-12)
            assert records[2].loss == pytest.approx(case.dense.mean_loss(iterates[5]), rel=1e-12)
            last = gradients(case)(iterates[4], 5)
            assert records[2].gradient_norm == pytest.approx(np.linalg.norm(last), rel=1e-10)
            assert (records[2].steps, records[2].step_size) == (3, 0.05)
            assert all(seconds > 0 for seconds in records[2].direction.seconds)


def test_clipping_does_not_undo_the_decay_of_the_rate(world):
    case = make_case(world, (5, 4, 3), alternating(world.size, 2)[0], n=N, C=3.0)
    with case.grid:
        options = {"learning_rate": 0.05, "kl_clip": 1e-4, "rate_decay": "linear", "horizon": N_STEPS}
        _, found = trained(case, SteepestDescent(), **options)
        iterates = sgd(case, lambda t: 0.05 * (1 - t / N_STEPS), kl_clip=1e-4)
        np.testing.assert_allclose(found, iterates[-1], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("widths", "loss"), NETWORKS)
def test_adam_equals_a_plain_loop_on_every_grid(world, widths, loss):
    for splits in alternating(world.size, 3):
        case = make_case(world, widths, splits, loss=loss, n=N, C=3.0)
        with case.grid:
            _, found = trained(case, Adam(CONSTANTS), learning_rate=0.02)
            gradient, theta, m, v = gradients(case), case.theta.copy(), 0.0, 0.0
            for t in range(N_STEPS):
                g = gradient(theta, t)
                m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2
                mean, square = m / (1 - 0.8 ** (t + 1)), v / (1 - 0.95 ** (t + 1))
                theta = theta - 0.02 * mean / (np.sqrt(square) + 1e-3)
            np.testing.assert_allclose(found, theta, rtol=0, atol=1e-11)


def test_adam_takes_its_constants_from_the_options(world):
    case = make_case(world, (4, 3, 2), (1, world.size, 1), n=N)
    with case.grid:
        direction = named_direction("adam", **CONSTANTS.model_dump())
        found = [trained(case, d, learning_rate=0.02)[1] for d in (direction, Adam(CONSTANTS), Adam())]
        np.testing.assert_array_equal(found[0], found[1])
        assert abs(found[0] - found[2]).max() > 1e-4


@pytest.mark.parametrize(
    ("decay", "factor"),
    [("none", lambda x: 1.0), ("linear", lambda x: 1 - x), ("cosine", lambda x: (1 + np.cos(np.pi * x)) / 2)],
)
def test_the_rate_falls_over_the_stage(world, decay, factor):
    for splits in alternating(world.size, 3)[:2]:
        case = make_case(world, (4, 3, 5, 3), splits, loss="cross_entropy", n=N)
        with case.grid:
            options = {"learning_rate": 0.1, "rate_decay": decay, "horizon": N_STEPS}
            records, found = trained(case, SteepestDescent(), **options)
            iterates = sgd(case, lambda t: 0.1 * factor(t / N_STEPS))
            np.testing.assert_allclose(found, iterates[-1], rtol=0, atol=1e-12)
            rates = [0.1 * factor(2 / N_STEPS), 0.1 * factor(5 / N_STEPS)]
            assert [r.step_size for r in records[1:]] == pytest.approx(rates)
    done = RateOptions(0.1, decay, 4)
    assert done.rate(4) == done.rate(9) == pytest.approx(0.1 if decay == "none" else 0.0, abs=1e-17)


@pytest.mark.parametrize("average", [0.6, 0.99])
def test_the_average_of_the_iterates_is_what_counts(world, average):
    for splits in alternating(world.size, 3)[:2]:
        case = make_case(world, (4, 3, 5, 3), splits, loss="cross_entropy", n=N)
        with case.grid:
            records, found = trained(case, SteepestDescent(), learning_rate=0.3, average=average)
            mean, means = 0.0, []
            for t, theta in enumerate(sgd(case, lambda t: 0.3)):
                weight = max(1 - average, 1 / (t + 1))
                mean = (1 - weight) * mean + weight * theta
                means.append(mean)
            np.testing.assert_allclose(found, mean, rtol=0, atol=1e-12)
            expected = [case.dense.value(means[2]), case.dense.value(means[5])]
            assert [r.objective for r in records[1:]] == pytest.approx(expected, rel=1e-12)


def test_weight_decay_is_the_gradient_of_the_regularisation(world):
    for splits in alternating(world.size, 2):
        # as strong that it is all that matters
        case = make_case(world, (4, 3, 2), splits, n=N, C=1e-6)
        with case.grid:
            _, found = trained(case, SteepestDescent(), learning_rate=1e-7)
            np.testing.assert_allclose(found, 0.9**N_STEPS * case.theta, rtol=0, atol=2e-5)


def test_steps_of_an_iteration_go_on_through_the_passes(world):
    case = make_case(world, (4, 3, 2), (1, world.size, 1), n=N)
    with case.grid:
        whole = trained(case, SteepestDescent(), learning_rate=0.05, momentum=0.5)[1]
        stage = rate_stage(case, SteepestDescent(), batch=BATCH, steps=1, learning_rate=0.05, momentum=0.5)
        trainer = stage_trainer(case, (stage, 6))
        records = list(trainer.iterations(6))
        np.testing.assert_array_equal(case.whole(trainer.params), whole)
        assert [r.steps for r in records[1:]] == [1] * 6


def test_the_starting_point_is_left_alone(world):
    case = make_case(world, (4, 3, 2), (1, world.size, 1), n=N)
    with case.grid:
        params = case.params.copy()
        stage = rate_stage(case, SteepestDescent(), learning_rate=0.05)
        stage.start(params, None)
        known = stage.evaluation
        stage.iterate(IterationRecord(1, 0.0, stage.value, known.loss))
        assert case.agree(np.array_equal(params, case.params) and np.array_equal(known.params, case.params))
        assert abs(case.whole(stage.evaluation.params) - case.theta).max() > 1e-3


@pytest.mark.parametrize("kind", ["sgd", "adam", "kfac", "mini_block_fisher"])
@pytest.mark.parametrize("activation", ["identity", "relu"])
def test_divergence_ends_training_on_all_ranks_with_advice(world, kind, activation):
    case = make_case(world, (4, 3, 2), (1, world.size, 1), n=N, activation=activation)
    with case.grid:
        stage = rate_stage(case, named_direction(kind), steps=2, learning_rate=1e200, damping=0.1)
        trainer = stage_trainer(case, (stage, 40))
        records = list(trainer.iterations(40))
        assert len(records) < 40
        assert re.fullmatch(r"training diverged: .*method\.learning_rate \(now 1e\+200\)", trainer.ended)
        assert trainer.ended in records[-1].note
        lowest, params = trainer.chosen
        assert lowest == int(np.nanargmin([record.objective for record in records]))
        assert case.dense.value(case.whole(params)) == pytest.approx(records[lowest].objective)


def test_the_record_adds_up_the_steps_of_an_iteration(world):
    case = make_case(world, (5, 4, 3), alternating(world.size, 2)[0], n=N, C=3.0)
    with case.grid:
        steps = iter([2, 3, 4, 1, 1, 1])

        class Counting(SteepestDescent):
            def solve(self, problem, termination):
                n = next(steps)
                return DirectionResult(-problem.gradient, n, True, 0.1 * n)

        records, _ = trained(case, Counting(), learning_rate=0.01)
        assert [r.direction.inner_iterations[0] for r in records[1:]] == [9, 3]
        assert [r.direction.residuals[0] for r in records[1:]] == pytest.approx([0.4, 0.1])
