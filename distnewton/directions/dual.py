r"""The exact direction through sample space (Woodbury's identity), over all ranks or for each rank's own block.

.. math:: d = -\frac1\mu \Big( g - J^T (J J^T + \mu |S| I)^{-1} J g \Big), \qquad \mu = \lambda + 1/C

with J the Jacobian's rows times roots of B, of N = |S| n_out rows (|S| k with a sketch of k). J J^T needs no J: it is
a sum over blocks of Hadamard products of Gram matrices (of the inputs, plus 1 for the bias, and of D), so over ranks
one sum of N^2 + N numbers, with J g riding along. What [EGN] (arXiv 2405.14402) does with an explicit J; the form here
holds for any gradient, also one of more samples than S and with weight decay.

Of replicas of the grid each makes the rows of J J^T of its own samples, for which it needs the others' inputs and
factors; the rows are then gathered, so that all solve the same system. ``block_dual`` solves with each replica's own
samples, and the step takes the mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import numpy as np

from distnewton.backend import (
    Array,
    Backend,
    is_sparse,
    library_of,
    like,
    load_lapack,
    namespace,
    scalar,
    take_rows,
)  # fmt: skip
from distnewton.curvature.jacobian import Jacobian, JacobianPart
from distnewton.curvature.linearization import Linearization
from distnewton.directions.direction import Curvature, Direction, DirectionResult, Presets, Role, relative
from distnewton.directions.options import BlockOptions, DampingOptions, SketchOptions
from distnewton.errors import ConfigError, NumericalError
from distnewton.network.layers import sample_gradients
from distnewton.options import Options
from distnewton.parallel.grid import ProcessGrid
from distnewton.parallel.partition import Block
from distnewton.parallel.replicas import SampleShare
from distnewton.parallel.termination import EarlyTermination

_CHUNK_SIZE = 1 << 22
"""Numbers of a Gram matrix that are made at a time."""
_N_COPIES = 3
"""Matrices of N x N that live at once: K, its factor, and one more in float64 where float32 cannot factorise."""


class DualOptions(SketchOptions, DampingOptions):
    """Rows of the Jacobian, and the damping that makes the system regular."""


class Dual(Direction):
    """The exact direction of the full matrix."""

    name = "dual"
    help = "the exact Gauss-Newton direction through sample space (Woodbury), one sum"
    roles: ClassVar[frozenset[Role]] = frozenset({"solver", "proposal"})
    own_options: ClassVar[type[Options]] = DualOptions
    presets: ClassVar[Presets] = {"proposal": {"damping": 0.1}}
    curvature: Curvature = "roots"
    random_rows = False
    _by_layer = False

    def solve(self, problem: Linearization, termination: EarlyTermination) -> DirectionResult:
        """Form J J^T, factorise it on every rank, and go back to the variables; at most one sum over a replica."""
        if not problem.shift > 0.0:
            raise NumericalError(
                "the dual direction needs method.damping > 0 or a finite method.C: without either the matrix is "
                "singular",
                collective=True,
            )
        jacobian = problem.jacobian
        direction = -problem.gradient
        residual, failure = 0.0, ""
        for layers in [[m] for m in jacobian.layers] if self._by_layer else [jacobian.layers]:
            if self.apart and not any(problem.layout.blocks[m].n_params for m in layers):
                continue
            K, Jg = self._system(problem, layers)
            n_samples = problem.sample.share.n_own if self.apart else problem.n_samples
            K.reshape(-1)[:: len(K) + 1] += problem.shift * n_samples
            try:
                y = problem.backend.solve(K, Jg)
            except NumericalError as error:
                # told with the direction, which is tried again: other replicas may wait in the sum below
                y, failure = problem.backend.xp.zeros_like(Jg), str(error)
            norm = problem.backend.xp.linalg.norm
            residual = max(residual, relative(scalar(norm(K @ y - Jg)), scalar(norm(Jg))))
            correction = problem.backend.zeros(problem.layout.n_params)
            rows = y.reshape(n_samples, -1)
            own = rows if self.apart else take_rows(rows, problem.sample.share.own)
            jacobian.rmatvec(problem.backend.xp.ascontiguousarray(own), correction, layers)
            direction += correction if self.apart else problem.grid.sum_over_replicas(correction)
        direction /= problem.shift
        return DirectionResult(direction, 0, not failure, residual, failure=failure)


    def check_memory(self, n_samples: int, n_out: int, itemsize: int, memory_mb: float) -> None:
        """Refuse a system in sample space that does not fit, and say by how much."""
        n_rows = min((0 if self.options.sketch == "auto" else self.options.sketch) or n_out, n_out)
        n = n_samples * n_rows
        needed = _N_COPIES * n**2 * itemsize / 2**20
        if needed <= memory_mb:
            return
        fitting = int((memory_mb * 2**20 / itemsize / _N_COPIES) ** 0.5)
        ways = [f"more memory (run.memory_mb = {math.ceil(needed)})", "or direction = gauss_newton"]
        if fitting >= n_samples:
            ways.insert(0, f"fewer rows (method.sketch = {fitting // n_samples})")
        if fitting >= n_rows:
            ways.insert(0, f"at most {fitting // n_rows} samples (method.subsample and subsample_min, or batch)")
        raise ConfigError(
            f"the dual direction solves for {n_samples} samples x {n_rows} rows = {n:,} unknowns: {needed:,.0f} MB a "
            f"rank, {needed / memory_mb:.1f} times run.memory_mb = {memory_mb:g}, which allows {fitting:,}; take "
            f"{', '.join(ways)}",
            collective=True,
        )

    def _system(self, problem: Linearization, layers: list[int]) -> tuple[Array, Array]:
        """J J^T and J g: of own samples and blocks, or of all."""
        jacobian, grid, share = problem.jacobian, problem.grid, problem.sample.share
        apart = self.apart or grid.n_replicas == 1
        K, Jg = sample_space_system(jacobian, problem.gradient, layers, None if apart else SamplesOfAll(grid, share))
        if self.apart:
            return K, Jg
        xp = problem.backend.xp
        message = grid.sum_all(xp.concatenate([K.ravel(), Jg]))
        K, Jg = message[: K.size].reshape(K.shape), message[K.size :]
        if grid.n_replicas == 1:
            return K, Jg
        k = jacobian.n_out
        width = share.n_samples * k + 1
        # sizes in full: a replica may have none of a mini-batch's samples
        rows = xp.concatenate([K, Jg[:, None]], axis=1).reshape(share.n_own, k * width)
        whole = grid.gather_samples(rows, share).reshape(share.n_samples * k, width)
        return xp.ascontiguousarray(whole[:, :-1]), xp.ascontiguousarray(whole[:, -1])


class BlockDualOptions(DualOptions, BlockOptions):
    """The same on a rank's own block."""


