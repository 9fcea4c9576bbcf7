r"""The damped Gauss-Newton system solved through sample space (Woodbury's identity).

.. math:: \Big(\tfrac1n J^T J + S\Big) d = -\Big(\tfrac1n J^T u + h\Big) \quad\Longrightarrow\quad
    d = -S^{-1} h - M^{-1} J^T y, \qquad (J M^{-1} J^T + n \bar s I)\, y = u - J S^{-1} h

with J the rows times roots of B, S = I/C + lambda D, sbar its mean and M = S / sbar (the identity if D is). The part u
of the gradient that lies in the rows never passes through the variables: if lambda is small, the usual form, with u = 0
and h the whole gradient, loses the direction in the difference of two large vectors.

Up to :data:`~distnewton.solvers.block_cholesky.MOST_REPLICATED` rows every rank factorises the matrix; a larger one is
distributed over the ranks (:class:`~distnewton.solvers.block_cholesky.BlockCholesky`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from distnewton.backend import SYSTEM_ADVICE, Array, Backend, scalar
from distnewton.curvature.gram import GramMatrix
from distnewton.curvature.linearization import BlockModel
from distnewton.directions.direction import relative
from distnewton.errors import NumericalError
from distnewton.parallel.replicas import SampleShare
from distnewton.solvers.block_cholesky import GROUPS, MOST_REPLICATED, BlockCholesky, block_bounds
from distnewton.solvers.condition import inverse_norm


class _Factor(Protocol):
    """A factorised matrix."""

    rank: int
    condition: float
    note: str

    def solve(self, b: Array) -> Array:
        """Solve for a right-hand side."""
        ...


class SampleSpace:
    """The system of some layers, factorised once for many right-hand sides.

    Parameters
    ----------
    problem : BlockModel
        The model.
    layers : sequence of int
        Own layers that take part.
    apart : bool
        Whether this rank's own columns and samples form a separate system, without communication.
    known : tuple of Array or None
        :attr:`known` of an earlier object for the same point and the same h.

    Attributes
    ----------
    known : tuple of Array or None
        Parts that do not depend on lambda: K, its diagonal and J h, if damping is by the identity and K is replicated.
    """

    def __init__(
        self,
        problem: BlockModel,
        layers: Sequence[int],
        *,
        apart: bool = False,
        known: tuple[Array, Array, Array] | None = None,
    ) -> None:
        self._problem, self._layers, self._apart, self.known = problem, layers, apart, known
        share, shift = problem.sample.share, problem.shift_matrix
        self._metric = None if shift.diagonal is None else shift.diagonal / shift.mean
        self._gram = GramMatrix(
            problem.jacobian, layers, problem.grid, SampleShare(share.n_own) if apart else share, self._metric
        )
        self._n_rows = self._gram.n_samples * self._gram.k
        self._shift = shift.mean * self._gram.n_samples
        self._factor: _Factor | None = None

    @property
    def rank(self) -> int:
        """Numerical rank of the matrix: its full size if the Cholesky factorisation exists."""
        return self._factor.rank if self._factor else 0

    @property
    def condition(self) -> float:
        """Estimate of the condition number."""
        return self._factor.condition if self._factor else 0.0

    @property
    def note(self) -> str:
        """Problem that was repaired."""
        return self._factor.note if self._factor else ""

    def solve(self, u: Array | None, h: Array | None) -> tuple[Array, float]:
        """Solve for the direction of a right-hand side.

        Parameters
        ----------
        u : Array of shape (n_own, k) or None
            Part in the space of own samples, replicated; None for zero.
        h : Array of shape (n_params_local,) or None
            Part in the space of this rank's variables; None for zero.

        Returns
        -------
        Array of shape (n_params_local,)
            d, zero outside the layers of this system.
        float
            Relative residual in sample space.

        Raises
        ------
        NumericalError
            If the matrix cannot be factorised.

        Notes
        -----
        Collective unless apart: one sum of N^2 + N numbers the first time and of N later, or the messages of
        :class:`~distnewton.solvers.block_cholesky.BlockCholesky`. With replicas also sums of u and of d over them.
        """
        problem = self._problem
        b, Jh = problem.backend.zeros(self._n_rows), problem.backend.zeros(self._n_rows)
        scaled = None if h is None else self._without_shift(h)
        if scaled is not None:
            Jh = self._gram.place(problem.jacobian.matvec(scaled, self._layers))
        if self._factor is None:
            self._factor, Jh = self._factorise(Jh)
        elif scaled is not None and not self._apart:
            Jh = problem.grid.world.sum_inplace(Jh)
        if u is not None:
            b += (u if self._apart else problem.grid.gather_samples(u, problem.sample.share)).ravel()
        b -= Jh if self._metric is not None else Jh / problem.shift
        y = self._factor.solve(b)
        correction = self._transposed(y)
        residual = self._residual(y, b, correction)
        direction = -correction
        if scaled is not None:
            direction -= scaled if self._metric is not None else scaled / problem.shift
        return direction, residual

    def _without_shift(self, h: Array) -> Array:
        """Compute S^{-1} h; if S is a multiple of the identity, returns h itself, which is divided later."""
        out = self._problem.backend.zeros(len(h))
        for part in (self._problem.layout.slices[m] for m in self._layers):
            diagonal = self._problem.shift_matrix.diagonal
            out[part] = h[part] if diagonal is None else h[part] / diagonal[part]
        return out

    def _factorise(self, Jh: Array) -> tuple[_Factor, Array]:
        """Return the factor, and J h summed over the ranks; one message carries both if the matrix is small."""
        problem, n = self._problem, self._gram.n_samples
        if self._n_rows > MOST_REPLICATED and not self._apart:
            Jh = problem.grid.world.sum_inplace(Jh)
            return _Dealt(problem, self._gram, self._shift), Jh
        if self.known is None:
            K = self._gram.columns(0, n)
            if not self._apart and problem.grid.world.size > 1:
                message = problem.grid.world.sum_inplace(problem.backend.xp.concatenate([K.ravel(), Jh]))
                K, Jh = message[: K.size].reshape(K.shape), message[K.size :]
            self.known = K, K.diagonal().copy(), Jh
        K, diagonal, Jh = self.known
        K.reshape(-1)[:: len(K) + 1] = diagonal + self._shift
        return _Replicated(problem.backend, K), Jh

    def _transposed(self, y: Array) -> Array:
        """Compute M^{-1} J^T y for this rank's variables, over the samples of all replicas unless apart."""
        problem = self._problem
        out = problem.backend.zeros(problem.layout.n_params)
        problem.jacobian.rmatvec(self._gram.own_rows(y), out, self._layers)
        if not self._apart:
            problem.grid.sum_over_replicas(out)
        if self._metric is not None:
            out /= self._metric
        return out

    def _residual(self, y: Array, b: Array, correction: Array) -> float:
        """Relative residual of a solution y whose J^T y is known."""
        problem, norm = self._problem, self._problem.backend.xp.linalg.norm
        if isinstance(self._factor, _Replicated):
            product = self._factor.K @ y
        else:
            product = self._gram.place(problem.jacobian.matvec(correction, self._layers))
            product = problem.grid.world.sum_inplace(product) + self._shift * y
        return relative(scalar(norm(product - b)), scalar(norm(b)))


