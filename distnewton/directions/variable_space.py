r"""The damped Gauss-Newton system of fewer variables than residuals, as a least-squares problem by Householder's QR.

.. math:: d = \arg\min_d \Big\| \begin{pmatrix} J / \sqrt n \\ S^{1/2} \end{pmatrix} d +
        \begin{pmatrix} u / \sqrt n \\ 0 \end{pmatrix} \Big\|^2 + 2 h^T d, \qquad J / \sqrt n = Q R

J is factorised once for all dampings S, and R with each of them. The condition number of J is never squared, as in
J^T J or J J^T, so that small residuals keep their digits. J is made of this rank's columns and samples, and every rank
has the whole of it: N x P numbers, of which there are fewer than N^2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from distnewton.backend import SYSTEM_ADVICE, Array, to_host
from distnewton.curvature.gram import GramMatrix
from distnewton.curvature.linearization import Linearization
from distnewton.directions.direction import relative
from distnewton.errors import NumericalError
from distnewton.solvers.least_squares import solves_for_variables

_PANEL = 32


class VariableSpace:
    """The system of all variables, factorised once for any number of right-hand sides.

    Parameters
    ----------
    problem : Linearization
        The model.
    layers : sequence of int
        All own layers.
    known : tuple of Array or None
        :attr:`known` of an earlier object at this point.

    Attributes
    ----------
    known : tuple of Array
        R and Q^T u, which do not depend on lambda.
    rank : int
        Number of variables.
    condition : float
        Estimate of the condition number of the damped matrix.
    note : str
        Empty.

    Notes
    -----
    Construction is collective: a sum of N x P numbers, unless they are known.
    """

    note = ""

    def __init__(
        self, problem: Linearization, layers: Sequence[int], *, known: tuple[Array, ...] | None = None
    ) -> None:
        from scipy.linalg import lapack

        self._problem, self._lapack = problem, lapack
        partition = problem.grid.partition
        starts = np.cumsum([0, *(partition.n_params(rank) for rank in range(partition.n_ranks))])
        self._own, self.rank = slice(*starts[problem.grid.rank : problem.grid.rank + 2]), int(starts[-1])
        if known is None or len(known) != 2:
            known = self._reduced(layers)
        self.known = known
        shift = problem.shift_matrix
        diagonal = np.full(self.rank, shift.mean) if shift.diagonal is None else self._of_all(shift.diagonal)
        if not (np.isfinite(known[0]).all() and np.isfinite(diagonal).all()):
            raise NumericalError(SYSTEM_ADVICE, collective=True)
        # R on the damping's diagonal: both are triangular
        panel = min(_PANEL, self.rank)
        self._R, *self._reflectors, _ = lapack.dtpqrt(self.rank, panel, known[0], np.diag(np.sqrt(diagonal)))
        sizes = np.abs(self._R.diagonal())
        self.condition = float((sizes.max() / sizes.min()) ** 2) if sizes.min() else math.inf

    @staticmethod
    def suits(problem: Linearization) -> bool:
        """Whether the model is solved so."""
        n_rows = problem.n_samples * problem.jacobian.n_out
        return solves_for_variables(n_rows, problem.sample.point.network.shape.n_params)

    def solve(self, u: Array | None, h: Array | None) -> tuple[Array, float]:
        """The direction of a right-hand side.

        Parameters
        ----------
        u : Array of shape (n_own, k) or None
            The residuals of the point, if they are part of it.
        h : Array of shape (n_params_local,) or None
            Its part in the space of this rank's variables; None for zero.

        Returns
        -------
        Array of shape (n_params_local,)
            d.
        float
            Relative residual.

        Notes
        -----
        Collective where there is an h.
        """
        from scipy.linalg import solve_triangular

        R = self._R
        below, rhs = np.zeros(self.rank), np.zeros(self.rank)
        if u is not None:
            known_R, reduced = self.known
            nothing = np.zeros((self.rank, 1))
            moved, _, _ = self._lapack.dtpmqrt(self.rank, *self._reflectors, reduced[:, None], nothing, trans="T")
            below, rhs = moved[:, 0], known_R.T @ reduced
        if h is not None:
            force = self._of_all(h)
            below, rhs = below + solve_triangular(R, force, trans="T"), rhs + force
        d = -solve_triangular(R, below)
        residual = relative(float(np.linalg.norm(R.T @ (R @ d) + rhs)), float(np.linalg.norm(rhs)))
        return self._problem.backend.asarray(d[self._own]), residual

    def _reduced(self, layers: Sequence[int]) -> tuple[Array, Array]:
        """R and Q^T u, from J and u of all samples and variables, in float64."""
        from scipy.linalg import qr

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
        (R,) = qr(rows, mode="r", overwrite_a=True, check_finite=False)
        return np.asfortranarray(R[:n, :n]), R[:n, n].copy()

    def _of_all(self, own: Array) -> Array:
        """A vector of all variables, in float64, from each rank's."""
        whole = np.zeros(self.rank)
        whole[self._own] = to_host(own)
        return self._problem.grid.sum_all(whole)
