r"""Step sizes of groups of variables from a cubic model ([GN3], arXiv 2312.03885, "anisotropic Nesterov").

.. math:: \eta = \Big(\bar H + \frac{\lambda}{2} \|D \eta\| D^2\Big)^{-1} \bar g, \qquad D_s = |D^3_s|^{1/3}

Of several solutions the one of largest ||D eta||: there the matrix is positive definite. With D regular,
w = D eta and r = ||w|| it is the secular equation of a trust region,

.. math:: \sum_i \frac{b_i^2}{(\Lambda_i + \lambda r / 2)^2} = r^2, \qquad
    D^{-1} \bar H D^{-1} = Q \Lambda Q^T, \quad b = Q^T D^{-1} \bar g

whose left side falls where all denominators are positive, so that there is at most one such root. Groups with D_s = 0
are eliminated first; they need a positive definite part of Hbar. The authors search for a bracket by tripling; here
its ends are known.
"""

from __future__ import annotations

import math

import numpy as np

from distnewton.backend import Array

_NEGLIGIBLE = 1e-5
"""D_s below this multiple of the largest counts as zero: the cube root makes 5e-6 of a rounding error."""


def step_sizes(H: Array, g: Array, third: Array, internal_damping: float) -> Array | None:
    """Step size of each group.

    Parameters
    ----------
    H : Array of shape (n_groups, n_groups)
        Hbar, symmetric; groups whose row and gradient are zero get 0.
    g : Array of shape (n_groups,)
        gbar; a step goes against the direction, so positive sizes lead down where g is positive.
    third : Array of shape (n_groups,)
        Third derivative along each group.
    internal_damping : float
        lambda; 0 is Newton's method on the groups.

    Returns
    -------
    Array of shape (n_groups,) or None
        None where no matrix of the family that solves the equation is positive definite: an indefinite Hbar without
        damping, or along groups whose third derivatives are zero; and for numbers that are not finite.
    """
    H, g = np.asarray(H, np.float64), np.asarray(g, np.float64)
    D = np.cbrt(np.abs(np.asarray(third, np.float64)))
    if not (np.isfinite(H).all() and np.isfinite(g).all() and np.isfinite(D).all()):
        return None
    D[_NEGLIGIBLE * D.max(initial=0.0) >= D] = 0.0
    if internal_damping == 0.0:
        D[:] = 0.0
    moving = H.any(axis=1) | (g != 0.0)
    plain, cubic = np.flatnonzero(moving & (D == 0.0)), np.flatnonzero(moving & (D > 0.0))
    eliminated = _solve(H[np.ix_(plain, plain)], np.column_stack([g[plain], H[np.ix_(plain, cubic)]]))
    if eliminated is None:
        return None
    coupling = H[np.ix_(cubic, plain)]
    A = H[np.ix_(cubic, cubic)] - coupling @ eliminated[:, 1:]
    b = g[cubic] - coupling @ eliminated[:, 0]
    scale = D[cubic]
    w = _cubic(A / np.outer(scale, scale), b / scale, internal_damping)
    if w is None:
        return None
    eta = np.zeros(len(g))
    eta[cubic] = w / scale
    eta[plain] = eliminated[:, 0] - eliminated[:, 1:] @ eta[cubic]
    return eta


def _solve(A: Array, B: Array) -> Array | None:
    """Solution of A X = B, or None where A is not positive definite beyond rounding; the scale of groups is free."""
    if not len(A):
        return B
    diagonal = A.diagonal()
    if not (diagonal > 0.0).all():
        return None
    scale = 1.0 / np.sqrt(diagonal)
    scaled = A * np.outer(scale, scale)
    if np.linalg.eigvalsh(scaled)[0] <= len(A) * np.finfo(np.float64).eps:
        return None
    solution: Array = scale[:, None] * np.linalg.solve(scaled, scale[:, None] * B)
    return solution


def _cubic(M: Array, b: Array, damping: float) -> Array | None:
    """The w of largest norm with (M + damping/2 ||w|| I) w = b and a positive definite matrix, or None."""
    if not len(b):
        return b
    eigenvalues, Q = np.linalg.eigh(M)
    beta = Q.T @ b
    lowest = min(eigenvalues[0], 0.0)
    # r = start + x: the matrix is positive definite for x > 0, singular at x = 0 unless it is so at r = 0 already
    start, gaps = -2.0 * lowest / damping, eigenvalues - lowest
    x = _root(beta, gaps, 0.5 * damping, start)
    if x is None:
        return None
    w: Array = Q @ _components(beta, gaps + 0.5 * damping * x)
    return w


def _root(beta: Array, gaps: Array, c: float, start: float) -> float | None:
    """The x >= 0 with || beta / (gaps + c x) || = start + x, or None where the left side is below the right at 0."""

    def excess(x: float) -> float:
        return float(np.linalg.norm(_components(beta, gaps + c * x))) - start - x

    if gaps[0] > 0.0 and not beta.any():
        return 0.0
    # the lowest component alone, and all components over the lowest gap, bound the root on both sides
    first, whole = abs(beta[0]) / c, float(np.linalg.norm(beta)) / c
    low = 2.0 * first / (start + math.sqrt(start**2 + 4.0 * first)) if first and gaps[0] == 0.0 else 0.0
    high = math.sqrt(whole)
    if excess(low) <= 0.0:
        # the bound is the root where there is nothing but the lowest component
        return low or None
    if excess(high) >= 0.0:
        return high
    # imported here, since it takes all of scipy.sparse along
    from scipy.optimize import brentq

    eps = np.finfo(np.float64)
    return float(brentq(excess, low, high, xtol=float(eps.tiny), rtol=4.0 * float(eps.eps), maxiter=1000))


def _components(beta: Array, denominators: Array) -> Array:
    """Quotients, 0 where both are zero."""
    return np.divide(beta, denominators, out=np.zeros_like(beta), where=(beta != 0.0) | (denominators != 0.0))
