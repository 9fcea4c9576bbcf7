"""Convolutional networks against sums over windows, on every grid: operators, directions, factors, whole runs."""

from __future__ import annotations

import numpy as np
import pytest
from convolutional import Conv
from dense import history
from groups import dense_summary
from problems import alternating, dense_system, linearization, make_image_case, named_direction, newton_trainer
from scipy.linalg import block_diag

from distnewton.curvature.group_summaries import GROUPS, ParameterGroups
from distnewton.curvature.jacobian import linearize
from distnewton.curvature.operators import BlockGaussNewton
from distnewton.directions.mini_block_fisher import MiniBlockOptions
from distnewton.directions.registry import PRECONDITIONERS
from distnewton.method.batches import Subsamples
from distnewton.parallel.termination import NEVER

pytestmark = pytest.mark.mpi(min_size=1, sizes=(3,))

MAX2 = ("max_pool", (2, 2), (2, 2))
NETWORKS = {
    # image, convolutions, hidden widths, outputs, activation, loss
    "max pooling, padding": ((1, 6, 5), [Conv(2, (3, 3), padding=(1, 1), pool=MAX2)], (), 3, "tanh", "cross_entropy"),
    "two, rectangular": (
        (2, 6, 7),
        [Conv(3, (2, 3), padding=(1, 0), pool=MAX2), Conv(2, (1, 2), stride=(1, 1))],
        (4,),
        2,
        "sigmoid",
        "squared",
    ),
    "stride, average": (
        (3, 7, 5),
        [Conv(2, (3, 2), stride=(2, 1), pool=("avg_pool", (2, 2), (1, 2))), Conv(3, (1, 1))],
        (),
        2,
        "softplus",
        "squared",
    ),
    "overlapping windows": (
        (1, 8, 7),
        [Conv(3, (3, 3), pool=("max_pool", (3, 2), (2, 1))), Conv(2, (2, 2), pool=("avg_pool", (1, 2), (1, 2)))],
        (3,),
        1,
        "relu",
        "logistic",
    ),
    "three, one channel wide": (
        (2, 4, 4),
        [Conv(1, (2, 2), padding=(1, 1)), Conv(4, (3, 3), stride=(2, 2), padding=(1, 1)), Conv(1, (1, 1))],
        (2,),
        3,
        "identity",
        "cross_entropy",
    ),
}
ROWS = (2, 6)


def cases(world, name, **options):
    image_shape, convs, hidden, n_out, activation, loss = NETWORKS[name]
    for splits in alternating(world.size, len(convs) + len(hidden) + 1):
        case = make_image_case(
            world, image_shape, convs, hidden, n_out, splits, activation=activation, loss=loss, **options
        )
        with case.grid:
            yield case


@pytest.mark.parametrize("memory", [1e9, 3000.0])
@pytest.mark.parametrize("name", NETWORKS)
def test_value_gradient_and_products_equal_the_plain_ones(world, name, memory):
    for case in cases(world, name, memory=memory):
        check_operators(case)


def check_operators(case):
    rows = list(range(*ROWS))
    evaluation = case.objective.evaluate(case.params, ROWS)
    outputs = np.concatenate([evaluation.outputs[s:t] for (s, t), _ in sorted(evaluation.chunks, key=lambda c: c[0])])
    np.testing.assert_allclose(outputs, case.dense.outputs(case.theta), rtol=0, atol=1e-12)
    gradient = case.whole(case.objective.gradient(evaluation))
    np.testing.assert_allclose(gradient, case.dense.gradient(case.theta), rtol=0, atol=1e-11)
    activations = evaluation.subsample[1]
    jacobian = linearize(case.network, case.params, activations)
    J = case.dense.jacobian(case.theta, rows)
    rng = np.random.default_rng(1)
    v, U = rng.standard_normal(case.dense.n_params), rng.standard_normal((4, J.shape[1]))
    own = case.own_index
    Jv = case.grid.comm.sum_inplace(jacobian.matvec(v[own]))
    np.testing.assert_allclose(Jv, J @ v, rtol=0, atol=1e-10)
    np.testing.assert_allclose(case.network.tangent(case.params, activations, v[own]), J @ v, rtol=0, atol=1e-10)
    JtU = case.whole(jacobian.rmatvec(U, np.empty(len(own))))
    np.testing.assert_allclose(JtU, np.einsum("sk,skp->p", U, J), rtol=0, atol=1e-10)
    hessian = case.objective.loss.hessian(activations.output, case.objective.targets[slice(*ROWS)])
    G = case.dense.gauss_newton(case.theta, rows) + 0.3 * np.eye(len(v))
    product = BlockGaussNewton(jacobian, hessian, 1 / case.dense.C + 0.3).matvec(v[own])
    assert case.agree(np.allclose(product, G[np.ix_(own, own)] @ v[own], rtol=0, atol=1e-10))


