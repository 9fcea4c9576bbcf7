"""Every grid of the communicator against the dense oracle: value, gradient, Jacobian, products, whole runs."""

from __future__ import annotations

import numpy as np
import pytest
from dense import history
from problems import alternating, make_case, named_direction, newton_trainer

from distnewton.curvature.jacobian import linearize
from distnewton.curvature.operators import BlockGaussNewton
from distnewton.method.batches import Subsamples

pytestmark = pytest.mark.mpi(min_size=1, sizes=(1, 2, 4, 7))

NETWORKS = [
    ((5, 4, 3, 2), "tanh", "squared"),
    ((5, 3, 2), "sigmoid", "cross_entropy"),
    ((3, 1), "tanh", "logistic"),
    ((4, 3, 5, 2, 3), "softplus", "cross_entropy"),
    ((2, 3, 2, 1), "relu", "logistic"),
    ((1, 2, 2), "identity", "squared"),
]


def grids(world, widths):
    return alternating(world.size, len(widths) - 1)


@pytest.mark.parametrize(("widths", "activation", "loss"), NETWORKS)
@pytest.mark.parametrize("memory", [1e9, 900.0])
def test_value_gradient_and_products_equal_the_dense_ones(world, widths, activation, loss, memory):
    for splits in grids(world, widths):
        case = make_case(world, widths, splits, activation=activation, loss=loss, memory=memory)
        with case.grid:
            check_operators(case)


def check_operators(case):
    rows = list(range(3, 7))
    evaluation = case.objective.evaluate(case.params, (3, 7))
    assert np.isclose(evaluation.loss, case.dense.mean_loss(case.theta), rtol=1e-13)
    gradient = case.whole(case.objective.gradient(evaluation))
    np.testing.assert_allclose(gradient, case.dense.gradient(case.theta), rtol=0, atol=1e-12)
    samples, activations = evaluation.subsample
    assert samples == (3, 7)
    jacobian = linearize(case.network, case.params, activations)
    J = case.dense.jacobian(case.theta, rows)
    rng = np.random.default_rng(1)
    v, U = rng.standard_normal(case.dense.n_params), rng.standard_normal((4, J.shape[1]))
    Jv = case.grid.comm.sum_inplace(jacobian.matvec(v[case.own_index]))
    np.testing.assert_allclose(Jv, J @ v, rtol=0, atol=1e-11)
    JtU = case.whole(jacobian.rmatvec(U, np.empty(len(case.own_index))))
    np.testing.assert_allclose(JtU, np.einsum("sk,skp->p", U, J), rtol=0, atol=1e-11)
    hessian = case.objective.loss.hessian(activations.output, case.objective.targets[3:7])
    G = case.dense.gauss_newton(case.theta, rows) + 0.3 * np.eye(len(v))
    own = case.own_index
    product = BlockGaussNewton(jacobian, hessian, 1 / case.dense.C + 0.3).matvec(v[own])
    assert case.agree(np.allclose(product, G[np.ix_(own, own)] @ v[own], rtol=0, atol=1e-11))


@pytest.mark.parametrize("loss", ["squared", "cross_entropy", "logistic"])
def test_loss_hessian_is_the_derivative_of_the_loss_gradient(world, loss):
    widths = (3, 2, 1) if loss == "logistic" else (3, 2, 3)
    case = make_case(world, widths, (world.size, 1, 1), loss=loss)
    with case.grid:
        rows = [0, 1, 2]
        exact = case.dense.analytic_loss_hessians(case.theta, rows)
        np.testing.assert_allclose(exact, case.dense.loss_hessians(case.theta, rows), rtol=0, atol=1e-8)
        Z = case.dense.outputs(case.theta, rows)
        V = np.random.default_rng(0).standard_normal(Z.shape)
        product = case.objective.loss.hessian(Z, case.objective.targets[:3]).matvec(V)
        np.testing.assert_allclose(product, np.einsum("kab,kb->ka", exact, V), rtol=0, atol=1e-13)


