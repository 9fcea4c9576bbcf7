"""Adjointness, symmetry, slopes: properties that hold for every size, smaller than the grid or uneven."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import alternating, make_case

from distnewton.backend import Backend
from distnewton.curvature.factors import IdentityFactor, ScaledFactor, StoredFactor
from distnewton.curvature.jacobian import linearize
from distnewton.curvature.operators import BlockGaussNewton
from distnewton.network.activations import ACTIVATIONS
from distnewton.network.losses import LOSSES

pytestmark = pytest.mark.mpi(min_size=1, sizes=(2, 3, 4, 7))

problems = st.tuples(
    st.lists(st.integers(1, 6), min_size=2, max_size=5), st.sampled_from(sorted(ACTIVATIONS)), st.integers(0, 99)
)


@settings(max_examples=12)
@given(problems)
def test_jacobian_and_gauss_newton_are_adjoint_and_symmetric(drawn):
    # a fixture would be shared by all examples, which hypothesis refuses
    world = world_communicator()
    widths, activation, seed = drawn
    for splits in alternating(world.size, len(widths) - 1):
        case = make_case(world, widths, splits, activation=activation, loss="cross_entropy", seed=seed)
        with case.grid:
            evaluation = case.objective.evaluate(case.params, (2, 7))
            jacobian = linearize(case.network, case.params, evaluation.subsample[1])
            rng = np.random.default_rng(seed)
            u = rng.standard_normal(case.dense.n_params)[case.own_index]
            v = rng.standard_normal(case.dense.n_params)[case.own_index]
            w = rng.standard_normal((5, widths[-1]))
            Ju = case.grid.comm.sum_inplace(jacobian.matvec(u))
            Jtw = jacobian.rmatvec(w, np.empty_like(u))
            left, (right, norms) = float(np.vdot(Ju, w)), case.grid.comm.sum_scalars(u @ Jtw, abs(u) @ abs(Jtw))
            assert abs(left - right) <= 1e-13 * max(1.0, norms, float(np.vdot(abs(Ju), abs(w))))
            hessian = LOSSES["cross_entropy"].hessian(evaluation.subsample[1].output, case.objective.targets[2:7])
            G = BlockGaussNewton(jacobian, hessian, 0.1)
            Gu, Gv = G.matvec(u).copy(), G.matvec(v).copy()
            assert case.agree(abs(u @ Gv - v @ Gu) <= 1e-12 * max(1.0, abs(u) @ abs(Gv)))
            assert case.agree(u @ Gu >= 0.1 * (u @ u) * (1 - 1e-12))
    world.free()


def world_communicator():
    from mpi4py import MPI

    from distnewton.parallel.collectives import Communicator

    return Communicator(MPI.COMM_WORLD).duplicate()


@pytest.mark.parametrize("loss", ["squared", "cross_entropy", "logistic"])
def test_taylor_remainders_fall_at_their_order(world, loss):
    widths = (4, 5, 3, 1 if loss == "logistic" else 3)
    case = make_case(world, widths, alternating(world.size, 3)[0], loss=loss)
    with case.grid:
        direction = np.random.default_rng(5).standard_normal(case.dense.n_params)[case.own_index]
        start = case.objective.evaluate(case.params, (0, 4))
        gradient = case.objective.gradient(start)
        jacobian = linearize(case.network, case.params, start.subsample[1])
        (slope,) = case.grid.comm.sum_scalars(gradient @ direction)
        Jd = case.grid.comm.sum_inplace(jacobian.matvec(direction))

        def value(params):
            evaluation = case.objective.evaluate(params, (0, 4))
            (squared,) = case.grid.comm.sum_scalars(params @ params)
            return evaluation.loss + squared / (2 * case.dense.C), evaluation.subsample[1].output

        f, z = value(case.params)
        steps = np.array([1e-2, 1e-3])
        moved = [value(case.params + t * direction) for t in steps]
        first = [abs(g - f - t * slope) for t, (g, _) in zip(steps, moved, strict=True)]
        outer = [np.linalg.norm(y - z - t * Jd) for t, (_, y) in zip(steps, moved, strict=True)]
        assert 1.9 < np.log10(first[0] / first[1]) < 2.1
        assert 1.9 < np.log10(outer[0] / outer[1]) < 2.1


def test_factors_equal_their_dense_form():
    rng, backend = np.random.default_rng(0), Backend.of("float64")
    factors = [
        (IdentityFactor((1, 3), 5, 4, backend), 2),
        (ScaledFactor(rng.standard_normal((5, 3)), rng.standard_normal((3, 4))), 3),
        (StoredFactor(rng.standard_normal((5, 4, 6)), backend), 6),
    ]
    for factor, width in factors:
        D, P, U = factor.dense(), rng.standard_normal((5, width)), rng.standard_normal((5, 4))
        assert D.shape == (5, 4, width)
        np.testing.assert_array_equal(factor.dense(slice(1, 3)), D[1:3])
        out, T = rng.standard_normal((5, 4)), np.empty((5, width))
        expected = out + np.einsum("skt,st->sk", D, P)
        factor.contract(P, out)
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-13)
        factor.expand(U, T)
        np.testing.assert_allclose(T, np.einsum("sk,skt->st", U, D), rtol=0, atol=1e-13)
