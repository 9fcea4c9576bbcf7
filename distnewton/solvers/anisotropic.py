r"""Step sizes of groups of variables from a cubic model ([GN3], arXiv 2312.03885, "anisotropic Nesterov").

.. math:: \eta = \Big(\bar H + \frac{\lambda}{2} \|D \eta\| D^2\Big)^{-1} \bar g, \qquad D_s = |D^3_s|^{1/3}

Of several solutions it takes the one with the largest ||D eta||, where the matrix is positive definite. r = ||D eta||
is found by bisection: for smaller r the matrix is not positive definite or the solution of the linear system is longer
than r; for larger r it is shorter, since its length falls as r grows. No group is dropped for a small D_s: rescaling a
group changes D_s but not the step, and in deep sigmoid networks some are 1e-6 of the largest. Each system is solved in
variables that make the diagonal of its matrix 1, so scales cost no digits.

Groups with D_s = 0, whose third derivative vanishes identically, are eliminated first; they need a positive definite
part of Hbar.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from distnewton.backend import Array

_WIDEN = 1e3
"""Factor by which a bracket grows."""


@np.errstate(over="ignore", invalid="ignore")
def step_sizes(H: Array, g: Array, third: Array, internal_damping: float) -> Array | None:
    """Compute the step size of each group.

    Parameters
    ----------
    H : Array of shape (n_groups, n_groups)
        Hbar, symmetric; groups whose row and gradient are zero get 0.
    g : Array of shape (n_groups,)
        gbar; a step goes against the direction, so positive sizes lead downhill where g is positive.
    third : Array of shape (n_groups,)
        Third derivative along each group.
    internal_damping : float
        lambda; 0 is Newton's method on the groups.

    Returns
    -------
    Array of shape (n_groups,) or None
        None if no matrix of the family that solves the equation is positive definite (an indefinite Hbar without
        damping, or along groups whose third derivatives are zero), or if numbers are not finite.
    """
    H, g = np.asarray(H, np.float64), np.asarray(g, np.float64)
    D = np.cbrt(np.abs(np.asarray(third, np.float64)))
    if not (np.isfinite(H).all() and np.isfinite(g).all() and np.isfinite(D).all()):
        return None
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
    sizes = _cubic(A, b, D[cubic], 0.5 * internal_damping)
    if sizes is None:
        return None
    eta = np.zeros(len(g))
    eta[cubic] = sizes
    eta[plain] = eliminated[:, 0] - eliminated[:, 1:] @ sizes
    return eta


def _solve(A: Array, B: Array) -> Array | None:
    """Solve A X = B; None if A is not positive definite beyond rounding. The result does not depend on group scales."""
    if not len(A):
        return B
    diagonal = A.diagonal()
    if not (diagonal > 0.0).all():
        return None
    scale = 1.0 / np.sqrt(diagonal)
    try:
        root = np.linalg.cholesky(A * np.outer(scale, scale))
    except np.linalg.LinAlgError:
        return None
    if root.diagonal().min() ** 2 <= len(A) * np.finfo(np.float64).eps:
        return None
    solution: Array = (scale * np.linalg.solve(root.T, np.linalg.solve(root, (scale * B.T).T)).T).T
    return solution


def _cubic(A: Array, b: Array, D: Array, c: float) -> Array | None:
    """The eta of largest ||D eta|| with (A + c ||D eta|| D^2) eta = b and a positive definite matrix, or None."""
    if not len(b):
        return b

    def solution(r: float) -> Array | None:
        return _solve(A + c * r * np.diag(D**2), b)

    def too_short(r: float) -> bool:
        """Whether the solution is longer than r."""
        eta = solution(r)
        return eta is None or float(np.linalg.norm(D * eta)) > r

    newton = solution(0.0)
    if newton is not None:
        # the length falls with r, so the largest length is a bound
        high = float(np.linalg.norm(D * newton))
        if high == 0.0:
            return newton
    else:
        # Gershgorin: D^-1 A D^-1 + c r I is positive definite there
        high = 2.0 * float((np.abs(A) / np.outer(D, D)).sum(axis=1).max()) / c
    low, high = _bisected(too_short, high)
    if not np.isfinite(high):
        return None
    # if there is no solution, the length jumps from infinity to below r where the matrix becomes positive definite:
    # the hard case, in which g has no component along the direction of negative curvature
    return solution(high) if solution(low) is not None else None


def _bisected(too_short: Callable[[float], bool], high: float) -> tuple[float, float]:
    """Adjacent numbers, the first too short and the second not; infinite if all are too short."""
    while np.isfinite(high) and too_short(high):
        high *= _WIDEN
    if not np.isfinite(high):
        return high, high
    low = high / _WIDEN
    while not too_short(low):
        low, high = low / _WIDEN, low
    while low < (middle := float(np.sqrt(low) * np.sqrt(high))) < high:
        low, high = (middle, high) if too_short(middle) else (low, middle)
    return low, high
