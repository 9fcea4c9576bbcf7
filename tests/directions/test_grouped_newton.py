"""Grouped Newton: its steps against dense ones, periods and averages, and whole runs with each proposal."""

from __future__ import annotations

import numpy as np
import pytest
from dense import krylov_minimiser
from groups import dense_summary, positions
from problems import alternating, linearization, make_case, named_direction

import distnewton
from distnewton.config import load_config
from distnewton.curvature.group_summaries import GROUPS
from distnewton.curvature.linearization import Linearization
from distnewton.directions import grouped_newton
from distnewton.directions.direction import Direction, DirectionResult
from distnewton.directions.first_order import SteepestDescent
from distnewton.directions.grouped_newton import NO_STEP_SIZES, GroupedNewton, GroupOptions
from distnewton.errors import ConfigError
from distnewton.method.batches import Batches
from distnewton.method.records import IterationRecord
from distnewton.method.stages import RateOptions, RateSteps
from distnewton.parallel.termination import NEVER
from distnewton.solvers.anisotropic import step_sizes

pytestmark = pytest.mark.mpi(min_size=1, sizes=(3,))

PROPOSALS = ["sgd", "adam", "kfac", "mini_block_fisher", "block_diagonal", "gauss_newton", "dual", "block_dual"]
WIDTHS = (4, 3, 4, 2)


def exact_sizes(case, u, kind, damping):
    """Step sizes for u from dense derivatives, and the direction they make."""
    g, H, third = dense_summary(case, u, kind, (0, 9))
    eta, d = step_sizes(H, g, third, damping), np.zeros_like(u)
    for s, index in enumerate(positions(case, kind)):
        d[index] = -eta[s] * u[index]
    return eta, d


def grouped(proposal="sgd", *, cg=0.1, **options):
    shared = dict(cg_tolerance=cg, cg_max=200, proposal=proposal, **options)
    return named_direction("grouped_newton", **shared)


@pytest.mark.parametrize("kind", ["tensor", "kind", "all"])
@pytest.mark.parametrize("proposal", ["sgd", "gauss_newton"])
def test_the_step_is_the_dense_one_on_every_grid(world, kind, proposal):
    expected = None
    for splits in alternating(world.size, 3):
        case = make_case(world, WIDTHS, splits, loss="cross_entropy")
        with case.grid:
            problem = linearization(case, (0, 9))
            direction = grouped(proposal, cg=1e-12, groups=kind, negative_rates=True, internal_damping=1.0)
            found = direction.solve(problem, NEVER)
            if expected is None:
                u = case.dense.gradient(case.theta)
                if proposal == "gauss_newton":
                    G = case.dense.gauss_newton(case.theta, list(range(9)))
                    u = krylov_minimiser(G + 0.5 * np.eye(len(u)), u, len(u))
                expected = exact_sizes(case, u, kind, 1.0)
            eta, d = expected
            np.testing.assert_allclose(direction.step_sizes, eta, rtol=0, atol=1e-6 * abs(eta).max())
            np.testing.assert_allclose(case.whole(found.direction), d, rtol=0, atol=1e-6 * abs(d).max())
            assert found.note == ""


@pytest.mark.parametrize(("proposal", "kind"), list(zip(PROPOSALS, 2 * GROUPS, strict=True)))
def test_each_proposal_is_scaled_by_group_and_keeps_its_state(world, proposal, kind):
    # both with the same numbers of calls: moments and warm starts must not see the scaling
    for splits in alternating(world.size, 2):
        case = make_case(world, (5, 4, 3), splits, loss="cross_entropy")
        with case.grid:
            by_cg = proposal in {"block_diagonal", "gauss_newton"}
            options = {"warm_start": 0.5, "preconditioner": "none"} if by_cg else {}
            alone = named_direction(proposal, proposal=proposal, cg_max=200, **options)
            direction = grouped(proposal, groups=kind, negative_rates=True, rate_period=2, **options)
            assert direction.curvature == alone.curvature
            assert direction.averages_gradient == (proposal == "sgd")
            assert not direction.stops_early
            for seed in range(3):
                problem = linearization(case, (seed, 6 + seed), rooted=alone.curvature == "roots", seed=seed)
                again = linearization(case, (seed, 6 + seed), rooted=alone.curvature == "roots", seed=seed)
                found, plain = direction.solve(problem, NEVER), alone.solve(again, NEVER)
                expected = direction._groups.scaled(case.network.layout, direction.step_sizes, plain.direction)
                assert not world.any(not np.allclose(found.direction, expected, rtol=1e-9, atol=1e-12))
                assert found.inner_iterations == plain.inner_iterations
            assert direction.step_sizes.any()


