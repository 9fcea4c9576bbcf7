"""Weights of samples: whole numbers are repeated samples, in the objective, its curvature and whole runs."""

from __future__ import annotations

import numpy as np
import pytest
from convolutional import Conv
from dense import DenseProblem
from problems import alternating, dense_system, linearization, make_case, make_image_case, named_direction, weigh

import distnewton
from distnewton.errors import DataError
from distnewton.parallel.termination import NEVER

pytestmark = pytest.mark.mpi(min_size=1)

COUNTS = np.array([1, 0, 3, 2, 1, 1, 0, 2, 4])
NETWORKS = [((4, 3, 5, 3), "cross_entropy"), ((5, 4, 3, 2), "squared"), ((3, 4, 2, 1), "logistic"),
            ((4, 3, 2, 3), "logistic")]  # fmt: skip
SOLVED = {"dual": {}, "gauss_newton": {"cg_tolerance": 1e-13, "cg_max": 300}}


def repeated(case, widths, loss):
    """The dense problem in which a sample is there as often as its weight says."""
    dense = case.dense
    return DenseProblem(widths, "tanh", loss, np.repeat(dense.X, COUNTS, 0), np.repeat(dense.y, COUNTS, 0), dense.C)


@pytest.mark.parametrize(("widths", "loss"), NETWORKS)
def test_objective_gradient_and_curvature_are_those_of_repeated_samples(world, widths, loss):
    for splits in alternating(world.size, 3):
        case = weigh(make_case(world, widths, splits, loss=loss), COUNTS)
        oracle = repeated(case, widths, loss)
        with case.grid:
            evaluation = case.objective.evaluate(case.params, (2, 7))
            assert evaluation.targets.dtype.names is None
            value = evaluation.loss + case.theta @ case.theta / (2 * oracle.C)
            assert case.agree(value == pytest.approx(oracle.value(case.theta), rel=1e-12))
            gradient = case.whole(case.objective.gradient(evaluation))
            np.testing.assert_allclose(gradient, oracle.gradient(case.theta), rtol=0, atol=1e-13)
            everything = list(range(len(oracle.X)))
            A = oracle.gauss_newton(case.theta, everything) + 0.5 * np.eye(oracle.n_params)
            exact = np.linalg.solve(A, -oracle.gradient(case.theta))
            for name, options in list(SOLVED.items())[: 2 if loss == "cross_entropy" else 1]:
                direction = named_direction(name, **options)
                problem = linearization(case, (0, len(COUNTS)), rooted=direction.curvature == "roots")
                found = case.whole(direction.solve(problem, NEVER).direction)
                np.testing.assert_allclose(found, exact, rtol=0, atol=1e-9)


@pytest.mark.parametrize("recomputed", [False, True])
def test_curvature_of_a_part_has_the_scale_of_the_whole(world, recomputed):
    rows, C = (2, 7), 5.0
    widths, loss = NETWORKS[0]
    for splits in alternating(world.size, 3):
        case = weigh(make_case(world, widths, splits, loss=loss, C=C), COUNTS)
        with case.grid:
            problem = linearization(case, rows, curvature=not recomputed)
            v = np.random.default_rng(1).standard_normal(case.dense.n_params)
            (Jv,), B = problem.sample.products([v[case.own_index]])
            found = float(np.vdot(Jv, B.matvec(Jv))) / problem.n_samples
            J = case.dense.jacobian(case.theta, list(range(*rows)))
            Bs = case.dense.analytic_loss_hessians(case.theta, list(range(*rows)))
            w = (COUNTS / COUNTS.mean())[slice(*rows)]
            exact = sum(k * v @ j.T @ b @ j @ v for k, j, b in zip(w, J, Bs, strict=True)) / len(w)
            assert case.agree(found == pytest.approx(exact, rel=1e-10))


def test_equal_weights_change_nothing_and_weights_of_zero_leave_the_regularisation(world):
    case = make_case(world, (4, 3, 5, 3), (1, world.size, 1, 1), loss="cross_entropy")
    with case.grid:
        A, b = dense_system(case, (0, 9), 0.5)
        weigh(case, np.full(9, 0.1))
        problem = linearization(case, (0, 9), rooted=True)
        found = case.whole(named_direction("dual").solve(problem, NEVER).direction)
        np.testing.assert_allclose(found, np.linalg.solve(A, b), rtol=0, atol=1e-10)
    case = weigh(make_case(world, (4, 3, 5, 3), (1, world.size, 1, 1), loss="cross_entropy"), COUNTS)
    with case.grid:
        # sample 6 alone, whose weight is 0: no curvature but the shift
        problem = linearization(case, (6, 7), rooted=True)
        found = named_direction("dual").solve(problem, NEVER).direction
        assert case.agree(np.allclose(found, -problem.gradient / problem.shift, rtol=1e-12, atol=0))
        for name in ("kfac", "mini_block_fisher"):
            problem = linearization(case, (6, 7), curvature=False)
            found = named_direction(name).solve(problem, NEVER).direction
            assert case.agree(np.allclose(found, -problem.gradient / problem.shift, rtol=1e-9, atol=0))


def images_and_labels():
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=30)
    return rng.standard_normal((3, 36))[y] + 0.7 * rng.standard_normal((30, 36)), y