@pytest.mark.parametrize("name", NETWORKS)
def test_small_chunks_change_nothing(world, name, monkeypatch):
    monkeypatch.setattr("distnewton.network.layers.PATCH_SIZE", 100)
    monkeypatch.setattr("distnewton.network.layers.LINEAR_SIZE", 60)
    monkeypatch.setattr("distnewton.curvature.jacobian._CHUNK_SIZE", 200)
    monkeypatch.setattr("distnewton.curvature.jacobian.MESSAGE_SIZE", 100)
    for case in cases(world, name):
        check_operators(case)


@pytest.mark.parametrize("name", NETWORKS)
def test_jacobian_and_its_transpose_are_adjoint(world, name):
    for case in cases(world, name):
        evaluation = case.objective.evaluate(case.params, ROWS)
        jacobian = linearize(case.network, case.params, evaluation.subsample[1])
        rng = np.random.default_rng(0)
        u = rng.standard_normal(case.dense.n_params)[case.own_index]
        w = rng.standard_normal((4, case.network.n_out))
        Ju = case.grid.comm.sum_inplace(jacobian.matvec(u))
        Jtw = jacobian.rmatvec(w, np.empty_like(u))
        right, norms = case.grid.comm.sum_scalars(u @ Jtw, abs(u) @ abs(Jtw))
        assert abs(float(np.vdot(Ju, w)) - right) <= 1e-13 * max(1.0, norms)


@pytest.mark.parametrize("sketch", [0, 2])
@pytest.mark.parametrize("name", ["max pooling, padding", "three, one channel wide", "stride, average"])
def test_roots_and_sketches(world, name, sketch):
    rows = list(range(*ROWS))
    for case in cases(world, name):
        roots = (
            case.dense.random_roots(case.theta, rows, sketch, np.random.default_rng(4))
            if 0 < sketch < case.network.n_out
            else case.dense.exact_roots(case.theta, rows)
        )
        A, _ = dense_system(case, ROWS, 0.5, roots)
        problem = linearization(case, ROWS, sketch=sketch, rooted=True, seed=4)
        own, v = case.own_index, np.random.default_rng(2).standard_normal(case.dense.n_params)
        product = BlockGaussNewton(problem.jacobian, problem.loss_hessian, problem.shift).matvec(v[own])
        assert case.agree(np.allclose(product, A[np.ix_(own, own)] @ v[own], rtol=0, atol=1e-10))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("direction", ["dual", "block_dual"])
def test_exact_directions_equal_the_dense_solve(world, name, direction, monkeypatch):
    for chunk in (1 << 22, 150):
        monkeypatch.setattr("distnewton.curvature.gram._CHUNK_SIZE", chunk)
        for case in cases(world, name):
            A, b = dense_system(case, ROWS, 0.5)
            problem = linearization(case, ROWS, damping=0.5, rooted=True)
            found = case.whole(named_direction(direction).solve(problem, NEVER).direction)
            blocks = [case.index_of(r) for r in range(world.size)] if direction == "block_dual" else [slice(None)]
            exact = np.zeros_like(b)
            for index in blocks:
                own = np.arange(len(b))[index]
                exact[own] = np.linalg.solve(A[np.ix_(own, own)], b[own])
            np.testing.assert_allclose(found, exact, rtol=0, atol=1e-9 * np.linalg.norm(exact))


@pytest.mark.parametrize("direction", ["block_diagonal", "gauss_newton"])
@pytest.mark.parametrize("name", NETWORKS)
def test_runs_follow_the_dense_history(world, name, direction):
    for case in cases(world, name):
        subsamples = [Subsamples(7, 4, 3).rows(k).tolist() for k in range(3)]
        blocks = (
            [case.index_of(rank) for rank in range(world.size)]
            if direction == "block_diagonal"
            else [np.arange(case.dense.n_params)]
        )
        expected = history(case.dense, case.theta, blocks, subsamples, cg_steps=5)
        options = {"cg_tolerance": 1e-13, "cg_max": 5, "cg_min": 5, "preconditioner": "none"}
        trainer = newton_trainer(case, named_direction(direction, **options), subsample=0.5, seed=3)
        values = [record.objective for record in trainer.iterations(3)][1:]
        np.testing.assert_allclose(values, expected, rtol=1e-8)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_recomputed_jacobian_gives_the_same_direction(world, name):
    for case in cases(world, name):
        stored, recomputed = (
            case.whole(
                named_direction("gauss_newton", cg_tolerance=1e-13, cg_max=6, cg_min=6, jacobian=kind)
                .solve(linearization(case, ROWS, curvature=kind == "stored"), NEVER)
                .direction
            )
            for kind in ("stored", "recomputed")
        )
        np.testing.assert_allclose(recomputed, stored, rtol=0, atol=1e-9 * np.linalg.norm(stored))