class BlockDual(Dual):
    """The exact direction of each rank's own block, without communication."""

    name = "block_dual"
    help = "each rank's own block solved exactly through sample space, without communication"
    own_options = BlockDualOptions
    apart = True

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        load_lapack()
        self._by_layer = self.options.by_layer


class SamplesOfAll:
    """What replicas hold of all samples, from what each holds of its own.

    Parameters
    ----------
    grid : ProcessGrid
        The ranks.
    share : SampleShare
        Which samples are this replica's.
    """

    def __init__(self, grid: ProcessGrid, share: SampleShare) -> None:
        self._grid, self._share = grid, share
        self.n_samples = share.n_samples

    def rows(self, array: Any, k: int = 1) -> Any:
        """Rows of all samples, from k of each own sample; dense or sparse (collective over the replicas)."""
        if is_sparse(array):
            return self._sparse_rows(array)
        by_sample = array.reshape(self._share.n_own, k * array.shape[1])
        return self._grid.gather_samples(by_sample, self._share).reshape(self.n_samples * k, array.shape[1])

    def _sparse_rows(self, X: Any) -> Any:
        offsets = library_of(X).row_offsets(X)
        lengths = self._grid.gather_samples(np.diff(offsets).astype(np.int64), self._share)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        # where the values of own samples lie among those of all: each row moves as a whole
        xp = namespace(X.data)
        own = xp.arange(X.data.size)
        moves = like(X.data, starts[:-1][self._share.own] - offsets[:-1])
        own += moves[xp.searchsorted(X.indptr, own, side="right") - 1]
        values, columns = xp.zeros(int(starts[-1]), X.dtype), xp.zeros(int(starts[-1]), np.int64)
        values[own], columns[own] = X.data, X.indices
        self._grid.sum_over_replicas(values)
        self._grid.sum_over_replicas(columns)
        return library_of(X).sparse_array(values, columns.astype(X.indices.dtype), starts, X.shape[1])


