r"""The damped Gauss-Newton system with fewer variables than residuals, solved in the space of variables.

.. math:: d = \arg\min_d \Big\| \begin{pmatrix} J / \sqrt n \\ S^{1/2} \end{pmatrix} d +
        \begin{pmatrix} u / \sqrt n \\ 0 \end{pmatrix} \Big\|^2 + 2 h^T d, \qquad J / \sqrt n = Q R

If the damping S is large against J^T J / n, the Cholesky factorisation of their sum takes a fifth of the time, with an
error of at most rounding times 1e10. Otherwise Householder's QR factorises J, once for all S, and then R together with
each S: this never squares the condition number of J, as J^T J or J J^T would, so small residuals keep their digits. J
consists of all ranks' columns and samples, and every rank holds the whole of it: N x P numbers, fewer than N^2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from distnewton.backend import SYSTEM_ADVICE, Array, to_host
from distnewton.curvature.gram import GramMatrix
from distnewton.curvature.linearization import Linearization
from distnewton.directions.direction import relative
from distnewton.errors import NumericalError
from distnewton.solvers.least_squares import solves_for_variables

_PANEL = 32
_LEAST = 1e-10
"""Least damping, relative to the trace of J^T J / n, for which the normal equations are solved."""


class _Rows:
    """J and the residuals of one point, divided by the root of n, and what the first damping derived from them.

    Parameters
    ----------
    rows : Array of shape (N, P + 1)
        J, and u in the last column; overwritten.

    Attributes
    ----------
    gram : Array of shape (P + 1, P + 1)
        Inner products of the columns.
    """

    def __init__(self, rows: Array) -> None:
        self._rows = rows
        self._triangle: Array | None = None
        self.gram = rows.T @ rows

    def triangle(self) -> Array:
        """Return R of the rows, which it overwrites."""
        from scipy.linalg import qr

        if self._triangle is None:
            (self._triangle,) = qr(self._rows, mode="r", overwrite_a=True, check_finite=False)
            self._rows = np.zeros((0, 0))
        return self._triangle


class _Normal:
    """The damped normal equations, solved by Cholesky factorisation.

    Parameters
    ----------
    gram : Array of shape (P + 1, P + 1)
        Inner products of the columns of J, and of u.
    shift : Array of shape (P,)
        The diagonal matrix S.
    """

    def __init__(self, gram: Array, shift: Array) -> None:
        from scipy.linalg import cho_factor

        self._matrix = gram[:-1, :-1] + np.diag(shift)
        self._gradient = gram[:-1, -1]
        self._factor = cho_factor(self._matrix, check_finite=False)
        self.sizes = np.abs(self._factor[0].diagonal())

    def solve(self, force: Array, *, with_residuals: bool) -> tuple[Array, float]:
        """Compute the direction and its relative residual."""
        from scipy.linalg import cho_solve

        rhs = force + self._gradient if with_residuals else force
        d = -cho_solve(self._factor, rhs, check_finite=False)
        return d, relative(float(np.linalg.norm(self._matrix @ d + rhs)), float(np.linalg.norm(rhs)))


class _Orthogonal:
    """The damped least-squares problem, solved by QR.

    Parameters
    ----------
    triangle : Array of shape (P + 1, P + 1)
        R of J and u.
    shift : Array of shape (P,)
        The diagonal matrix S.
    """

    def __init__(self, triangle: Array, shift: Array) -> None:
        from scipy.linalg import lapack

        n = len(shift)
        self._first, self._reduced = np.asfortranarray(triangle[:n, :n]), triangle[:n, n].copy()
        # stack R on the damping's diagonal: both are triangular
        panel = min(_PANEL, n)
        self._R, *self._reflectors, _ = lapack.dtpqrt(n, panel, self._first, np.diag(np.sqrt(shift)))
        self.sizes = np.abs(self._R.diagonal())

    def solve(self, force: Array, *, with_residuals: bool) -> tuple[Array, float]:
        """Compute the direction and its relative residual."""
        from scipy.linalg import lapack, solve_triangular

        R, rhs = self._R, force
        below = solve_triangular(R, force, trans="T")
        if with_residuals:
            nothing = np.zeros((len(R), 1))
            moved, _, _ = lapack.dtpmqrt(len(R), *self._reflectors, self._reduced[:, None], nothing, trans="T")
            below, rhs = below + moved[:, 0], rhs + self._first.T @ self._reduced
        d = -solve_triangular(R, below)
        return d, relative(float(np.linalg.norm(R.T @ (R @ d) + rhs)), float(np.linalg.norm(rhs)))


class VariableSpace:
    """The system of all variables, factorised once for many right-hand sides.

    Parameters
    ----------
    problem : Linearization
        The model.
    layers : sequence of int
        All own layers.
    known : Any
        :attr:`known` of an earlier object for the same point.

    Attributes
    ----------
    known : _Rows
        Parts that do not depend on lambda.
    rank : int
        Number of variables.
    condition : float
        Estimate of the condition number of the damped matrix.
    note : str
        Always empty.

    Notes
    -----
    Construction is collective: a sum of N x P numbers, unless `known` is given.
    """

    note = ""

    def __init__(self, problem: Linearization, layers: Sequence[int], *, known: Any = None) -> None:
        self._problem = problem
        partition = problem.grid.partition
        starts = np.cumsum([0, *(partition.n_params(rank) for rank in range(partition.n_ranks))])
        self._own, self.rank = slice(*starts[problem.grid.rank : problem.grid.rank + 2]), int(starts[-1])
        self.known = known if isinstance(known, _Rows) else _Rows(self._rows(layers))
        shift = problem.shift_matrix
        diagonal = np.full(self.rank, shift.mean) if shift.diagonal is None else self._of_all(shift.diagonal)
        gram = self.known.gram
        if not (np.isfinite(gram).all() and np.isfinite(diagonal).all()):
            raise NumericalError(SYSTEM_ADVICE, collective=True)
        if diagonal.min() >= _LEAST * np.trace(gram[:-1, :-1]):
            self._factor: _Normal | _Orthogonal = _Normal(gram, diagonal)
        else:
            self._factor = _Orthogonal(self.known.triangle(), diagonal)
        sizes = self._factor.sizes
        self.condition = float((sizes.max() / sizes.min()) ** 2) if sizes.min() else math.inf

    @staticmethod
    def suits(problem: Linearization) -> bool:
        """Whether the model should be solved this way."""
        n_rows = problem.n_samples * problem.jacobian.n_out
        return solves_for_variables(n_rows, problem.sample.point.network.shape.n_params)

    def solve(self, u: Array | None, h: Array | None) -> tuple[Array, float]:
        """Solve for the direction of a right-hand side.

        Parameters
        ----------
        u : Array of shape (n_own, k) or None
            Residuals of the point, if they are part of the right-hand side.
        h : Array of shape (n_params_local,) or None
            Part in the space of this rank's variables; None for zero.

        Returns
        -------
        Array of shape (n_params_local,)
            d.
        float
            Relative residual.

        Notes
        -----
        Collective if h is given.
        """
        force = np.zeros(self.rank) if h is None else self._of_all(h)
        d, residual = self._factor.solve(force, with_residuals=u is not None)
        return self._problem.backend.asarray(d[self._own]), residual

    def _rows(self, layers: Sequence[int]) -> Array:
        """J and u of all samples and variables over the root of n, in float64."""
        problem, n = self._problem, self.rank
        share, k = problem.sample.share, problem.jacobian.n_out
        whole = np.zeros((share.n_samples, k, n + 1))
        whole[share.own, :, self._own] = to_host(
            GramMatrix(problem.jacobian, layers, problem.grid, share).explicit()
        )
        u = problem.sample.residuals
        if u is not None and problem.grid.rank == 0:
            whole[share.own, :, n] = to_host(u)
        problem.grid.world.sum_inplace(whole)
        rows = whole.reshape(share.n_samples * k, n + 1)
        rows /= math.sqrt(problem.n_samples)
        return rows

    def _of_all(self, own: Array) -> Array:
        """Gather a vector of all variables, in float64, from the ranks' parts."""
        whole = np.zeros(self.rank)
        whole[self._own] = to_host(own)
        return self._problem.grid.sum_all(whole)
