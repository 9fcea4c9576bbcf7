"""Derivatives along the groups of a direction, from values of the dense objective alone."""

from __future__ import annotations

import math

import numpy as np


def taylor(f, order, radius):
    """Derivatives 0..order of an analytic function of one variable at 0, by Cauchy's integral on a circle.

    The function takes an array of points; its values may have more axes.
    """
    points = np.exp(2j * np.pi * (np.arange(16) + 0.5) / 16)
    values = f(radius * points)
    parts = [np.tensordot(points**-k, values, 1).real / len(points) for k in range(order + 1)]
    return np.array([math.factorial(k) * part / radius**k for k, part in enumerate(parts)])


def positions(case, kind):
    """Positions in theta of each group."""
    dense, L = case.dense, len(case.dense.widths) - 1
    weights, biases = [], []
    for m in range(1, L + 1):
        a, b = dense.n_rows[m - 1], dense.widths[m]
        whole = dense.index(m, range(a), (0, b), True)
        weights.append(whole[: a * b])
        biases.append(whole[a * b :])
    if kind == "tensor":
        return [index for pair in zip(weights, biases, strict=True) for index in pair]
    if kind == "kind":
        return [np.concatenate(weights), np.concatenate(biases)]
    if kind == "rank":
        return [case.index_of(rank) for rank in range(case.grid.size)]
    return [np.arange(dense.n_params)]


def dense_summary(case, u, kind, rows):
    """Gradient, Hessian and third derivatives along the groups of u, from values of the objective alone.

    Groups have a kind, or are lists of positions in theta.
    """
    radius = 0.02 if case.dense.act(np.array([-1.0]))[0] == 0 else 0.1
    rows = list(range(*rows))

    def along(v, order):
        def value(t):
            theta = case.theta + t[:, None] * v
            return case.dense.mean_loss(theta, rows) + (theta**2).sum(axis=-1) / (2 * case.dense.C)

        return taylor(value, order, radius)

    parts = []
    for index in positions(case, kind) if isinstance(kind, str) else kind:
        part = np.zeros_like(u)
        part[index] = u[index]
        parts.append(part)
    own = np.array([along(part, 3) for part in parts])
    H = np.diag(own[:, 2])
    for s, t in zip(*np.triu_indices(len(parts), 1), strict=True):
        H[s, t] = H[t, s] = (along(parts[s] + parts[t], 2)[2] - H[s, s] - H[t, t]) / 2
    return own[:, 1], H, own[:, 3]
