"""Derivatives along groups against Cauchy's integrals of the dense objective, on every grid."""

from __future__ import annotations

import numpy as np
import pytest
from groups import dense_summary, positions
from problems import alternating, linearization, make_case

from distnewton.backend import Backend
from distnewton.curvature.group_summaries import GROUPS, ParameterGroups
from distnewton.curvature.point import Point
from distnewton.curvature.sample import CurvatureSample
from distnewton.guards.ledger import allreduce_bytes
from distnewton.network.losses import LOSSES
from distnewton.network.network import PartitionedNetwork
from distnewton.parallel.partition import Partition

pytestmark = pytest.mark.mpi(min_size=1, sizes=(4,))

ROWS = (2, 8)
NETWORKS = [
    ((4, 3, 4, 2), "tanh", "squared"),
    ((4, 3, 2, 3), "sigmoid", "cross_entropy"),
    ((3, 4, 3, 2, 1), "softplus", "logistic"),
    ((3, 1), "tanh", "logistic"),
    ((4, 5, 3), "relu", "cross_entropy"),
    ((2, 3, 2, 2), "identity", "squared"),
    ((1, 2, 3), "tanh", "cross_entropy"),
]


def draw(case, seed=3):
    return 0.5 * np.random.default_rng(seed).standard_normal(case.dense.n_params)


def check(case, kind, expected=None, rtol=1e-7):
    """Compare on one grid; returns what the next grid of the same problem is compared with."""
    u = draw(case)
    problem = linearization(case, ROWS, curvature=False)
    groups = ParameterGroups(kind, case.grid.partition, case.grid.rank)
    found = problem.sample.summarise(u[case.own_index], groups, problem.regularization)
    gradient, H, third = expected or dense_summary(case, u, kind, ROWS)
    assert len(gradient) == groups.n_groups
    np.testing.assert_allclose(found.gradient, gradient, rtol=0, atol=rtol * abs(gradient).max())
    np.testing.assert_allclose(found.hessian, H, rtol=0, atol=rtol * abs(H).max())
    np.testing.assert_allclose(found.third, third, rtol=0, atol=rtol * max(abs(H).max(), abs(third).max()))
    assert np.array_equal(found.hessian, found.hessian.T)
    # groups by rank are others on each grid
    return None if kind == "rank" else (gradient, H, third)


@pytest.mark.parametrize(("widths", "activation", "loss"), NETWORKS)
@pytest.mark.parametrize("kind", GROUPS)
def test_derivatives_equal_the_dense_ones_on_every_grid(world, widths, activation, loss, kind):
    expected = None
    for splits in alternating(world.size, len(widths) - 1):
        case = make_case(world, widths, splits, activation=activation, loss=loss)
        with case.grid:
            expected = check(case, kind, expected)


@pytest.mark.parametrize("kind", GROUPS)
def test_sparse_features(world, kind):
    for splits in alternating(world.size, 2):
        case = make_case(world, (7, 3, 2), splits, loss="cross_entropy", sparse=True)
        with case.grid:
            check(case, kind)


def test_class_targets_of_the_squared_loss(world):
    for splits in alternating(world.size, 2):
        case = make_case(world, (4, 3, 3), splits, loss="cross_entropy")
        with case.grid:
            case.objective.loss, case.dense.loss = LOSSES["squared"], "squared"
            check(case, "tensor")


@pytest.mark.parametrize("kind", GROUPS)
def test_float32(world, kind):
    for splits in alternating(world.size, 3):
        case = make_case(world, (4, 3, 4, 2), splits)
        with case.grid:
            network = PartitionedNetwork(case.grid, "tanh", Backend.of("float32"))
            params, u = case.params.astype(np.float32), draw(case)
            X, y = case.objective.X.astype(np.float32), case.objective.targets.astype(np.float32)
            sample = CurvatureSample(Point(network, params, network.forward(params, X), LOSSES["squared"], y))
            groups = ParameterGroups(kind, case.grid.partition, case.grid.rank)
            found = sample.summarise(u[case.own_index].astype(np.float32), groups, 1 / case.dense.C)
            for value, exact in zip(
                (found.gradient, found.hessian, found.third), dense_summary(case, u, kind, (0, 9)), strict=True
            ):
                assert value.dtype == np.float64
                np.testing.assert_allclose(value, exact, rtol=0, atol=1e-5 * abs(exact).max())


