"""Independent float64 derivations: a serial network written with plain formulas, derivatives by complex steps.

Nothing here uses the package's numerical code. Parameters are one vector theta: for each layer the rows of W, then b.
Values are derived for many points at once: theta may have leading axes, and so have what is computed from it.
"""

from __future__ import annotations

from functools import wraps
from itertools import pairwise

import numpy as np

STEP = 1e-30
AT_ONCE = 100_000  # numbers of the points of a derivative that are held at a time

ACTIVATIONS = {
    "sigmoid": lambda s: 1 / (1 + np.exp(-s)),
    "tanh": np.tanh,
    "relu": lambda s: np.where(s.real > 0, s, 0),
    "softplus": lambda s: np.log(1 + np.exp(s)),
    "identity": lambda s: s,
}


def sample_loss(name, z, y):
    """Loss of one sample from its outputs z (complex allowed) of shape (n_out, ...) and target y."""
    if name == "squared":
        y = np.eye(len(z))[y] if isinstance(y, (int, np.integer)) else np.atleast_1d(y)
        return sum((z - _beside(y, z)) ** 2)
    if name == "cross_entropy":
        return np.log(sum(np.exp(z))) - z[y]
    if name == "squared_hinge":
        missing = [1 - z[k] if k == y else 1 + z[k] for k in range(len(z))]
        return sum(np.where(m.real > 0, m, 0) ** 2 for m in missing)
    return sum(np.log(1 + np.exp(z)) - _beside(np.atleast_1d(y), z) * z)


def _beside(y, z):
    """Targets (n_out,) with the axes of z."""
    return y.reshape(-1, *[1] * (z.ndim - 1))


