"""The method's formulas in plain numpy, for tanh and cross-entropy: what the package's overhead is held against.

Written as one would by hand for one machine, with the same order of operations, chunks and stopping rules.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from distnewton.backend import Array
from distnewton.method.batches import Subsamples
from distnewton.planning.chunks import MAX_CHUNK_ROWS, chunk_ranges


def _forward(weights: list[Array], X: Array) -> list[Array]:
    Z = [X]
    for m, M in enumerate(weights):
        S: Array = Z[-1] @ M[:-1]
        S += M[-1]
        Z.append(np.tanh(S, out=S) if m < len(weights) - 1 else S)
    return Z


def _softmax(Z: Array) -> Array:
    p: Array = Z - Z.max(axis=1, keepdims=True)
    np.exp(p, out=p)
    p /= p.sum(axis=1, keepdims=True)
    return p


def _dot(x: Array, y: Array) -> float:
    return float(np.einsum("i,i->", x, y, dtype=np.float64))


@dataclass
class PlainNewton:
    """Newton iterations on one flat vector; each weight matrix has its bias as last row.

    Attributes
    ----------
    X : Array of shape (n, widths[0])
    y : Array of int of shape (n,)
    widths : tuple of int
    theta : Array of shape (n_params,)
        Changed by each iteration.
    size : int
        Samples in the curvature subsample.
    cg_steps : int
        CG steps of each iteration, exactly.
    """

    X: Array
    y: Array
    widths: tuple[int, ...]
    theta: Array
    size: int
    cg_steps: int
    damping: float = 1.0
    previous: Array | None = None
    state: tuple[float, list[tuple[tuple[int, int], list[Array]]]] | None = None
    objectives: list[float] = field(default_factory=list)

    def matrices(self, flat: Array) -> list[Array]:
        """Views of a flat vector, each of shape (n_in + 1, n_out)."""
        views, start = [], 0
        for a, b in pairwise(self.widths):
            views.append(flat[start : start + (a + 1) * b].reshape(a + 1, b))
            start += (a + 1) * b
        return views

    def evaluate(self, theta: Array) -> tuple[float, list[tuple[tuple[int, int], list[Array]]]]:
        """Objective and activations of all chunks."""
        n, weights = len(self.X), self.matrices(theta)
        chunks, total = [], 0.0
        for a, b in chunk_ranges(n, None, MAX_CHUNK_ROWS):
            Z = _forward(weights, self.X[a:b])
            chunks.append(((a, b), Z))
            shifted = Z[-1].astype(np.float64)
            shifted -= shifted.max(axis=1, keepdims=True)
            chosen = shifted[np.arange(b - a), self.y[a:b]]
            total += float(np.log(np.exp(shifted, out=shifted).sum(axis=1)).sum() - chosen.sum())
        return total / n + 0.5 * _dot(theta, theta) / n, chunks

    def gradient(self, chunks: list[tuple[tuple[int, int], list[Array]]]) -> Array:
        """Gradient of the objective by backpropagation through kept activations."""
        n, weights = len(self.X), self.matrices(self.theta)
        g = self.theta / n
        parts = self.matrices(g)
        for (a, b), Z in chunks:
            delta = _softmax(Z[-1])
            delta[np.arange(b - a), self.y[a:b]] -= 1
            delta /= n
            for m in range(len(weights) - 1, -1, -1):
                parts[m][:-1] += Z[m].T @ delta
                parts[m][-1] += delta.sum(axis=0)
                if m:
                    delta = delta @ weights[m][:-1].T
                    delta *= 1 - Z[m] * Z[m]
        return g

    def linearize(self, Z: list[Array]) -> list[Array]:
        """D of the hidden layers below the last; the last two are implied."""
        weights, n_out = self.matrices(self.theta), self.widths[-1]
        D: list[Array] = [Z[-1]] * len(weights)
        full = (1 - Z[-2] * Z[-2])[:, None, :] * weights[-1][:-1].T
        for m in range(len(weights) - 3, -1, -1):
            full = (full.reshape(-1, full.shape[2]) @ weights[m + 1][:-1].T).reshape(len(Z[0]), n_out, -1)
            full *= (1 - Z[m + 1] * Z[m + 1])[:, None, :]
            D[m] = full
        return D

    def jvp(self, Z: list[Array], D: list[Array], v: Array) -> Array:
        """J v on the subsample."""
        parts, weights = self.matrices(v), self.matrices(self.theta)
        last = len(parts) - 1
        q: Array = Z[last] @ parts[last][:-1] + parts[last][-1]
        for m in range(last):
            P = Z[m] @ parts[m][:-1]
            P += parts[m][-1]
            if m == last - 1:
                P *= 1 - Z[m + 1] * Z[m + 1]
                q += P @ weights[last][:-1]
            else:
                q += np.matvec(D[m], P)
        return q

    def product(self, Z: list[Array], D: list[Array], p: Array, v: Array, shift: float) -> Array:
        """(G + lambda I) v."""
        q = self.jvp(Z, D, v)
        U = p * q
        U -= p * U.sum(axis=1, keepdims=True)
        U /= len(q)
        out = np.empty_like(v)
        parts, weights = self.matrices(out), self.matrices(self.theta)
        last = len(parts) - 1
        for m in range(last + 1):
            if m == last:
                T = U
            elif m == last - 1:
                T = U @ weights[last][:-1].T
                T *= 1 - Z[m + 1] * Z[m + 1]
            else:
                T = np.vecmat(U, D[m])
            np.matmul(Z[m].T, T, out=parts[m][:-1])
            T.sum(axis=0, out=parts[m][-1])
        out += shift * v
        return out

    def step(self) -> None:
        """One iteration, in the order of the trainer."""
        if self.state is None:
            self.state = self.evaluate(self.theta)
        value, chunks = self.state
        n = len(self.X)
        g = self.gradient(chunks)
        rows = Subsamples(n, self.size, 0).rows(len(self.objectives))
        Z = _forward(self.matrices(self.theta), self.X[rows]) if self.size < n else chunks[-1][1]
        D, p, shift = self.linearize(Z), _softmax(Z[-1]), 1 / n + self.damping
        x, r, direction = np.zeros_like(g), -g, -g
        rr = _dot(r, r)
        for _ in range(self.cg_steps):
            Ap = self.product(Z, D, p, direction, shift)
            alpha = rr / _dot(direction, Ap)
            x += alpha * direction
            r = r - alpha * Ap
            new = _dot(r, r)
            direction = r + (new / rr) * direction
            rr = new
        basis = [x] if self.previous is None else [x, self.previous]
        Jd = [self.jvp(Z, D, d).astype(np.float64) for d in basis]
        BJd = [p * q - p * (p * q).sum(axis=1, keepdims=True) for q in Jd]
        gram = np.array([[_dot(a, b) for b in basis] for a in basis])
        G = np.array([[np.vdot(a, b) for b in BJd] for a in Jd]) / len(p) + gram / n
        slopes = np.array([_dot(g, d) for d in basis])
        betas = -np.linalg.solve(G + self.damping * gram, slopes)
        d = float(betas[0]) * x
        if self.previous is not None:
            d += float(betas[1]) * self.previous
        slope, curvature, step_size = float(betas @ slopes), float(betas @ G @ betas), 1.0
        while (trial := self.evaluate(self.theta + step_size * d))[0] > value + 1e-4 * step_size * slope:
            step_size /= 2
        rho = (trial[0] - value) / (step_size * slope + step_size**2 * curvature / 2)
        self.damping *= 2 / 3 if rho > 0.5 else 1.5 if rho < 0.25 else 1
        self.theta, self.previous, self.state = self.theta + step_size * d, d, trial
        self.objectives.append(trial[0])
