"""Condition numbers of matrices given by a factorisation."""

from __future__ import annotations

from collections.abc import Callable

from distnewton.backend import Array, namespace, scalar

_MOST_STEPS = 2


def inverse_norm(solve: Callable[[Array], Array], x: Array) -> float:
    """Estimate the 1-norm of a symmetric matrix's inverse by Hager's method, a lower bound that is usually sharp.

    Parameters
    ----------
    solve : callable
        b -> A^{-1} b.
    x : Array of shape (n,)
        Overwritten; determines the dtype and the device of arrays.

    Returns
    -------
    float
        Estimate; 0 without rows.

    Notes
    -----
    At most four solves; collective if these are. See Higham, Accuracy and Stability of Numerical Algorithms (2002),
    algorithm 15.1, on which LAPACK's xPOCON is based.
    """
    if not x.size:
        return 0.0
    xp = namespace(x)
    x[...] = 1.0 / x.size
    estimate = 0.0
    for _ in range(_MOST_STEPS):
        y = solve(x)
        estimate = max(estimate, scalar(xp.abs(y).sum()))
        z = solve(xp.where(y < 0, -1.0, 1.0).astype(x.dtype))
        j = int(scalar(xp.abs(z).argmax()))
        if not scalar(abs(z[j])) > scalar(z @ x):
            break
        x[...] = 0.0
        x[j] = 1.0
    return estimate
