r"""Conjugate gradients for (G + lambda I) d = -g, one step at a time.

A step at a time, because between two steps a rank may learn that enough others have finished.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from distnewton.backend import Array
from distnewton.errors import NumericalError


class ConjugateGradient:
    r"""CG from zero for a symmetric positive definite system A x = b.

    .. math:: \alpha = \frac{r^T r}{p^T A p}, \quad x \mathrel{+}= \alpha p, \quad r \mathrel{-}= \alpha A p,
        \quad p = r + \frac{r_+^T r_+}{r^T r} p

    Parameters
    ----------
    matvec : callable
        v -> A v; may return the same array at each call.
    b : Array of shape (n,)
        Right-hand side; not changed.
    dot : callable
        Inner product in float64.
    tolerance : float
        Relative residual ||r|| / ||b|| at which the system counts as solved.
    max_steps, min_steps : int
        At most and at least so many steps.

    Attributes
    ----------
    x : Array of shape (n,)
        Current iterate.
    n_steps : int
        Steps done.
    """

    def __init__(
        self,
        matvec: Callable[[Array], Array],
        b: Array,
        dot: Callable[[Array, Array], float],
        *,
        tolerance: float,
        max_steps: int,
        min_steps: int = 1,
    ) -> None:
        self._matvec, self._dot = matvec, dot
        self.max_steps, self.min_steps = max_steps, min_steps
        self.x = b * 0
        self._r, self._p = b.copy(), b.copy()
        self._rr = dot(b, b)
        self._b_norm = math.sqrt(self._rr)
        self._target = tolerance * self._b_norm
        self._floor = rounding_floor(b, self._rr)
        self.n_steps = 0

    @property
    def residual_norm(self) -> float:
        """||b - A x|| by recurrence."""
        return math.sqrt(self._rr)

    @property
    def relative_residual(self) -> float:
        """||b - A x|| / ||b||, 0 where b is zero."""
        return self.residual_norm / self._b_norm if self._b_norm else 0.0

    @property
    def finished(self) -> bool:
        """Whether the stopping rule is met: the residual, the limit of steps, or nothing left but rounding."""
        if self.n_steps >= self.max_steps or self._rr <= self._floor:
            return True
        return self.n_steps >= self.min_steps and self.residual_norm <= self._target

    def step(self) -> None:
        """Advance by one step.

        Raises
        ------
        NumericalError
            If p^T A p is not positive: with G + lambda I that cannot be.
        """
        Ap = self._matvec(self._p)
        alpha = self._rr / check_curvature(self._dot(self._p, Ap), self.n_steps)
        self.x += alpha * self._p
        self._r -= alpha * Ap
        rr = self._dot(self._r, self._r)
        self._p *= rr / self._rr
        self._p += self._r
        self._rr = rr
        self.n_steps += 1


def rounding_floor(b: Array, squared_norm: float) -> float:
    """Squared norm of a residual that is rounding only: its direction means nothing, nor does the curvature along it.

    Parameters
    ----------
    b : Array of shape (n,)
        Right-hand side, or this rank's part of it; its dtype counts.
    squared_norm : float
        b^T b, over all ranks.

    Returns
    -------
    float
    """
    return float(np.finfo(b.dtype).eps) ** 2 * squared_norm


def check_curvature(curvature: float, n_steps: int) -> float:
    """Refuse a curvature p^T A p that a positive definite matrix cannot have.

    Parameters
    ----------
    curvature : float
        p^T A p of a CG step.
    n_steps : int
        Steps done before.

    Returns
    -------
    float
        The curvature.

    Raises
    ------
    NumericalError
        If it is not positive, or not finite.
    """
    if curvature > 0.0 and math.isfinite(curvature):
        return curvature
    raise NumericalError(
        f"conjugate gradients met a direction of curvature {curvature:g} at step {n_steps + 1}: the damped "
        "Gauss-Newton matrix is positive definite, so a value overflowed or the precision is exhausted; scale the "
        "data ([data] scale), use float64 ([run] dtype) or more damping"
    )
