r"""Conjugate gradients for (G + lambda I) d = -g, one step at a time.

CG advances step by step so that a rank can learn between two steps that enough others have finished.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from distnewton.backend import Array, add_scaled, scale_and_add
from distnewton.errors import NumericalError
from distnewton.frozen import frozen


class Progress:
    r"""Martens' stopping rule for CG [HF]: stop when the quadratic model hardly improves any more.

    .. math:: \phi_i < 0 \;\text{and}\; (\phi_i - \phi_{i-k}) / \phi_i < k \epsilon, \qquad k = \max(10, i / 10)

    with :math:`\phi(x) = x^T A x / 2 - b^T x`.

    Parameters
    ----------
    epsilon : float
        Relative progress per step below which CG stops; 0 never stops.
    start : float
        phi at the starting point.
    """

    def __init__(self, epsilon: float, start: float = 0.0) -> None:
        self._epsilon = epsilon
        self._values = [start]

    def step(self, decrease: float) -> None:
        """Record a step, which reduces phi by alpha r^T z / 2."""
        self._values.append(self._values[-1] - decrease)

    @property
    def exhausted(self) -> bool:
        """Whether the rule is met."""
        i = len(self._values) - 1
        k = max(10, math.ceil(0.1 * i))
        if self._epsilon == 0.0 or i <= k or self._values[i] >= 0.0:
            return False
        return (self._values[i] - self._values[i - k]) / self._values[i] < k * self._epsilon


@frozen
class _Stop:
    """The stopping criteria of a system."""

    max_steps: int
    min_steps: int
    b_norm: float  # norm of the right-hand side
    target: float  # norm of the residual at which to stop
    floor: float  # squared norm of a residual that consists of rounding errors
    progress: Progress  # of the quadratic model

    def met(self, n_steps: int, rr: float) -> bool:
        """Whether to stop after a number of steps, given the squared norm of the residual."""
        if n_steps >= self.max_steps or rr <= self.floor:
            return True
        if n_steps < self.min_steps:
            return False
        return math.sqrt(rr) <= self.target or self.progress.exhausted


class ConjugateGradient:
    r"""Preconditioned CG for a symmetric positive definite system A x = b.

    .. math:: \alpha = \frac{r^T z}{p^T A p}, \quad x \mathrel{+}= \alpha p, \quad r \mathrel{-}= \alpha A p,
        \quad z = M^{-1} r, \quad p = z + \frac{r_+^T z_+}{r^T z} p

    Parameters
    ----------
    matvec : callable
        v -> A v; may return the same array on each call.
    b : Array of shape (n,)
        Right-hand side; not changed.
    dot : callable
        Inner product in float64.
    tolerance : float
        Relative residual ||r|| / ||b|| at which the system counts as solved.
    max_steps, min_steps : int
        Maximum and minimum number of steps.
    precondition : callable or None
        r -> M^{-1} r, a new array; None for the identity.
    start : Array of shape (n,) or None
        First iterate; None for zero, which saves a product.
    progress : float
        epsilon of Martens' rule; 0 disables the rule.

    Attributes
    ----------
    x : Array of shape (n,)
        Current iterate.
    n_steps : int
        Number of steps made.
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
        precondition: Callable[[Array], Array] | None = None,
        start: Array | None = None,
        progress: float = 0.0,
    ) -> None:
        self._matvec, self._dot, self._precondition = matvec, dot, precondition
        self.x = b * 0
        self._r = b.copy()
        phi = 0.0
        if start is not None:
            self.x += start
            self._r -= matvec(start)
            phi = -0.5 * (dot(start, self._r) + dot(start, b))
        bb = dot(b, b)
        b_norm, floor = math.sqrt(bb), rounding_floor(b, bb)
        self._stop = _Stop(max_steps, min_steps, b_norm, tolerance * b_norm, floor, Progress(progress, phi))
        self._rr = bb if start is None else dot(self._r, self._r)
        z = self._r if precondition is None else precondition(self._r)
        self._rz = self._rr if precondition is None else dot(self._r, z)
        self._p = z.copy()
        self.n_steps = 0

    @property
    def residual_norm(self) -> float:
        """||b - A x|| by recurrence."""
        return math.sqrt(self._rr)

    @property
    def relative_residual(self) -> float:
        """||b - A x|| / ||b||, or 0 if b is zero."""
        return self.residual_norm / self._stop.b_norm if self._stop.b_norm else 0.0

    @property
    def finished(self) -> bool:
        """Whether to stop: the residual is small enough, the step limit is reached, or only rounding errors remain."""
        return self._stop.met(self.n_steps, self._rr)

    def step(self) -> None:
        """Advance by one step.

        Raises
        ------
        NumericalError
            If p^T A p is not positive, which is impossible for G + lambda I.
        """
        Ap = self._matvec(self._p)
        alpha = self._rz / check_curvature(self._dot(self._p, Ap), self.n_steps)
        add_scaled(self.x, alpha, self._p)
        add_scaled(self._r, -alpha, Ap)
        self._stop.progress.step(0.5 * alpha * self._rz)
        self._rr = self._dot(self._r, self._r)
        if self._precondition is None:
            z, rz = self._r, self._rr
        else:
            z = self._precondition(self._r)
            rz = self._dot(self._r, z)
        scale_and_add(self._p, rz / self._rz, z)
        self._rz = rz
        self.n_steps += 1


def rounding_floor(b: Array, squared_norm: float) -> float:
    """Squared norm below which a residual is only rounding: its direction and curvature are then meaningless.

    Parameters
    ----------
    b : Array of shape (n,)
        Right-hand side, or this rank's part of it; its dtype matters.
    squared_norm : float
        b^T b, over all ranks.

    Returns
    -------
    float
    """
    return float(np.finfo(b.dtype).eps) ** 2 * squared_norm


def check_curvature(curvature: float, n_steps: int, *, collective: bool = False) -> float:
    """Refuse a curvature p^T A p that a positive definite matrix cannot have.

    Parameters
    ----------
    curvature : float
        p^T A p of a CG step.
    n_steps : int
        Number of steps made before.
    collective : bool
        Whether all ranks raise the error together.

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
        "data ([data] scale), use float64 ([run] dtype) or more damping",
        collective=collective,
    )
