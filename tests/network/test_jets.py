"""Derivatives that ride along, against plain formulas of a dense network and complex steps, on every grid."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from dense import STEP
from problems import alternating, named_direction

from distnewton.backend import Backend
from distnewton.curvature.jacobian import linearize
from distnewton.curvature.linearization import Linearization
from distnewton.curvature.point import Point
from distnewton.curvature.sample import CurvatureSample
from distnewton.directions.registry import PRECONDITIONERS
from distnewton.network.activations import ACTIVATIONS
from distnewton.network.jets import Jet, JetActivation
from distnewton.network.losses import LOSSES
from distnewton.network.network import PartitionedNetwork
from distnewton.parallel.grid import ProcessGrid
from distnewton.parallel.partition import Partition
from distnewton.parallel.termination import NEVER

# value, first, second and third derivative, written independently of the package's ratios
TAYLOR = {
    "tanh": lambda s: (t := np.tanh(s), 1 - t**2, -2 * t * (1 - t**2), (1 - t**2) * (6 * t**2 - 2)),
    "sigmoid": lambda s: (
        p := 1 / (1 + np.exp(-s)), p * (1 - p), p * (1 - p) * (1 - 2 * p), p * (1 - p) * (1 - 6 * p * (1 - p))
    ),
    "softplus": lambda s: (np.log(1 + np.exp(s)), p := 1 / (1 + np.exp(-s)), p * (1 - p), p * (1 - p) * (1 - 2 * p)),
    "identity": lambda s: (s, 1 + 0 * s, 0 * s, 0 * s),
}  # fmt: skip
PLANE = ((1.0, 0.0), (0.0, 1.0))
JETS = {
    "second derivatives": ((2, 5, 3, 2), Jet(PLANE, PLANE)),
    "Laplacian": ((3, 4, 4, 1), Jet(tuple(map(tuple, np.eye(3))), ((1.0, 1.0, 1.0),))),
    "oblique": ((2, 3, 1), Jet(((1.0, 1.0), (1.0, -1.0)), ((0.25, -0.25),))),
    "first derivatives": ((2, 1, 4, 3), Jet(PLANE)),
    "values": ((2, 3, 2), Jet()),
    "constants": ((2, 3, 4), Jet(PLANE, PLANE, 2)),
}
ROWS = 6


class Plain:
    """A dense network whose channels follow from the formulas, for complex variables."""

    def __init__(self, widths, activation, jet, X):
        self.widths, self.jet, self.X = widths, jet, X
        self.taylor = TAYLOR[activation]
        self.sizes = [(a + 1) * b for a, b in pairwise(widths)]
        self.n_params = sum(self.sizes)

    def channels(self, theta):
        """Outputs of shape (n, size, units)."""
        first, second = np.array(self.jet.directions), np.array(self.jet.seconds)
        value = self.X
        slopes = [np.broadcast_to(d, self.X.shape) for d in first]
        curves = [0 * self.X for _ in second]
        start = 0
        for m, (a, b) in enumerate(pairwise(self.widths)):
            part = theta[start : start + self.sizes[m]]
            start += self.sizes[m]
            W, bias = part[: a * b].reshape(a, b), part[a * b :]
            if m == len(self.sizes) - 1:
                # constants are biases alone
                W = W * (np.arange(b) < b - self.jet.n_constants)
            value, slopes, curves = value @ W + bias, [s @ W for s in slopes], [q @ W for q in curves]
            if m < len(self.sizes) - 1:
                value, d1, d2, _ = self.taylor(value)
                curves = [
                    d1 * q + d2 * sum(w * s**2 for w, s in zip(weights, slopes, strict=True))
                    for q, weights in zip(curves, second, strict=True)
                ]
                slopes = [d1 * s for s in slopes]
        return np.stack([value, *slopes, *curves], axis=1)

    def outputs(self, theta):
        return self.channels(theta).reshape(len(self.X), -1)

    def jacobian(self, theta):
        steps = np.eye(self.n_params) * 1j * STEP
        return np.stack([np.imag(self.outputs(theta + step)) / STEP for step in steps], axis=-1)


class Rows(type(LOSSES["squared"])):
    """Squared error with given roots: rows that combine channels, as residuals do."""

    def __init__(self, roots):
        self._roots = roots

    def residuals(self, outputs, targets):
        """None: roots that are given belong to no residuals of the outputs."""

    def hessian(self, Z, targets):
        return self

    def roots(self, n_roots, generator):
        return self._roots

    def matvec(self, V):
        return np.einsum("sak,sal,sl->sk", self._roots, self._roots, V)


class Both:
    """A network on the grid and its plain twin."""

    def __init__(self, world, name, splits, activation="tanh"):
        widths, self.jet = JETS[name]
        rng = np.random.default_rng(1)
        X = rng.standard_normal((ROWS, widths[0]))
        self.plain = Plain(widths, activation, self.jet, X)
        self.theta = 0.6 * rng.standard_normal(self.plain.n_params)
        self.grid = ProcessGrid(world, Partition(tuple(widths), tuple(splits)))
        self.network = PartitionedNetwork(self.grid, activation, Backend.of("float64")).with_jet(self.jet)
        first, last = self.grid.feature_range()
        self.X = self.jet.seed(X[:, first:last].copy(), first)
        starts = np.cumsum([0, *self.plain.sizes])
        self.parts = []
        for block in self.grid.partition.blocks(self.grid.rank):
            a, b = widths[block.layer - 1], widths[block.layer]
            position = starts[block.layer - 1] + np.arange((a + 1) * b).reshape(a + 1, b)
            rows = [*block.rows, *([a] if block.owns_bias else [])]
            self.parts.append(position[np.ix_(rows, range(*block.outputs))].ravel())
        self.own = np.concatenate([np.zeros(0, int), *self.parts])
        self.activations = self.network.forward(self.theta[self.own], self.X)

    def whole(self, local):
        full = np.zeros(self.plain.n_params)
        full[self.own] = local
        return self.grid.comm.sum_inplace(full)

    def sample(self, roots):
        y = np.zeros((ROWS, self.network.n_out))
        point = Point(self.network, self.theta[self.own], self.activations, Rows(roots), y)
        return CurvatureSample(point, np.random.default_rng(3))


def everywhere(world, names=JETS, activations=("tanh",)):
    for name in names:
        for activation in activations:
            for splits in alternating(world.size, len(JETS[name][0]) - 1):
                both = Both(world, name, splits, activation)
                with both.grid:
                    yield both


pytestmark = pytest.mark.mpi(min_size=1, sizes=(1, 4))


@pytest.mark.parametrize("activation", TAYLOR)
def test_channels_and_their_jacobian_equal_the_plain_ones(world, activation):
    for both in everywhere(world, JETS if activation == "tanh" else ["oblique"], [activation]):
        np.testing.assert_allclose(both.activations.output, both.plain.outputs(both.theta), rtol=0, atol=1e-12)
        J = both.plain.jacobian(both.theta)
        rng = np.random.default_rng(2)
        v, U = rng.standard_normal(both.plain.n_params), rng.standard_normal((ROWS, both.network.n_out))
        params = both.theta[both.own]
        tangent = both.network.tangent(params, both.activations, v[both.own])
        np.testing.assert_allclose(tangent, J @ v, rtol=0, atol=1e-11)
        gradient = np.zeros(len(both.own))
        both.network.add_gradient(params, both.activations, U, gradient)
        np.testing.assert_allclose(both.whole(gradient), np.einsum("sk,skp->p", U, J), rtol=0, atol=1e-11)


def test_the_plain_channels_are_the_derivatives_of_the_values():
    for widths, jet in JETS.values():
        rng = np.random.default_rng(0)
        plain = Plain(widths, "tanh", jet, rng.standard_normal((3, widths[0])))
        theta = rng.standard_normal(plain.n_params)

        def value(X, plain=plain, theta=theta):
            values = Jet(n_constants=plain.jet.n_constants)
            return Plain(plain.widths, "tanh", values, X).channels(theta)[:, 0]

        h, second = 1e-4, []
        channels = plain.channels(theta)
        for i, d in enumerate(np.array(jet.directions).reshape(-1, widths[0])):
            slope = np.imag(value(plain.X + 1j * STEP * d)) / STEP
            np.testing.assert_allclose(channels[:, 1 + i], slope, rtol=0, atol=1e-12)
            second.append((value(plain.X + h * d) - 2 * value(plain.X) + value(plain.X - h * d)) / h**2)
        for q, weights in enumerate(jet.seconds):
            expected = sum(w * s for w, s in zip(weights, second, strict=True))
            np.testing.assert_allclose(channels[:, 1 + len(second) + q], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("n_rows", [1, 3])
def test_rows_that_combine_channels_and_what_directions_make_of_them(world, n_rows):
    for both in everywhere(world):
        n_out = both.network.n_out
        roots = np.random.default_rng(4).standard_normal((ROWS, n_rows, n_out))
        R = np.einsum("sak,skp->sap", roots, both.plain.jacobian(both.theta)).reshape(-1, both.plain.n_params)
        sample = both.sample(roots)
        sample.linearize()
        rng = np.random.default_rng(5)
        v, g = rng.standard_normal(both.plain.n_params), rng.standard_normal(both.plain.n_params)
        q, _ = sample.product(v[both.own], [])
        np.testing.assert_allclose(q, (R @ v).reshape(q.shape), rtol=0, atol=1e-11)
        U = rng.standard_normal((ROWS, n_rows))
        np.testing.assert_allclose(both.whole(sample.transposed_product(U)), U.ravel() @ R, rtol=0, atol=1e-11)
        np.testing.assert_allclose(both.whole(sample.diagonal()), (R**2).sum(axis=0) / ROWS, rtol=0, atol=1e-11)
        G = R.T @ R / ROWS + 0.3 * np.eye(len(v))
        problem = Linearization(g[both.own], sample, 0.0, 0.3, both.grid)
        np.testing.assert_allclose(both.whole(problem.matvec(v[both.own])), G @ v, rtol=0, atol=1e-10)
        found = named_direction("dual").solve(problem, NEVER)
        exact = np.linalg.solve(G, -g)
        np.testing.assert_allclose(both.whole(found.direction), exact, rtol=0, atol=1e-10 * np.linalg.norm(exact))
        own = named_direction("block_dual").solve(problem, NEVER).direction
        block = np.linalg.solve(G[np.ix_(both.own, both.own)], -g[both.own])
        assert not both.grid.world.any(not np.allclose(own, block, rtol=0, atol=1e-10 * np.linalg.norm(exact)))


@pytest.mark.parametrize("n_rows", [1, 3])
@pytest.mark.parametrize("dealt", [False, True])
def test_the_matrix_of_pairs_of_channels_is_that_of_the_columns(world, monkeypatch, n_rows, dealt):
    monkeypatch.setattr("distnewton.solvers.least_squares.MOST_VARIABLES", 0)
    monkeypatch.setattr("distnewton.curvature.gram._PAIR", 1e-9)
    monkeypatch.setattr("distnewton.curvature.gram._IN_CACHE", 20)
    monkeypatch.setattr("distnewton.curvature.gram._CHUNK_SIZE", 20)
    if dealt:
        monkeypatch.setattr("distnewton.directions.sample_space.MOST_REPLICATED", 0)
        monkeypatch.setattr("distnewton.solvers.block_cholesky._NARROWEST", 3)
    for both in everywhere(world):
        roots = np.random.default_rng(4).standard_normal((ROWS, n_rows, both.network.n_out))
        sample = both.sample(roots)
        sample.linearize()
        free = [m for m, part in sample.jacobian.parts.items() if part.layer.n_channels]
        assert set(free) >= set(sample.jacobian.parts) - {both.network.n_layers}
        R = np.einsum("sak,skp->sap", roots, both.plain.jacobian(both.theta)).reshape(-1, both.plain.n_params)
        g = np.random.default_rng(5).standard_normal(both.plain.n_params)
        problem = Linearization(g[both.own], sample, 0.0, 0.3, both.grid)
        exact = np.linalg.solve(R.T @ R / ROWS + 0.3 * np.eye(len(g)), -g)
        found = named_direction("dual").solve(problem, NEVER)
        np.testing.assert_allclose(both.whole(found.direction), exact, rtol=0, atol=1e-10 * np.linalg.norm(exact))


def test_kronecker_factors_sum_over_channels(world):
    for both in everywhere(world, ["second derivatives", "first derivatives"]):
        size, n_out = both.jet.size, both.network.n_out
        roots = np.random.default_rng(4).standard_normal((ROWS, 2, n_out))
        sample = both.sample(roots)
        sample.linearize()
        g = np.random.default_rng(6).standard_normal(len(both.own))
        problem = Linearization(g, sample, 0.0, 0.3, both.grid)
        factors = PRECONDITIONERS["kfac"](named_direction("kfac").options)
        factors.update(problem)
        signs = 2.0 * np.random.default_rng(3).integers(2, size=(ROWS, 2)) - 1.0
        jacobian = linearize(both.network, both.theta[both.own], both.activations, roots)
        correct = True
        for m, part in jacobian.parts.items():
            block = both.network.layout.blocks[m]
            n_in, width = block.shape
            zeros = np.zeros((ROWS * size, int(block.owns_bias)))
            Z = np.concatenate([part.inputs.reshape(ROWS * size, n_in), zeros], axis=1)
            if block.owns_bias:
                Z[::size, -1] = 1
            delta = np.einsum("sa,sat->st", signs, part.factor.dense()).reshape(ROWS * size, width)
            A, D = Z.T @ Z / ROWS, delta.T @ delta / (ROWS * size)
            correct &= np.allclose(factors._inputs[m], A, rtol=0, atol=1e-11)
            correct &= np.allclose(factors._outputs[m], D, rtol=0, atol=1e-11)
        assert not both.grid.world.any(not correct)


def test_strips_change_nothing(monkeypatch):
    jet = Jet(PLANE, ((1.0, 0.5),))
    activation, rng = JetActivation(ACTIVATIONS["tanh"], jet), np.random.default_rng(0)
    S, E, P = rng.standard_normal((7, 12)), rng.standard_normal((7, 2, 12)), rng.standard_normal((7, 12))
    results = []
    for strip in (1 << 15, 5):
        monkeypatch.setattr("distnewton.network.jets._STRIP", strip)
        s, z, e, p = S.copy(), np.empty_like(S), E.copy(), P.copy()
        activation.apply(s, z)
        activation.pull_back(e, s)
        activation.push_forward(p, s)
        results.append([s, z, e, p])
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)
    # the adjoint
    e, p = E[:, 0].copy(), P.copy()
    activation.pull_back(e, results[0][0])
    activation.push_forward(p, results[0][0])
    assert np.vdot(e, P) == pytest.approx(np.vdot(E[:, 0], p), rel=1e-13)