def test_deep_layers_whose_third_derivatives_are_tiny_get_step_sizes(world):
    # curvature is negative along groups with D_s below 1e-5 of the largest: their cubic terms decide
    expected = None
    for splits in alternating(world.size, 8):
        network = {"activation": "sigmoid", "loss": "cross_entropy", "seed": 3}
        case = make_case(world, (6, *[8] * 7, 3), splits, n=20, C=1e6, **network)
        with case.grid:
            problem = linearization(case, (0, 20))
            direction = grouped(negative_rates=True, internal_damping=10.0)
            assert direction.solve(problem, NEVER).note == ""
            summary = problem.sample.summarise(problem.gradient, direction._groups, problem.regularization)
            D = np.cbrt(abs(summary.third))
            assert D.min() < 1e-5 * D.max()
            assert np.linalg.eigvalsh(summary.hessian)[0] < 0.0
            # the equation, as it stands
            eta = direction.step_sizes
            A = summary.hessian + 5.0 * np.linalg.norm(D * eta) * np.diag(D**2)
            np.testing.assert_allclose(A @ eta, summary.gradient, rtol=0, atol=1e-9 * abs(summary.gradient).max())
            expected = eta if expected is None else expected
            np.testing.assert_allclose(eta, expected, rtol=0, atol=1e-6 * abs(expected).max())


@pytest.mark.parametrize("damping", [0.0, 10.0])
def test_a_quadratic_of_one_variable_a_group_is_minimised_in_one_step(world, damping):
    # one feature, one output, squared loss: no third derivatives, the weight and the bias are a group each
    case = make_case(world, (1, 1), (1, world.size))
    with case.grid:
        found = grouped(internal_damping=damping, negative_rates=True).solve(linearization(case, (0, 9)), NEVER)
        minimiser = case.theta + case.whole(found.direction)
        assert np.linalg.norm(case.dense.gradient(minimiser)) < 1e-12 * np.linalg.norm(case.dense.gradient(case.theta))


def test_one_group_gives_the_best_step_along_the_gradient(world):
    case = make_case(world, (3, 2), alternating(world.size, 1)[0])
    with case.grid:
        found = grouped(groups="all", internal_damping=0.0).solve(linearization(case, (0, 9)), NEVER)
        d, g = case.whole(found.direction), case.dense.gradient(case.theta)
        assert abs(d @ case.dense.gradient(case.theta + d)) < 1e-12 * abs(d @ g)
        assert d @ g < 0


def test_slopes_are_the_samples_and_not_of_an_averaged_gradient(world):
    case = make_case(world, WIDTHS, alternating(world.size, 3)[0])
    with case.grid:
        problem = linearization(case, (0, 9))
        velocity = np.random.default_rng(8).standard_normal(case.dense.n_params)
        averaged = Linearization(
            velocity[case.own_index], problem.sample, problem.regularization, problem.damping, case.grid
        )
        direction = grouped(negative_rates=True, internal_damping=1.0)
        found = direction.solve(averaged, NEVER)
        eta, d = exact_sizes(case, velocity, "tensor", 1.0)
        np.testing.assert_allclose(direction.step_sizes, eta, rtol=0, atol=1e-6 * abs(eta).max())
        np.testing.assert_allclose(case.whole(found.direction), d, rtol=0, atol=1e-6 * abs(d).max())


def of_all(period, momentum, negative):
    return GroupOptions(
        groups="all", internal_damping=1.0, rate_period=period, rate_momentum=momentum, negative_rates=negative
    )