def derivative(f, x):
    """Columns of df/dx by complex steps, exact to rounding; f takes points of shape (m, len(x))."""
    n_points = max(1, AT_ONCE // len(x))
    values = []
    for start in range(0, len(x), n_points):
        k = np.arange(start, min(start + n_points, len(x)))
        points = np.tile(x.astype(complex), (len(k), 1))
        points[np.arange(len(k)), k] += 1j * STEP
        values.append(np.imag(f(points)) / STEP)
    return np.moveaxis(np.concatenate(values), 0, -1)


def remembered(method):
    """Keep what was derived of a problem at a point: every grid asks for the same."""
    memory = {}

    @wraps(method)
    def recall(self, theta, rows=None):
        key = (*self.key, theta.tobytes(), None if rows is None else tuple(rows))
        if key not in memory:
            if len(memory) == 200:
                memory.clear()
            memory[key] = method(self, theta, rows)
            memory[key].flags.writeable = False
        return memory[key]

    return recall


class DenseProblem:
    """The regularised objective of a fully connected network on all data, by loops over samples."""

    def __init__(self, widths, activation, loss, X, y, C):
        self.widths, self.act, self.loss = list(widths), ACTIVATIONS[activation], loss
        self.X, self.y, self.C = np.asarray(X, float), y, C
        self.n_rows = list(widths[:-1])
        self.sizes = [(a + 1) * b for a, b in pairwise(widths)]
        self.starts = np.cumsum([0, *self.sizes])
        self.n_params = int(self.starts[-1])
        self.key = (*widths, activation, loss, C, self.X.tobytes(), np.asarray(y).tobytes())

    def matrices(self, theta):
        """(W, b) of each layer."""
        out = []
        for m, (a, b) in enumerate(zip(self.n_rows, self.widths[1:], strict=True)):
            part = theta[..., self.starts[m] : self.starts[m + 1]]
            out.append((part[..., : a * b].reshape(*theta.shape[:-1], a, b), part[..., a * b :]))
        return out

    def vector(self, matrices):
        return np.concatenate([np.concatenate([W.ravel(), b]) for W, b in matrices])

    def index(self, layer, inputs, outputs, with_bias):
        """Positions in theta of a block of a layer (from 1), in the order of the block's own flat vector."""
        a, b = self.n_rows[layer - 1], self.widths[layer]
        position = self.starts[layer - 1] + np.arange((a + 1) * b).reshape(a + 1, b)
        rows = [*inputs, *([a] if with_bias else [])]
        return position[np.ix_(rows, range(*outputs))].ravel()

    def layer_inputs(self, theta, rows):
        """Z^{m-1} of each layer m, by number."""
        inputs = {1: self.X[rows]}
        for m, (W, b) in enumerate(self.matrices(theta)[:-1], start=1):
            inputs[m + 1] = self.act(inputs[m] @ W + b)
        return inputs

    def outputs(self, theta, rows=None):
        z = self.X if rows is None else self.X[rows]
        matrices = self.matrices(theta)
        for m, (W, b) in enumerate(matrices):
            s = z @ W + b[..., None, :]
            z = self.act(s) if m < len(matrices) - 1 else s
        return z

    def mean_loss(self, theta, rows=None):
        rows = range(len(self.X)) if rows is None else rows
        z = np.moveaxis(self.outputs(theta, list(rows)), (-2, -1), (0, 1))
        return sum(sample_loss(self.loss, z[k], self.y[i]) for k, i in enumerate(rows)) / len(rows)

    def value(self, theta, rows=None):
        return self.mean_loss(theta, rows) + (theta**2).sum(axis=-1) / (2 * self.C)

    @remembered
    def gradient(self, theta, rows=None):
        return derivative(lambda t: self.value(t, rows), theta)

    @remembered
    def jacobian(self, theta, rows):
        """dz/dtheta of shape (n, n_out, n_params)."""
        return derivative(lambda t: self.outputs(t, rows), theta)

    def loss_hessians(self, theta, rows):
        """B of each sample, by differentiating the loss gradient (central differences of complex-step gradients)."""
        z = self.outputs(theta, rows)
        n_out, h = z.shape[1], 1e-5
        B = np.zeros((len(rows), n_out, n_out))
        for k, i in enumerate(rows):
            def gradient(at, i=i):
                return derivative(lambda v: sample_loss(self.loss, v.T, self.y[i]), at)

            for c in range(n_out):
                e = np.eye(n_out)[c] * h
                B[k, :, c] = (gradient(z[k] + e) - gradient(z[k] - e)) / (2 * h)
        return B

    def analytic_loss_hessians(self, theta, rows):
        """B of each sample by its formula, where finite differences would limit the accuracy of a long run."""
        z = self.outputs(theta, rows)
        if self.loss == "squared":
            return np.stack([2 * np.eye(z.shape[1])] * len(rows))
        if self.loss == "cross_entropy":
            p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
            return np.stack([np.diag(q) - np.outer(q, q) for q in p])
        p = 1 / (1 + np.exp(-z))
        return (p * (1 - p))[:, :, None] * np.eye(z.shape[1])

    def random_roots(self, theta, rows, k, generator):
        """Random cotangents of shape (n, k, n_out) with E[sum_a c_a c_a^T] = B."""
        z = self.outputs(theta, rows)
        n, n_out = z.shape
        if self.loss == "cross_entropy":
            drawn = generator.random((n, k))
            p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
            labels = [[int(np.searchsorted(np.cumsum(p[s]), u, side="right")) for u in drawn[s]] for s in range(n)]
            return np.stack([p[s] - np.eye(n_out)[labels[s]] for s in range(n)]) / np.sqrt(k)
        signs = 2.0 * generator.integers(2, size=(n, k, n_out)) - 1
        B = self.analytic_loss_hessians(theta, rows)
        # diagonal for the other losses
        return signs * np.sqrt(np.einsum("saa->sa", B) / k)[:, None, :]

    def exact_roots(self, theta, rows):
        """Roots of B of shape (n, n_out, n_out) with sum_a c_a c_a^T = B, one for each class or output."""
        if self.loss != "cross_entropy":
            return np.sqrt(self.analytic_loss_hessians(theta, rows))
        z = self.outputs(theta, rows)
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        return np.stack([[np.sqrt(q[a]) * (q - e) for a, e in enumerate(np.eye(len(q)))] for q in p])

    @remembered
    def loss_gradients(self, theta, rows):
        """Gradient of each sample's loss in its outputs."""
        z = self.outputs(theta, rows)
        return np.stack([
            derivative(lambda v, i=i: sample_loss(self.loss, v.T, self.y[i]), z[k]) for k, i in enumerate(rows)
        ])

    def deltas(self, theta, rows, cotangents):
        """Cotangents of the pre-activations of each layer, by number: those of a bias are the same."""
        product = np.einsum("sk,skp->sp", cotangents, self.jacobian(theta, rows))
        return {m: product[:, self.starts[m] - b : self.starts[m]] for m, b in enumerate(self.widths) if m > 0}

    def gauss_newton(self, theta, rows):
        """I/C + mean of J^T B J, as a matrix."""
        J = self.jacobian(theta, rows)
        B = self.analytic_loss_hessians(theta, rows)
        G = sum(j.T @ b @ j for j, b in zip(J, B, strict=True)) / len(rows)
        return G + np.eye(len(theta)) / self.C


def krylov_minimiser(A, b, k):
    """Minimiser of x^T A x / 2 - b^T x over span(b, A b, ..., A^{k-1} b): what k steps of CG give."""
    Q = np.zeros((len(b), 0))
    for _ in range(k):
        v = b if Q.shape[1] == 0 else A @ Q[:, -1]
        for _ in range(2):
            v = v - Q @ (Q.T @ v)
        if np.linalg.norm(v) <= 1e-13 * np.linalg.norm(b):
            break
        Q = np.column_stack([Q, v / np.linalg.norm(v)])
    return Q @ np.linalg.solve(Q.T @ A @ Q, Q.T @ b)


def history(problem, theta, blocks, subsamples, *, cg_steps, damping=1.0, combine=True, batches=False, nielsen=False):
    """Objective after each iteration of the method with given blocks (lists of positions in theta).

    A second derivation of the whole loop, with dense matrices. With ``batches`` a step knows the samples of its
    subsample only: their gradient, curvature and values. With ``nielsen`` the first damping is a tenth of the curvature
    along the gradient, and Nielsen's rule changes it.
    """
    if nielsen:
        g, G = problem.gradient(theta), problem.gauss_newton(theta, subsamples[0])
        damping = 0.1 * (g @ G @ g) / (g @ g)
    previous, values = None, []
    for rows in subsamples:
        samples = rows if batches else None
        value = problem.value(theta, samples)
        g, G = problem.gradient(theta, samples), problem.gauss_newton(theta, rows)
        d = np.zeros_like(theta)
        for index in blocks:
            A = G[np.ix_(index, index)] + damping * np.eye(len(index))
            d[index] = krylov_minimiser(A, -g[index], cg_steps)
        basis = np.column_stack([d, previous]) if combine and previous is not None else d[:, None]
        A = basis.T @ (G @ basis) + damping * basis.T @ basis
        d = basis @ np.linalg.solve(A, -basis.T @ g)
        alpha = 1.0
        while problem.value(theta + alpha * d, samples) > value + 1e-4 * alpha * g @ d:
            alpha /= 2
        new = problem.value(theta + alpha * d, samples)
        rho = (new - value) / (alpha * g @ d + alpha**2 * d @ G @ d / 2)
        if nielsen:
            damping *= min(max(1 / 3, 1 - (2 * rho - 1) ** 3), 2 / 3 if rho > 0.5 else 2)
        else:
            damping *= 2 / 3 if rho > 0.5 else 3 / 2 if rho < 0.25 else 1
        theta, previous = theta + alpha * d, d
        values.append(problem.value(theta))
    return np.array(values)
