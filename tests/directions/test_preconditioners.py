"""Preconditioners against the dense formulas of their blocks: factors, damping, averages, wide layers, positivity."""

from __future__ import annotations

import numpy as np
import pytest
from problems import alternating, linearization, make_case, named_direction, weigh
from scipy.linalg import block_diag

from distnewton.directions.mini_block_fisher import MiniBlockOptions
from distnewton.directions.moments import blend
from distnewton.directions.registry import PRECONDITIONERS
from distnewton.parallel.termination import NEVER

pytestmark = pytest.mark.mpi(min_size=1, sizes=(4,))

NETWORKS = [((4, 3, 5, 3), "cross_entropy"), ((5, 4, 3, 2), "squared"), ((3, 4, 2, 1), "logistic")]
KINDS = ["diagonal", "kfac", "mini_block_fisher layer", "mini_block_fisher neuron"]
ROWS = (1, 8)


def make(kind, **options):
    name, _, mini_blocks = kind.partition(" ")
    if "decay" in options:
        options["statistics_decay"] = options.pop("decay")
    return PRECONDITIONERS[name](MiniBlockOptions(mini_blocks=mini_blocks or "layer", **options))


def cotangents(case, kind, rows, jacobian, generator):
    """Output cotangents of each sample: its loss gradient, or a random one with E[c c^T] = B."""
    dense, theta = case.dense, case.theta
    if kind.startswith("mini_block"):
        return dense.loss_gradients(theta, rows)
    if jacobian in {"none", "all"}:
        return dense.random_roots(theta, rows, 1, generator)[:, 0]
    roots = dense.random_roots(theta, rows, 2, generator) if jacobian == "sketch" else dense.exact_roots(theta, rows)
    return np.einsum("sa,sak->sk", 2.0 * generator.integers(2, size=roots.shape[:2]) - 1, roots)


def test_an_average_of_another_form_counts_as_none():
    assert blend(np.eye(3), np.ones(3), 0.5).tolist() == [1.0, 1.0, 1.0]


def statistics(case, kind, rows, c, weights=None):
    """Averages of each own block, by plain formulas; weights are of inputs, cotangents have their roots already."""
    inputs, deltas = case.dense.layer_inputs(case.theta, rows), case.dense.deltas(case.theta, rows, c)
    made = []
    for block in case.grid.partition.blocks(case.grid.rank):
        z = inputs[block.layer][:, slice(*block.inputs)]
        z = np.column_stack([z, np.ones(len(z))]) if block.owns_bias else z
        delta = deltas[block.layer][:, slice(*block.outputs)]
        if not block.n_params:
            continue
        if kind == "diagonal":
            made.append([np.einsum("sa,st->at", z**2, delta**2) / len(z)])
        elif kind == "kfac":
            w = np.ones(len(z)) if weights is None else weights
            made.append([(z.T * w) @ z / len(z), delta.T @ delta / len(z)])
        elif kind.endswith("layer"):
            made.append([np.einsum("st,sa,sb->ab", delta**2, z, z) / z.shape[0] / delta.shape[1]])
        else:
            made.append([np.einsum("s,sa,sb->ab", d**2, z, z) / len(z) for d in delta.T])
    return made


def dense_inverse(case, kind, made, shift, max_width=99):
    """Inverse of the damped approximation over this rank's variables."""
    parts = []
    owned = [block for block in case.grid.partition.blocks(case.grid.rank) if block.n_params]
    for block, factors in zip(owned, made, strict=True):
        n_out = block.shape[1]
        if kind == "diagonal":
            parts.append(np.diag(1 / (factors[0].ravel() + shift)))
            continue
        if kind == "kfac":
            wide = [n > max_width for n in block.shape]
            factors = [np.diag(np.diag(F)) if w else F for F, w in zip(factors, wide, strict=True)]
        elif block.shape[0] > max_width:
            factors = [np.diag(np.diag(F)) for F in factors]
        if kind == "kfac":
            A, D = factors
            # the zeros of sparse features, say, have no balance to keep
            balanced = np.trace(A) > 0 and np.trace(D) > 0
            pi = np.sqrt((np.trace(A) / len(A)) / (np.trace(D) / len(D))) if balanced else 1.0
            A = A + pi * np.sqrt(shift) * np.eye(len(A))
            D = D + np.sqrt(shift) / pi * np.eye(len(D))
            parts.append(np.kron(np.linalg.inv(A), np.linalg.inv(D)))
        else:
            shared = factors * n_out if kind.endswith("layer") else factors
            units = np.eye(n_out)
            damped = [F + shift * np.eye(len(F)) for F in shared]
            parts.append(sum(np.kron(np.linalg.inv(F), np.outer(e, e)) for F, e in zip(damped, units, strict=True)))
    return block_diag(*parts) if parts else np.zeros((0, 0))