def sample_space_system(
    jacobian: Jacobian, gradient: Array, layers: Iterable[int], every: SamplesOfAll | None = None
) -> tuple[Array, Array]:
    """This rank's part of J J^T and J g, from the Gram matrices of its blocks.

    Parameters
    ----------
    jacobian : Jacobian
        This rank's columns, of k rows a sample.
    gradient : Array of shape (n_params_local,)
        g.
    layers : iterable of int
        Own layers that take part.
    every : SamplesOfAll or None
        Gives the samples of all replicas, whose products with the own ones are the rows of J J^T; by default the own
        samples are all.

    Returns
    -------
    Array of shape (n_own k, n k)
        Sum over dense blocks of (Z Z^T + [bias]) * (D D^T), the first repeated over the rows of a sample, and over
        layers that share their weights of products of explicit columns.
    Array of shape (n_own k,)
        J g.

    Notes
    -----
    Collective over the replicas, where there are several.
    """
    n, k = jacobian.n_samples, jacobian.n_out
    layers = list(layers)
    K = jacobian.backend.zeros(n * k, (every.n_samples if every else n) * k)
    for m in layers:
        block = jacobian.layout.blocks[m]
        if not block.n_params:
            continue
        part = jacobian.parts[m]
        if not part.layer.shape.shares_weights:
            _add_gram(K, part, k, every, owns_bias=block.owns_bias)
        else:
            n_of_all = every.n_samples if every else n
            for columns in explicit_columns(part, jacobian.backend, k, block, n_of_all):
                K += columns @ (every.rows(columns, k) if every else columns).T
    return K, jacobian.matvec(gradient, layers).ravel()


def _add_gram(K: Array, part: JacobianPart, k: int, every: SamplesOfAll | None, *, owns_bias: bool) -> None:
    """Add J J^T of a dense block: a Hadamard product of two Gram matrices."""
    Z = part.inputs
    n_own, n = Z.shape[0], K.shape[1] // k
    gram = Z @ (every.rows(Z) if every else Z).T
    gram = gram.toarray() if is_sparse(gram) else gram
    if owns_bias:
        gram = gram + 1
    dense = part.factor.dense()
    D = namespace(dense).ascontiguousarray(dense.reshape(n_own * k, dense.shape[2]))
    D_of_all = every.rows(D, k) if every else D
    n_rows = max(1, _CHUNK_SIZE // max(1, n * k * k))
    for start in range(0, n_own, n_rows):
        stop = min(start + n_rows, n_own)
        products = (D[start * k : stop * k] @ D_of_all.T).reshape(stop - start, k, n, k)
        products *= gram[start:stop, None, :, None]
        K[start * k : stop * k] += products.reshape((stop - start) * k, n * k)


def explicit_columns(
    part: JacobianPart, backend: Backend, k: int, block: Block, n_of_all: int
) -> Iterator[Array]:
    """Columns of J of a layer that shares its weights, some output units at a time.

    Places and channels couple all pairs of samples, so that a product of Gram matrices would cost more than J itself.

    Parameters
    ----------
    part : JacobianPart
        The block's.
    backend : Backend
        Makes arrays.
    k : int
        Rows of a sample.
    block : Block
        The block, with the biases' columns where it owns them.
    n_of_all : int
        Samples of all replicas: these take the same units at a time.

    Yields
    ------
    Array of shape (n k, (n_in_local + owns_bias) n_units)
    """
    D = part.factor.dense()
    n, n_elements = len(D), part.layer.shape.n_elements
    (n_in, n_out), n_rows = block.shape, block.shape[0] + block.owns_bias
    D = D.reshape(n, k, n_elements, n_out)
    winners = None if part.winners is None else part.winners.reshape(n, n_elements, n_out)
    step = max(1, _CHUNK_SIZE // max(1, n_of_all * k * n_rows))
    for start in range(0, n_out, step):
        units = slice(start, min(start + step, n_out))
        n_units = units.stop - units.start
        chosen = None if winners is None else winners[:, :, units].reshape(n, n_elements * n_units)
        columns = backend.empty(n, k, n_rows, n_units)
        for a in range(k):
            delta = D[:, a, :, units].reshape(n, n_elements * n_units)
            for piece in part.layer.unfold(part.inputs, delta, chosen):
                columns[piece.rows, a, :n_in] = sample_gradients(piece)
                if block.owns_bias:
                    columns[piece.rows, a, -1] = part.layer.bias_cotangents(piece)
        yield columns.reshape(n * k, n_rows * n_units)