# four and seven ranks take turns on two cores: dense features meet their grids in the operators above, and whole runs
# with features that are split and that are not on two
ON_1_AND_4 = pytest.mark.mpi(min_size=1, sizes=(1, 4))
DENSE = pytest.param(False, marks=pytest.mark.mpi(min_size=1, sizes=(1, 2)), id="False")
# the operators above meet every network on every number of ranks
DEEP, PLAIN, LOGISTIC, DEEPER = NETWORKS[:4]


@pytest.mark.parametrize("sparse", [DENSE, True])
@pytest.mark.parametrize(
    ("direction", "blocks"), [("block_diagonal", "rank"), ("block_diagonal", "layer"), ("gauss_newton", "rank")]
)
@pytest.mark.parametrize(
    ("widths", "activation", "loss"), [DEEP, pytest.param(*PLAIN, marks=ON_1_AND_4), LOGISTIC, DEEPER]
)
def test_five_iterations_equal_a_dense_derivation_of_the_method(
    world, widths, activation, loss, direction, blocks, sparse
):
    for splits in grids(world, widths):
        case = make_case(world, widths, splits, activation=activation, loss=loss, n=12, sparse=sparse)
        with case.grid:
            steps = 4
            options = {"cg_tolerance": 0.0, "cg_max": steps, "cg_min": 1, "blocks": blocks, "preconditioner": "none"}
            trainer = newton_trainer(case, named_direction(direction, **options), seed=3)
            records = list(trainer.iterations(5))
            if direction == "gauss_newton":
                dense_blocks = [np.arange(case.dense.n_params)]
            elif blocks == "layer":
                dense_blocks = [b for r in range(world.size) for b in case.index_of(r, by_layer=True) if len(b)]
            else:
                dense_blocks = [b for r in range(world.size) if len(b := case.index_of(r))]
            subsamples = [Subsamples(12, 6, 3).rows(k).tolist() for k in range(5)]
            expected = history(case.dense, case.theta, dense_blocks, subsamples, cg_steps=steps)
            np.testing.assert_allclose([r.objective for r in records[1:]], expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("direction", ["block_diagonal", "gauss_newton"])
@pytest.mark.parametrize(
    ("widths", "activation", "loss"),
    # LOGISTIC has one output: fewer than ranks
    [*(pytest.param(*network, marks=ON_1_AND_4) for network in (DEEP, PLAIN)), LOGISTIC],
)
def test_nielsens_rule_from_the_curvature_equals_a_dense_derivation(world, widths, activation, loss, direction):
    for splits in grids(world, widths):
        case = make_case(world, widths, splits, activation=activation, loss=loss, n=12)
        with case.grid:
            method = named_direction(direction, cg_tolerance=0.0, cg_max=4, cg_min=1, preconditioner="none")
            trainer = newton_trainer(case, method, seed=3, damping=np.nan, nielsen=True)
            records = list(trainer.iterations(6))
            blocks = [np.arange(case.dense.n_params)]
            if direction == "block_diagonal":
                blocks = [b for r in range(world.size) if len(b := case.index_of(r))]
            subsamples = [Subsamples(12, 6, 3).rows(k).tolist() for k in range(6)]
            expected = history(case.dense, case.theta, blocks, subsamples, cg_steps=4, nielsen=True)
            np.testing.assert_allclose([r.objective for r in records[1:]], expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("scale", [1e-3, 1.0])
def test_a_first_damping_of_the_diagonal_is_a_share_of_the_curvature_in_its_metric(world, scale):
    for splits in grids(world, NETWORKS[0][0]):
        case = make_case(world, NETWORKS[0][0], splits, n=12)
        case.theta *= scale
        with case.grid:
            method = named_direction("gauss_newton", damping_form="diagonal")
            trainer = newton_trainer(case, method, subsample=1.0, damping=np.nan, nielsen=True)
            record = list(trainer.iterations(1))[1]
            g, G = case.dense.gradient(case.theta), case.dense.gauss_newton(case.theta, list(range(12)))
            assert record.damping == pytest.approx(0.1 * (g @ G @ g) / (g @ (np.diag(G) * g)))