def play(world, monkeypatch, answers, options, n_calls):
    """Factor of the gradient and note of each call, where the solver gives some answers one after the other."""
    asked = iter(answers)
    monkeypatch.setattr(grouped_newton, "step_sizes", lambda *_: next(asked))
    case = make_case(world, (3, 2, 2), alternating(world.size, 2)[0])
    with case.grid:
        direction = GroupedNewton(options, SteepestDescent())
        factors, notes = [], []
        for _ in range(n_calls):
            problem = linearization(case, (0, 5))
            found = direction.solve(problem, NEVER)
            (along, squared) = case.grid.comm.sum_scalars(
                found.direction @ problem.gradient, problem.gradient @ problem.gradient
            )
            factors.append(-along / squared)
            notes.append(found.note)
    assert next(asked, "none left") == "none left"
    return factors, notes


def test_sizes_are_renewed_by_period_and_averaged(world, monkeypatch):
    answers = [np.array([a]) for a in (2.0, 4.0, 0.0)]
    factors, notes = play(world, monkeypatch, answers, of_all(3, 0.25, False), 8)
    second = 0.25 * 2.0 + 0.75 * 4.0
    np.testing.assert_allclose(factors, [2.0] * 3 + [second] * 3 + [0.25 * second] * 2, rtol=1e-12)
    assert not any(notes)


@pytest.mark.parametrize("negative", [False, True])
def test_negative_sizes_are_averaged_but_not_used(world, monkeypatch, negative):
    answers = [np.array([a]) for a in (-2.0, 6.0, -6.0)]
    factors, _ = play(world, monkeypatch, answers, of_all(1, 0.5, negative), 3)
    np.testing.assert_allclose(factors, [-2.0 if negative else 0.0, 2.0, -2.0 if negative else 0.0], rtol=1e-12)


def test_without_a_solution_the_last_sizes_stay_and_a_note_says_so(world, monkeypatch):
    answers = [None, None, np.array([3.0]), None, np.array([1.0])]
    factors, notes = play(world, monkeypatch, answers, of_all(2, 0.0, False), 7)
    # asked at each call until there are sizes, then at calls 4 and 6 (counted from 0)
    np.testing.assert_allclose(factors, [0.0, 0.0, 3.0, 3.0, 3.0, 3.0, 1.0], rtol=1e-12)
    assert notes == [NO_STEP_SIZES, NO_STEP_SIZES, "", "", NO_STEP_SIZES, "", ""]


def test_rank_zero_decides_for_all(world, monkeypatch):
    # each rank would find another number, or none
    mine = np.array([2.0]) if world.rank == 0 else None if world.rank % 2 else np.array([7.0])
    factors, notes = play(world, monkeypatch, [mine], of_all(1, 0.5, False), 1)
    assert factors == pytest.approx([2.0])
    assert notes == [""]


class Noting(Direction):
    """A direction that has something to say at every other call."""

    name = "test"
    stops_early = averages_gradient = apart = False

    def __init__(self, curvature):
        self.curvature, self.n_rows = curvature, []

    def solve(self, problem, termination):
        self.n_rows.append(problem.jacobian.n_out)
        note = "" if len(self.n_rows) % 2 else "mended"
        return DirectionResult(-problem.gradient, note=note)


@pytest.mark.parametrize(
    ("curvature", "sketch", "n_rows"), [("jacobian", 0, 3), ("jacobian", 2, 2), ("roots", 0, 3), ("roots", 2, 2)]
)
def test_rate_steps_linearize_for_directions_with_curvature_and_record_notes(world, curvature, sketch, n_rows):
    case = make_case(world, (4, 5, 3), alternating(world.size, 2)[0], loss="cross_entropy")
    with case.grid:
        direction = Noting(curvature)
        options = RateOptions(0.1, sketch=sketch)
        stage = RateSteps(case.objective, direction, Batches(9, 5, 0), 3, options)
        stage.start(case.params, None)
        record = IterationRecord(1, 0.0, 0.0, 0.0)
        stage.iterate(record)
        assert direction.n_rows == [n_rows] * 3
        assert record.note == "1 of 3 batches: mended"


def blobs(n=120, n_features=6, n_classes=3):
    rng = np.random.default_rng(0)
    y = rng.integers(n_classes, size=n)
    return 2 * rng.standard_normal((n_classes, n_features))[y] + rng.standard_normal((n, n_features)), y


