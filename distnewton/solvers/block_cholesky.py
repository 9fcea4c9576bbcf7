r"""Cholesky factorisation of a matrix too large for any rank: block columns are distributed cyclically over the ranks.

Each rank holds the lower part of its block columns, N^2 / (2 P) numbers, which its part of the factor overwrites. Step
j sends block column j of the factor to all ranks, which subtract its products from their own later columns (the
right-looking algorithm of ScaLAPACK's PDPOTRF on a process row).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from distnewton.backend import SYSTEM_ADVICE, Array, Backend, scalar
from distnewton.errors import NumericalError
from distnewton.parallel.collectives import Communicator

MOST_REPLICATED = 2048
"""Largest number of rows of a matrix that every rank factorises."""
_N_COPIES = 3
"""N x N matrices in memory at once in that case: K, its factor, and one in float64 if float32 cannot factorise it."""
_N_PANELS = 6
"""Block columns in memory at once otherwise, besides a rank's own."""
GROUPS = 4
"""Groups of block columns per rank, computed one at a time: each has at most N^2 / (4 P) numbers."""
_WIDEST, _NARROWEST = 128, 32
_PANELS = 32
"""Block columns per rank: enough to balance the load and to keep a block column small against a rank's share."""


def block_bounds(n: int, unit: int, n_ranks: int) -> list[int]:
    """Compute the starts of the block columns of a matrix of n rows, followed by n; multiples of a unit.

    Parameters
    ----------
    n, unit : int
        Rows of the matrix, and number of rows that stay together.
    n_ranks : int
        Number of ranks.

    Returns
    -------
    list of int
    """
    width = max(1, max(_NARROWEST, min(_WIDEST, n // (_PANELS * n_ranks))) // unit) * unit
    return [*range(0, n, width), n]


def system_size(n_rows: int, n_ranks: int) -> int:
    """Count the numbers that a rank holds for a system with this many rows.

    Parameters
    ----------
    n_rows : int
        Rows of the system.
    n_ranks : int
        Number of ranks that share it.

    Returns
    -------
    int
    """
    replicated = _N_COPIES * min(n_rows, MOST_REPLICATED) ** 2
    if n_rows <= MOST_REPLICATED:
        return replicated
    width = block_bounds(n_rows, 1, n_ranks)[1]
    # a rank has at most one block column more than the others; the leftmost are the longest
    dealt = n_rows**2 // (2 * n_ranks) + n_rows**2 // (GROUPS * n_ranks) + (_N_PANELS + 1) * width * n_rows
    # a matrix that is smaller never takes more
    return max(replicated, dealt)


class BlockCholesky:
    """L L^T = A over the ranks of a communicator.

    Parameters
    ----------
    comm : Communicator
        The ranks.
    backend : Backend
        Makes arrays.
    bounds : sequence of int
        Starts of the block columns, followed by the number of rows n.
    columns : callable
        (start, stop) -> this rank's part of the columns, of shape (n - start, stop - start), from row ``start`` on: A
        is the sum over the ranks.
    shift : float
        Number added to the diagonal of A.

    Attributes
    ----------
    norm : float
        1-norm of A: the largest sum of absolute values in a column.

    Raises
    ------
    NumericalError
        If A is not positive definite, on all ranks alike.

    Notes
    -----
    Collective: two sums for each block column, of N^2 numbers in total.
    """

    def __init__(
        self,
        comm: Communicator,
        backend: Backend,
        bounds: Sequence[int],
        columns: Callable[[int, int], Array],
        shift: float,
    ) -> None:
        self._comm, self._backend = comm, backend
        self._blocks = list(pairwise(bounds))
        self._n = bounds[-1]
        self._own: dict[int, Array] = {}
        sums = backend.zeros(self._n)
        for j, (start, stop) in enumerate(self._blocks):
            panel = comm.sum_inplace(columns(start, stop))
            width = stop - start
            panel.reshape(-1)[: width * width : width + 1] += shift
            absolute = backend.xp.abs(panel)
            sums[start:stop] += absolute.sum(axis=0)
            sums[stop:] += absolute[width:].sum(axis=1)
            if self._owns(j):
                self._own[j] = panel
        self.norm = scalar(sums.max()) if self._n else 0.0
        for j in range(len(self._blocks)):
            self._eliminate(j)

    def _owns(self, j: int) -> bool:
        return j % self._comm.size == self._comm.rank

    def _eliminate(self, j: int) -> None:
        """Factorise a block column, and subtract its products from the later ones."""
        start, stop = self._blocks[j]
        width, xp = stop - start, self._backend.xp
        if self._owns(j):
            panel = self._own[j]
            try:
                L = self._backend.cholesky(panel[:width]).astype(panel.dtype, copy=False)
                panel[:width] = xp.tril(L)
                panel[width:] = self._backend.solve_triangular(L, panel[width:].T, transposed=False).T
            except NumericalError:
                # the other ranks wait for the panel, so the panel carries the failure
                panel[...] = xp.nan
        else:
            panel = self._backend.zeros(self._n - start, width)
        self._comm.sum_inplace(panel)
        if not scalar(xp.isfinite(panel[0, 0])):
            raise NumericalError(SYSTEM_ADVICE, collective=True)
        for i, block in self._own.items():
            if i > j:
                first = self._blocks[i][0] - start
                block -= panel[first:] @ panel[first : first + block.shape[1]].T

    def solve(self, b: Array) -> Array:
        """Solve A x = b.

        Parameters
        ----------
        b : Array of shape (n,)
            Right-hand side, replicated.

        Returns
        -------
        Array of shape (n,)
            Solution, replicated.

        Notes
        -----
        Collective: two small sums for each block column.
        """
        x, products = b.copy(), self._backend.zeros(self._n)
        for j, (start, stop) in enumerate(self._blocks):
            product = self._comm.sum_inplace(products[start:stop].copy())
            if self._owns(j):
                L = self._own[j]
                y = self._backend.solve_triangular(L[: stop - start], x[start:stop] - product, transposed=False)
                products[stop:] += L[stop - start :] @ y
                x[start:stop] = y
        for j, (start, stop) in reversed(list(enumerate(self._blocks))):
            if self._owns(j):
                L = self._own[j]
                y = x[start:stop] - L[stop - start :].T @ x[stop:]
                y = self._backend.solve_triangular(L[: stop - start], y, transposed=True)
            else:
                y = self._backend.zeros(stop - start)
            x[start:stop] = self._comm.sum_inplace(y)
        return x