RUNS = {
    # K-FAC draws cotangents for each sample, so that copies have others
    "block_diagonal": {"preconditioner": "none", "sketch": 0},
    "gauss_newton": {"cg_max": 5},
    "recomputed": {"direction": "gauss_newton", "jacobian": "recomputed", "cg_max": 5},
    "preconditioned": {"direction": "gauss_newton", "preconditioner": "mini_block_fisher", "cg_max": 5},
    "dual": {},
    "block_dual": {"blocks": "layer"},
    "sgn": {"batch": 1000, "steps": 1, "sketch": 0, "preconditioner": "none", "solver": "gauss_newton"},
    "mini_block_fisher": {"batch": 1000},
    "neurons": {"direction": "mini_block_fisher", "mini_blocks": "neuron", "batch": 1000},
    "grouped_newton": {"batch": 1000, "proposal": "sgd"},
    "sgd": {"batch": 1000},
    "adam": {"batch": 1000, "learning_rate": 0.05},
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, "dense") for name in RUNS), *((name, "images") for name in ("block_dual", "preconditioned", "adam"))],
)
def test_runs_with_whole_weights_are_those_with_repeated_samples(world, name, kind):
    X, y = images_and_labels()
    counts = np.random.default_rng(1).integers(4, size=len(y))
    layers = {"layers": ["auto", 6, 4, "auto"]}
    if kind == "images":
        convolution = {"type": "conv", "channels": 2, "kernel": 3}
        layers = {"layers": [convolution, {"type": "avg_pool", "size": 2}, {"type": "dense", "width": "auto"}]}
        layers["input"] = [1, 6, 6]
    method = {"direction": name, "subsample": 1.0} | RUNS[name]
    if name not in ("block_diagonal", "gauss_newton", "recomputed", "preconditioned", "dual", "block_dual"):
        del method["subsample"]
    config = distnewton.make_config({
        "network": layers,
        "method": {"C": "0.5 l", **method},
        # automatic splits depend on the number of samples
        "partition": {"splits": [world.size, 1, world.size, 1] if kind == "dense" else "auto"},
        "run": {"iterations": 3, "dtype": "float64", "deterministic": True, "threads": 1},
    })
    sources = [
        distnewton.ArraySource(X, y, sample_weight=counts),
        distnewton.ArraySource(np.repeat(X, counts, 0), np.repeat(y, counts)),
    ]
    runs = [distnewton.train(config, world, train_data=source) for source in sources]
    histories = [[record.objective for record in run.history] for run in runs]
    np.testing.assert_allclose(histories[0], histories[1], rtol=1e-8)
    assert histories[0][-1] < 0.97 * histories[0][0]
    for run in runs:
        run.model.grid.free()


def test_input_moments_of_a_convolution_count_samples_by_their_weights(world):
    weights = np.array([1.0, 0, 3, 2, 0.5, 1, 0])
    case = make_image_case(world, (1, 5, 5), [Conv(2, (3, 3))], [], 3, (1, world.size, 1), loss="cross_entropy")
    with weigh(case, weights).grid:
        direction = named_direction("kfac")
        direction.solve(linearization(case, (0, 7), curvature=False), NEVER)
        found = direction.state().parts["preconditioner"].factors["inputs"].get((world.rank, 1))
        patches = np.lib.stride_tricks.sliding_window_view(case.dense.X.reshape(7, 5, 5), (3, 3), (1, 2))
        # the trace does not depend on the order of a kernel's places; 9 of them, and 9 biases of each sample
        trace = np.einsum("s,sabij->", weights, patches**2) / weights.sum() + 9
        owned = case.network.layout.blocks.get(1)
        good = owned is None or not owned.shape[1] or np.isclose(np.trace(found), trace, rtol=1e-12)
        assert case.agree(good)


def test_weights_stay_with_their_samples_where_some_are_put_aside_for_validation(world):
    X, y = images_and_labels()
    method = {"direction": "gauss_newton", "subsample": 1.0, "C": 20.0}
    run = {"iterations": 4, "dtype": "float64", "threads": 1}
    network = {"layers": ["auto", 5, "auto"]}
    split = distnewton.make_config(
        {"data": {"validation_fraction": 0.3}, "network": network, "method": method, "run": run}
    )
    from distnewton.data.folds import split_off

    stay, aside = split_off(0.0 + y, 0.3, 0, by_class=True)
    weights = np.random.default_rng(2).integers(4, size=len(y))
    # those put aside have other weights, which must not matter
    weights[aside] = 100
    given = distnewton.ArraySource(X[stay], y[stay], sample_weight=weights[stay])
    runs = [
        distnewton.train(split, world, train_data=distnewton.ArraySource(X, y, sample_weight=weights)),
        distnewton.train(distnewton.make_config({"network": network, "method": method, "run": run}), world,
                         train_data=given),
    ]  # fmt: skip
    histories = [[record.objective for record in run.history] for run in runs]
    np.testing.assert_allclose(histories[0], histories[1], rtol=1e-10)
    for run in runs:
        run.model.grid.free()


@pytest.mark.parametrize(
    ("weights", "message"),
    [([1, 2], "a sample_weight for each of 3"), ([1, -1, 1], "sample 1: sample_weight is -1"),
     ([1, np.nan, 1], "at least 0"), ([0, 0, 0], "positive and finite")],
)  # fmt: skip
def test_weights_that_mean_nothing_are_refused(weights, message):
    with pytest.raises(DataError, match=message):
        distnewton.ArraySource(np.ones((3, 2)), [0, 1, 0], sample_weight=weights)


def test_a_drawn_part_without_weight_is_refused_by_all(world):
    X, y = images_and_labels()
    rows = np.random.Generator(np.random.Philox(key=0, counter=[0, 2, 0, 0])).permutation(30)[:10]
    weights = np.ones(30)
    weights[rows] = 0
    config = distnewton.make_config({"data": {"n_train": 10}})
    with pytest.raises(DataError, match="the weights of all 10 samples are 0"):
        distnewton.train(config, world, train_data=distnewton.ArraySource(X, y, sample_weight=weights))