@pytest.mark.parametrize(("proposal", "dtype"), list(zip(PROPOSALS, 4 * ["float32", "float64"], strict=True)))
def test_runs_from_the_configuration_learn(world, proposal, dtype):
    X, y = blobs()
    config = distnewton.make_config({
        "network": {"layers": ["auto", 8, 5, "auto"], "activation": "tanh"},
        "run": {"iterations": 4, "dtype": dtype, "deterministic": True, "threads": 1},
        "method": {"direction": "grouped_newton", "proposal": proposal, "batch": 40, "rate_period": 2, "steps": 5,
                   "learning_rate": 0.3},
    })  # fmt: skip
    result = distnewton.train(config, world, train_data=distnewton.ArraySource(X, y))
    history = [record.objective for record in result.history]
    assert history[-1] < 0.9 * history[0]
    assert result.last.direction.method == "grouped_newton"
    same = result.last.objective == world.broadcast_json(result.last.objective)
    assert not world.any(not same)
    result.model.grid.free()


def config(*settings):
    return load_config(None, ["method.direction=grouped_newton", *(f"method.{s}" for s in settings)]).method


def test_the_options_of_the_proposal_count():
    used = {p: config(f"proposal={p}").used() for p in PROPOSALS}
    of_cg = {"cg_tolerance", "cg_max", "cg_min", "cg_stop", "warm_start", "preconditioner"}
    for proposal, names in used.items():
        assert {"groups", "proposal", "internal_damping", "rate_period", "rate_momentum", "learning_rate"} <= names
        assert ("momentum" in names) == (proposal == "sgd")
        assert ("beta1" in names) == (proposal == "adam")
        assert (of_cg <= names) == (proposal in {"block_diagonal", "gauss_newton"})
        assert ("blocks" in names) == (proposal in {"block_diagonal", "block_dual"})
        assert ("sketch" in names) == (proposal in PROPOSALS[4:])
        assert ("damping" in names) == (proposal in PROPOSALS[2:])
        assert ("statistics_decay" in names) == (proposal in PROPOSALS[2:4])
        assert not names & {"finish_fraction", "kl_clip", "drop", "boost", "combine", "subsample", "solver"}
    assert {"statistics_decay", "inverse_period"} <= config("proposal=gauss_newton", "preconditioner=kfac").used()


def test_presets_come_with_the_proposal():
    assert (config().learning_rate, config().batch) == (0.1, 256)
    assert (config("proposal=kfac").damping, config("proposal=kfac").inverse_period) == (0.01, 20)
    assert (config("proposal=kfac").average, config("proposal=adam").learning_rate) == (0.0, 0.1)
    assert (config("proposal=gauss_newton").damping, config("proposal=gauss_newton").cg_max) == (0.1, 10)
    assert config("proposal=gauss_newton", "damping=2").damping == 2.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["momentum=0.5", "proposal=adam"], "momentum has no effect with direction = grouped_newton, proposal = adam"),
        (["momentum=0.5", "proposal=kfac"], "momentum has no effect with direction = grouped_newton, proposal = kfac"),
        (["beta1=0.5"], "beta1 has no effect with direction = grouped_newton, proposal = sgd; it is for "
                        "grouped_newton, adam"),
        (["cg_max=5", "proposal=dual"], "cg_max has no effect with direction = grouped_newton, proposal = dual"),
        (["finish_fraction=0.5", "proposal=block_diagonal"], "finish_fraction has no effect with direction = "
                                                             "grouped_newton; it is for block_diagonal, sgn"),
        (["sketch=2", "proposal=kfac"], "sketch has no effect with"),
        (["mini_blocks=neuron", "proposal=gauss_newton"], "proposal = gauss_newton, preconditioner = none; it is for"),
        (["proposal=grouped_newton"], "method.proposal"),
        (["proposal=sgn"], "method.proposal"),
    ],
)  # fmt: skip
def test_useless_options_are_refused(settings, message):
    with pytest.raises(ConfigError) as caught:
        config(*settings)
    assert message in str(caught.value)


def test_a_dual_proposal_too_large_for_memory_is_refused(world):
    X, y = blobs()
    config = distnewton.make_config({
        "network": {"layers": ["auto", 200, "auto"]},
        "run": {"iterations": 1, "memory_mb": 1.0, "threads": 1},
        "method": {"direction": "grouped_newton", "proposal": "dual", "batch": 120},
    })  # fmt: skip
    with pytest.raises(ConfigError, match="the dual direction solves for 120 samples x 3 rows"):
        distnewton.train(config, world, train_data=distnewton.ArraySource(X, y))