class _Replicated:
    """A matrix that every rank factorises: by Cholesky, or by its eigenvalues if that fails.

    Parameters
    ----------
    backend : Backend
        Provides the factorisations.
    K : Array of shape (N, N)
        The matrix; it is kept.
    """

    def __init__(self, backend: Backend, K: Array) -> None:
        self.K, self._backend = K, backend
        self.rank, self.note = len(K), ""
        try:
            self._factor = backend.cholesky(K)
        except NumericalError:
            self._decompose()
        else:
            norm = scalar(backend.xp.abs(K).sum(axis=0).max())
            self.condition = norm * inverse_norm(lambda b: backend.solve(self._factor, b), backend.zeros(len(K)))

    def _decompose(self) -> None:
        """Keep the eigenvalues above rounding, if Cholesky finds the matrix not positive definite."""
        xp = self._backend.xp
        K = self.K.astype(np.float64)
        if not scalar(xp.isfinite(K).all()):
            raise NumericalError(SYSTEM_ADVICE, collective=True)
        values, vectors = xp.linalg.eigh(K)
        largest = scalar(values[-1])
        kept = values > len(K) * float(np.finfo(self.K.dtype).eps) * largest
        self.rank = int(scalar(kept.sum())) if largest > 0.0 else 0
        if not self.rank:
            raise NumericalError(SYSTEM_ADVICE, collective=True)
        self._values, self._vectors = values[-self.rank :], vectors[:, -self.rank :]
        self.condition = largest / scalar(self._values[0])
        self.note = (
            f"the matrix in sample space is not positive definite in this precision: solved by the largest "
            f"{self.rank} of its {len(K)} eigenvalues"
        )

    def solve(self, b: Array) -> Array:
        """Solve K y = b; if K is rank-deficient, returns the shortest of the least-squares solutions."""
        if self.rank == len(self.K) and not self.note:
            return self._backend.solve(self._factor, b)
        return self._backend.asarray(self._vectors @ ((self._vectors.T @ b) / self._values))


class _GroupedColumns:
    """Maker of the matrix's block columns, several of them at a time.

    Narrow products are slow, and each needs the columns of J anew, so columns are made in groups. A group takes as much
    memory as half of the part of the matrix that a rank keeps.

    Parameters
    ----------
    gram : GramMatrix
        Makes the columns.
    width : int
        Columns in a block column.
    n_ranks : int
        Number of ranks that share the matrix.
    """

    def __init__(self, gram: GramMatrix, width: int, n_ranks: int) -> None:
        self._gram, self._n = gram, gram.n_samples * gram.k
        self._size = max(1, self._n // (GROUPS * n_ranks) // width) * width
        self._first, self._made = 0, gram.columns(0, min(self._size, self._n) // gram.k)

    def __call__(self, start: int, stop: int) -> Array:
        """Compute this rank's part of some columns, from row ``start`` on."""
        if stop > self._first + self._made.shape[1]:
            self._first, k = start, self._gram.k
            self._made = self._gram.columns(start // k, min(start + self._size, self._n) // k)
        columns = slice(start - self._first, stop - self._first)
        return self._made[columns.start :, columns].copy()


class _Dealt:
    """A matrix distributed over the ranks of all replicas.

    Parameters
    ----------
    problem : BlockModel
        The model.
    gram : GramMatrix
        Makes this rank's part of the columns.
    shift : float
        Number added to the diagonal.
    """

    note = ""

    def __init__(self, problem: BlockModel, gram: GramMatrix, shift: float) -> None:
        world = problem.grid.world
        self.rank = gram.n_samples * gram.k
        bounds = block_bounds(self.rank, gram.k, world.size)
        self._cholesky = BlockCholesky(
            world, problem.backend, bounds, _GroupedColumns(gram, bounds[1], world.size), shift
        )
        norm = inverse_norm(self._cholesky.solve, problem.backend.zeros(self.rank))
        self.condition = self._cholesky.norm * norm

    def solve(self, b: Array) -> Array:
        """Solve K y = b."""
        return self._cholesky.solve(b)