def matrix(preconditioner, case):
    """The inverse as a matrix over this rank's variables."""
    n = len(case.own_index)
    columns = [preconditioner.apply(e) for e in np.eye(n)]
    return np.stack(columns, axis=1) if n else np.zeros((0, 0))


def linearized(case, jacobian, rows=ROWS, **options):
    """A model with this much of a Jacobian."""
    kinds = {"none": {"curvature": False}, "all": {}, "sketch": {"sketch": 2}, "roots": {"rooted": True}}
    return linearization(case, rows, **kinds[jacobian], **options)


@pytest.mark.parametrize("jacobian", ["none", "all", "sketch", "roots"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("widths", "loss"), NETWORKS)
def test_inverse_equals_the_dense_formula_of_each_ranks_blocks(world, widths, loss, kind, jacobian):
    if jacobian == "sketch" and widths[-1] < 3:
        return
    for splits in alternating(world.size, 3):
        case = make_case(world, widths, splits, loss=loss, sparse=jacobian == "all")
        with case.grid:
            preconditioner = make(kind)
            preconditioner.update(linearized(case, jacobian, damping=0.3, seed=5))
            rows = list(range(*ROWS))
            c = cotangents(case, kind, rows, jacobian, np.random.default_rng(5))
            expected = dense_inverse(case, kind, statistics(case, kind, rows, c), 0.3 + 1 / case.dense.C)
            assert case.agree(np.allclose(matrix(preconditioner, case), expected, rtol=1e-9, atol=1e-11))


@pytest.mark.parametrize("jacobian", ["none", "roots"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("widths", "loss"), NETWORKS)
def test_samples_count_by_their_weights(world, widths, loss, kind, jacobian):
    counts = np.array([1.0, 0.0, 3.0, 2.0, 0.5, 1.0, 0.0, 2.0, 4.0])
    for splits in alternating(world.size, 3):
        case = weigh(make_case(world, widths, splits, loss=loss), counts)
        with case.grid:
            preconditioner = make(kind)
            preconditioner.update(linearized(case, jacobian, damping=0.3, seed=5))
            rows = list(range(*ROWS))
            weights = (counts / counts.mean())[rows]
            c = np.sqrt(weights)[:, None] * cotangents(case, kind, rows, jacobian, np.random.default_rng(5))
            made = statistics(case, kind, rows, c, weights)
            expected = dense_inverse(case, kind, made, 0.3 + 1 / case.dense.C)
            assert case.agree(np.allclose(matrix(preconditioner, case), expected, rtol=1e-9, atol=1e-11))


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_wide_layers_keep_the_diagonal_of_their_factors(world, monkeypatch, kind, sparse):
    monkeypatch.setattr("distnewton.directions.moments.MAX_WIDTH", 2)
    for splits in alternating(world.size, 3):
        case = make_case(world, (7, 3, 2, 3), splits, loss="cross_entropy", sparse=sparse)
        with case.grid:
            preconditioner = make(kind)
            preconditioner.update(linearized(case, "all", damping=0.3, seed=5))
            rows = list(range(*ROWS))
            c = cotangents(case, kind, rows, "all", np.random.default_rng(5))
            made = statistics(case, kind, rows, c)
            expected = dense_inverse(case, kind, made, 0.3 + 1 / case.dense.C, max_width=2)
            assert case.agree(np.allclose(matrix(preconditioner, case), expected, rtol=1e-9, atol=1e-11))


@pytest.mark.parametrize(("decay", "statistics_period", "inverse_period"), [(0.6, 1, 1), (0.95, 1, 2), (0.5, 2, 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_averages_and_factorisations_follow_their_periods(world, kind, decay, statistics_period, inverse_period):
    for splits in alternating(world.size, 3)[:2]:
        case = make_case(world, (4, 3, 5, 3), splits, loss="cross_entropy", n=12)
        with case.grid:
            options = {"statistics_period": statistics_period, "inverse_period": inverse_period}
            preconditioner = make(kind, decay=decay, **options)
            average, n_updates = None, 0
            for t, damping in enumerate([0.5, 0.4, 0.9, 0.1, 0.3, 0.2, 0.7]):
                rows = (t % 5, 6 + t % 5)
                preconditioner.update(linearized(case, "none", rows, damping=damping, seed=t))
                if t % statistics_period == 0:
                    c = cotangents(case, kind, list(range(*rows)), "none", np.random.default_rng(t))
                    fresh = statistics(case, kind, list(range(*rows)), c)
                    n_updates += 1
                    # of the first 1 / (1 - decay) samples a plain mean
                    weight = max(1 - decay, 1 / n_updates)
                    average = fresh if average is None else [
                        [(1 - weight) * a + weight * f for a, f in zip(old, new, strict=True)]
                        for old, new in zip(average, fresh, strict=True)
                    ]
                if t % inverse_period == 0:
                    expected = dense_inverse(case, kind, average, damping + 1 / case.dense.C)
                assert case.agree(np.allclose(matrix(preconditioner, case), expected, rtol=1e-9, atol=1e-11))


@pytest.mark.parametrize("max_width", [2, 99])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("widths", "loss"), NETWORKS)
def test_inverses_are_symmetric_and_positive_definite(world, monkeypatch, widths, loss, kind, max_width):
    monkeypatch.setattr("distnewton.directions.moments.MAX_WIDTH", max_width)
    for splits in alternating(world.size, 3):
        # one sample: without damping the factors would have rank one
        case = make_case(world, widths, splits, loss=loss, C=np.inf, seed=3)
        with case.grid:
            preconditioner = make(kind)
            preconditioner.update(linearized(case, "none", (4, 5), damping=1e-3))
            M = matrix(preconditioner, case)
            assert case.agree(np.allclose(M, M.T, rtol=1e-9, atol=1e-12))
            # the damping bounds the inverse; for Kronecker factors the product of both of its parts
            assert case.agree(not len(M) or np.linalg.eigvalsh(M).min() > 0)
            assert case.agree(not len(M) or np.linalg.eigvalsh(M).max() <= 1e3 * (1 + 1e-9))


@pytest.mark.parametrize("kind", KINDS)
def test_apply_is_confined_to_its_layers_and_leaves_the_vector(world, kind):
    for splits in alternating(world.size, 3):
        case = make_case(world, (4, 3, 5, 3), splits, loss="cross_entropy")
        with case.grid:
            problem = linearized(case, "all")
            preconditioner = make(kind)
            with pytest.raises(RuntimeError, match="update the preconditioner"):
                preconditioner.apply(problem.gradient)
            preconditioner.update(problem)
            v = problem.gradient.copy()
            whole = preconditioner.apply(v)
            good = np.array_equal(v, problem.gradient)
            for m, part in case.network.layout.slices.items():
                alone = preconditioner.restricted([m])(v)
                good &= np.array_equal(alone[part], whole[part])
                alone[part] = 0
                good &= not alone.any()
            assert case.agree(good)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_as_directions_they_are_minus_the_preconditioned_gradient(world, kind):
    for splits in alternating(world.size, 3):
        case = make_case(world, (4, 3, 5, 3), splits, loss="cross_entropy")
        with case.grid:
            name, _, mini_blocks = kind.partition(" ")
            direction = named_direction(name, mini_blocks=mini_blocks or "layer")
            assert direction.averages_gradient == (name == "mini_block_fisher")
            problem = linearized(case, "none", damping=0.1, seed=2)
            rows = list(range(*ROWS))
            made = statistics(case, kind, rows, cotangents(case, kind, rows, "none", np.random.default_rng(2)))
            g = case.dense.gradient(case.theta)[case.own_index]
            expected = -dense_inverse(case, kind, made, 0.1 + 1 / case.dense.C) @ g
            found = direction.solve(problem, NEVER)
            assert case.agree(np.allclose(found.direction, expected, rtol=1e-9, atol=1e-11))


@pytest.mark.parametrize("kind", KINDS)
def test_dead_neurons_leave_the_damping(world, kind):
    case = make_case(world, (4, 3, 2), (1, world.size, 1), activation="relu", C=np.inf)
    with case.grid:
        _, b = case.dense.matrices(case.theta)[0]
        b[:] = -1e3
        preconditioner = make(kind)
        preconditioner.update(linearized(case, "none", damping=0.25))
        v = np.ones(len(case.own_index))
        out = case.network.layout.matrices(preconditioner.apply(v)).get(1, np.zeros((0, 0)))
        # no curvature in layer 1: all but the input moments of kfac is the damping
        good = np.isfinite(out).all() and (kind == "kfac" or np.allclose(out, 4.0, rtol=1e-12))
        assert case.agree(good)


def test_nothing_is_sent_where_the_jacobian_is_known(world):
    for splits in alternating(world.size, 3):
        case = make_case(world, (4, 3, 5, 3), splits, loss="cross_entropy")
        with case.grid:
            problem = linearized(case, "all")
            case.grid.ledger.take()
            with case.grid.ledger.phase("direction"):
                for kind in KINDS:
                    preconditioner = make(kind)
                    preconditioner.update(problem)
                    preconditioner.apply(problem.gradient)
            assert case.agree(case.grid.ledger.take()["direction"].n_messages == 0)