@pytest.mark.parametrize("kind", GROUPS)
@pytest.mark.parametrize("name", NETWORKS)
def test_derivatives_along_groups(world, name, kind, monkeypatch):
    expected = None
    for case in cases(world, name):
        case.dense.choose_at(case.theta, ROWS)
        u = 0.1 * np.random.default_rng(3).standard_normal(case.dense.n_params)
        problem = linearization(case, ROWS, curvature=False)
        groups = ParameterGroups(kind, case.grid.partition, case.grid.rank)
        # groups by rank are others on each grid
        if expected is None or kind == "rank":
            expected = dense_summary(case, u, kind, ROWS)
        gradient, H, third = expected
        for n_curves in (1 << 26, 200):
            monkeypatch.setattr("distnewton.curvature.group_summaries._MAX_CURVES", n_curves)
            found = problem.sample.summarise(u[case.own_index], groups, problem.regularization)
            np.testing.assert_allclose(found.gradient, gradient, rtol=0, atol=1e-7 * abs(gradient).max())
            np.testing.assert_allclose(found.hessian, H, rtol=0, atol=1e-7 * abs(H).max())
            np.testing.assert_allclose(found.third, third, rtol=0, atol=1e-6 * max(abs(H).max(), abs(third).max()))


def sample_gradients(case, rows, c):
    """Gradients of c . z of each sample in all variables."""
    return np.einsum("sk,skp->sp", c, case.dense.jacobian(case.theta, rows))


def expected_inverse(case, kind, rows, c, shift):
    """Inverse of a damped approximation over this rank's variables, by plain formulas."""
    parts, gradients = [], sample_gradients(case, rows, c)
    places = case.dense.places(case.theta, rows, c)
    for block in case.grid.partition.blocks(case.grid.rank):
        if not block.n_params:
            continue
        index = case.dense.index(block.layer, block.rows, block.outputs, block.owns_bias)
        g = gradients[:, index]
        phi, delta = places[block.layer]
        phi, delta = phi[:, :, block.rows], delta[:, :, slice(*block.outputs)]
        phi = np.concatenate([phi, np.ones((*phi.shape[:2], 1))], axis=2) if block.owns_bias else phi
        if kind == "diagonal":
            parts.append(np.diag(1 / ((g**2).mean(axis=0) + shift)))
        elif kind == "kfac":
            A = np.einsum("spa,spb->ab", phi, phi) / len(rows)
            D = np.einsum("spa,spb->ab", delta, delta) / len(rows) / phi.shape[1]
            balanced = np.trace(A) > 0 and np.trace(D) > 0
            pi = np.sqrt((np.trace(A) / len(A)) / (np.trace(D) / len(D))) if balanced else 1.0
            A, D = A + pi * np.sqrt(shift) * np.eye(len(A)), D + np.sqrt(shift) / pi * np.eye(len(D))
            parts.append(np.kron(np.linalg.inv(A), np.linalg.inv(D)))
        else:
            parts.append(np.linalg.inv(mini_blocks(case, block, g, phi, delta) + shift * np.eye(len(index))))
    return block_diag(*parts) if parts else np.zeros((0, 0))


def mini_blocks(case, block, g, phi, delta):
    """The mini-block Fisher matrix of a block, with zeros between mini-blocks."""
    n_rows, n_out = block.shape
    if block.layer > len(case.dense.convs):
        shared = np.einsum("st,sa,sb->ab", delta[:, 0] ** 2, phi[:, 0], phi[:, 0]) / len(g) / n_out
        return np.kron(shared, np.eye(n_out))
    r = block.rows_per_unit
    # the channel of each row, -1 for the bias, and the output of each variable: equal ones share a mini-block
    channel = np.repeat([*(np.arange(n_rows) % (n_rows // r)), *[-1] * block.owns_bias], n_out)
    output = np.tile(np.arange(n_out), n_rows + block.owns_bias)
    same = (channel[:, None] == channel) & (output[:, None] == output)
    return g.T @ g / len(g) * same


@pytest.mark.parametrize("kind", ["diagonal", "kfac", "mini_block_fisher"])
@pytest.mark.parametrize("name", NETWORKS)
def test_preconditioners_equal_the_plain_formulas(world, name, kind, monkeypatch):
    rows = list(range(*ROWS))
    for size in (1 << 18, 100):
        monkeypatch.setattr("distnewton.network.layers.PATCH_SIZE", size)
        for case in cases(world, name):
            preconditioner = PRECONDITIONERS[kind](MiniBlockOptions())
            preconditioner.update(linearization(case, ROWS, damping=0.3, curvature=False, seed=5))
            c = (
                case.dense.loss_gradients(case.theta, rows)
                if kind == "mini_block_fisher"
                else case.dense.random_roots(case.theta, rows, 1, np.random.default_rng(5))[:, 0]
            )
            expected = expected_inverse(case, kind, rows, c, 0.3 + 1 / case.dense.C)
            n = len(case.own_index)
            found = np.stack([preconditioner.apply(e) for e in np.eye(n)], axis=1) if n else np.zeros((0, 0))
            assert case.agree(np.allclose(found, expected, rtol=1e-8, atol=1e-10))


def test_initial_weights_are_the_same_on_every_grid(world):
    whole = None
    for case in cases(world, "two, rectangular"):
        theta = case.whole(case.network.initial_params(7, "he"))
        whole = theta if whole is None else whole
        np.testing.assert_array_equal(theta, whole)
    W, b = case.dense.matrices(whole)[0]
    assert not b.any()
    assert 0.5 < W.std() / np.sqrt(2 / 12) < 1.5