def test_one_message_a_boundary_and_two_at_the_end(world):
    for splits in alternating(world.size, 3):
        case = make_case(world, (4, 5, 4, 2), splits)
        with case.grid:
            problem = linearization(case, ROWS, curvature=False)
            problem.sample.loss_cotangents()
            groups = ParameterGroups("tensor", case.grid.partition, case.grid.rank)
            case.grid.ledger.take()
            with case.grid.ledger.phase("direction"):
                problem.sample.summarise(draw(case)[case.own_index], groups, problem.regularization)
            cost = case.grid.ledger.take()["direction"]
            # groups up to layer m: 2 m; first and second derivatives of 6 samples
            hidden = {(m, j): 2 * 2 * m * 6 * case.grid.group_width(m, j) for m in (1, 2) for j in case.grid.groups(m)}
            members = {key: len(case.grid.partition.boundary(*key)) for key in hidden}
            sizes = [(n, members[key]) for key, n in hidden.items() if n and members[key] > 1]
            sizes += [(2 * 6 * 6 * 2, world.size), (6 + 6 + 36, world.size)] if world.size > 1 else []
            assert not world.any(cost.n_messages != len(sizes))
            expected = sum(allreduce_bytes(8 * n, ranks) for n, ranks in sizes)
            assert not world.any(abs(cost.sent_bytes - expected) > 1e-9)


def test_all_ranks_hold_the_same_numbers(world):
    case = make_case(world, (5, 4, 3), alternating(world.size, 2)[0], loss="cross_entropy")
    with case.grid:
        problem = linearization(case, ROWS, curvature=False)
        groups = ParameterGroups("tensor", case.grid.partition, case.grid.rank)
        found = problem.sample.summarise(draw(case)[case.own_index], groups, problem.regularization)
        mine = np.concatenate([found.gradient, found.third, found.hessian.ravel()])
        table = case.grid.comm.allgather(mine)
        assert not world.any(not (table == mine).all())


def test_ranks_without_variables_have_zero_rows(world):
    # one feature, one neuron: of more than one rank, at least one owns nothing
    case = make_case(world, (1, 1), (1, world.size) if world.size > 1 else (1, 1))
    with case.grid:
        idle = case.grid.partition.idle_ranks()
        assert idle == list(range(1, world.size))
        problem = linearization(case, ROWS, curvature=False)
        groups = ParameterGroups("rank", case.grid.partition, case.grid.rank)
        found = problem.sample.summarise(draw(case)[case.own_index], groups, problem.regularization)
        assert found.hessian[0, 0] > 0
        assert not found.hessian[idle].any()
        assert not found.gradient[idle].any()


def test_groups_know_their_layers_and_scale_their_own():
    partition = Partition((4, 3, 2), (2, 1, 2))
    assert ParameterGroups("tensor", partition, 0).first_layers == [1, 1, 2, 2]
    assert ParameterGroups("kind", partition, 1).first_layers == [1, 1]
    assert ParameterGroups("rank", partition, 1).first_layers == [1, 1]
    # the second rank owns inputs of the first layer but no bias there, and half of the last layer with its bias
    groups = ParameterGroups("tensor", partition, 1)
    assert (groups.weights, groups.biases) == ({1: {1: 0}, 2: {1: 2}}, {2: {1: 3}})
    idle = ParameterGroups("rank", Partition((1, 1, 2), (2, 1, 2)), 0)
    assert idle.first_layers == [1, 2]
    with pytest.raises(ValueError, match="groups must be one of tensor, kind, rank, all, got 'layers'"):
        ParameterGroups("layers", partition, 0)


def test_scaling_is_by_group_and_keeps_the_vector(world):
    for splits in alternating(world.size, 2):
        case = make_case(world, (4, 3, 2), splits)
        with case.grid:
            u = draw(case)
            for kind in GROUPS:
                groups = ParameterGroups(kind, case.grid.partition, case.grid.rank)
                factors = 2.0 + np.arange(groups.n_groups)
                expected = u.copy()
                for index, factor in zip(positions(case, kind), factors, strict=True):
                    expected[index] *= factor
                local = u[case.own_index]
                scaled = case.whole(groups.scaled(case.network.layout, factors, local))
                np.testing.assert_array_equal(scaled, expected)
                assert not world.any(not np.array_equal(local, u[case.own_index]))
