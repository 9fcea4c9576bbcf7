r"""The matrix in sample space, K = J M^{-1} J^T, computed from Gram matrices without J, some columns at a time.

For dense blocks K is a Hadamard product of the Gram matrices of the inputs (plus 1 for the bias) and of D. If inputs
carry derivatives as channels, it is the sum of such products over all pairs of channels,

.. math:: K_{ij} = \sum_{c, c'} (z_{ic} \cdot z_{jc'}) (d_{ic} \cdot d_{jc'}) + d_{i0} \cdot d_{j0}

which costs less than J in wide layers. Otherwise, and if M is not the identity, and for images, it is a product of
explicit columns of J, some units at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np

from distnewton.backend import Array, is_packed, is_sparse, library_of, like, namespace, take_rows
from distnewton.curvature.jacobian import Jacobian, JacobianPart
from distnewton.network.layers import sample_gradients
from distnewton.parallel.grid import ProcessGrid
from distnewton.parallel.partition import Block
from distnewton.parallel.replicas import SampleShare

_CHUNK_SIZE = 1 << 22
"""Numbers of explicit columns computed at a time."""
_IN_CACHE = 1 << 16
"""Numbers of a Gram matrix computed, multiplied and added at a time."""
_PAIR = 1.5
"""Slowdown of the narrow products of a pair of channels relative to wide ones of equal work."""


class GramMatrix:
    """A rank's part of J M^{-1} J^T, from its columns of J and its replica's samples.

    Parameters
    ----------
    jacobian : Jacobian
        This rank's columns, with k rows per sample.
    layers : sequence of int
        Own layers that take part.
    grid : ProcessGrid
        The ranks.
    share : SampleShare
        This replica's share of the samples.
    metric : Array of shape (n_params_local,) or None
        Diagonal of M; None for the identity.

    Attributes
    ----------
    n_samples, k : int
        Number of samples over all replicas, and rows per sample.
    """

    def __init__(
        self,
        jacobian: Jacobian,
        layers: Sequence[int],
        grid: ProcessGrid,
        share: SampleShare,
        metric: Array | None = None,
    ) -> None:
        self._jacobian, self._grid, self._share = jacobian, grid, share
        self._layers = [m for m in layers if jacobian.layout.blocks[m].n_params]
        self._roots = None if metric is None else jacobian.layout.views(namespace(metric).sqrt(1.0 / metric))
        self.n_samples, self.k = share.n_samples, jacobian.n_out

    def columns(self, start: int, stop: int) -> Array:
        """Compute this rank's part of some columns, from their diagonal block down.

        Parameters
        ----------
        start, stop : int
            Half-open range of the samples to which the columns belong.

        Returns
        -------
        Array of shape ((n_samples - start) k, (stop - start) k)
            Rows of the samples from ``start`` on, to be summed over all ranks. Other replicas' rows are zero.

        Notes
        -----
        Collective over the replicas, if there are several.
        """
        k, backend = self.k, self._jacobian.backend
        columns = backend.zeros((self.n_samples - start) * k, (stop - start) * k)
        first, last = self._share.within(start, self.n_samples)
        rows = slice(first, last)
        out = columns if self._share.whole else backend.zeros((last - first) * k, columns.shape[1])
        for m in self._layers:
            part = self._jacobian.parts[m]
            if self._roots is None and _pairs_suit(part, self._jacobian.layout.blocks[m]):
                self._add_gram(out, part, m, rows, (start, stop))
            else:
                for pieces in self._explicit(part, m, rows, stop - start):
                    self._add_product(out, pieces, (start, stop))
        if self._share.whole:
            self._mirror(columns)
        else:
            placed = columns.reshape(-1, k, columns.shape[1])
            own = self._share.part(start, self.n_samples).own
            placed[own if isinstance(own, slice) else like(placed, own)] = out.reshape(-1, k, columns.shape[1])
        return columns

    def explicit(self) -> Array:
        """Compute own samples' rows of J M^{-1/2} for this rank's variables, of shape (n_own, k, n_params_local)."""
        n, k, layout = self._share.n_own, self.k, self._jacobian.layout
        whole = self._jacobian.backend.zeros(n, k, layout.n_params)
        for m in self._layers:
            block = layout.blocks[m]
            by_unit = whole[:, :, layout.slices[m]].reshape(n, k, block.shape[0] + block.owns_bias, block.shape[1])
            for units, columns in self._by_units(self._jacobian.parts[m], m, slice(0, n), n):
                by_unit[..., units] = columns
        return whole

    def place(self, rows: Array) -> Array:
        """Place own rows, of shape (n_own, k), in a vector of all samples' rows that is zero elsewhere."""
        if self._share.whole:
            return rows.ravel()
        whole = self._jacobian.backend.zeros(self.n_samples, self.k)
        own = self._share.own
        whole[own if isinstance(own, slice) else like(whole, own)] = rows
        return whole.ravel()

    def own_rows(self, y: Array) -> Array:
        """Extract the own samples' rows from a vector of all: the adjoint of :meth:`place`."""
        rows: Array = namespace(y).ascontiguousarray(take_rows(y.reshape(self.n_samples, self.k), self._share.own))
        return rows

    def _mirror(self, columns: Array) -> None:
        """Fill the upper triangle of the diagonal block, most of which Gram matrices leave out."""
        width = columns.shape[1]
        for start, stop in self._chunks(width // self.k, width // self.k, _IN_CACHE):
            rows = slice(start * self.k, stop * self.k)
            columns[: rows.start, rows] = columns[rows, : rows.start].T

    def _chunks(self, n_rows: int, n_columns: int, size: int) -> Iterator[tuple[int, int]]:
        """Yield ranges of samples whose rows are computed at a time, of about `size` numbers."""
        numbers = self._jacobian.backend.at_once(size)
        step = max(1, numbers // max(1, n_columns * self.k**2))
        return ((start, min(start + step, n_rows)) for start in range(0, n_rows, step))

    def _n_own(self, start: int, stop: int) -> int:
        first, last = self._share.within(start, stop)
        return last - first

    def _add_product(self, out: Array, pieces: Array, columns: tuple[int, int]) -> None:
        """Add J J^T of some columns of J."""
        n_columns = self._n_own(*columns) * self.k
        first = pieces[:n_columns]
        others = self._of_all(first, columns, self.k)
        step, n_done = max(1, _CHUNK_SIZE // max(1, len(others))), 0
        if self._share.whole:
            # the diagonal block separately: BLAS halves the work for a product with the own transpose
            out[:n_columns] += first @ first.T
            n_done = n_columns
        for start in range(n_done, len(pieces), step):
            out[start : start + step] += pieces[start : start + step] @ others.T

    def _add_gram(self, out: Array, part: JacobianPart, m: int, rows: slice, columns: tuple[int, int]) -> None:
        """Add J J^T of a dense block: for each pair of channels the Hadamard product of two Gram matrices."""
        k, layer = self.k, part.layer
        Z, D = _rows_of(part.inputs, rows), part.factor.dense(rows)
        n_own = len(D)
        D = D.reshape(n_own * k, D.shape[2])
        n_first, n = self._n_own(*columns), columns[1] - columns[0]
        Z_columns = self._of_all(_rows_of(Z, slice(0, n_first)), columns)
        D_columns = self._of_all(D[: n_first * k], columns, k)
        of_rows = zip(layer.channels(Z), layer.channels(D), strict=True)
        of_columns = zip(layer.channels(Z_columns), layer.channels(D_columns), strict=True)
        pairs = list(product(of_rows, of_columns))
        owns_bias = self._jacobian.layout.blocks[m].owns_bias
        # packed columns are decoded anew for each chunk
        for start, stop in self._chunks(n_own, n, _CHUNK_SIZE if is_packed(Z) else _IN_CACHE):
            # with one replica rows and columns start with the same sample: the rest is mirrored
            n_made = min(stop, n) if self._share.whole else n
            for number, ((Z_rows, D_rows), (Z_other, D_other)) in enumerate(pairs):
                gram = _rows_of(Z_rows, slice(start, stop)) @ _rows_of(Z_other, slice(0, n_made)).T
                gram = gram.toarray() if is_sparse(gram) else gram
                if owns_bias and number == 0:
                    gram += 1
                products = D_rows[start * k : stop * k] @ D_other[: n_made * k].T
                if k == 1:
                    products *= gram
                else:
                    blocks = products.reshape(stop - start, k, n_made, k)
                    blocks *= gram[:, None, :, None]
                out[start * k : stop * k, : n_made * k] += products

    def _explicit(self, part: JacobianPart, m: int, rows: slice, n_columns: int) -> Iterator[Array]:
        """Compute columns of J M^{-1/2} of a block for some own samples, one row each, some units at a time."""
        for _, columns in self._by_units(part, m, rows, n_columns):
            yield columns.reshape(len(columns) * self.k, columns.shape[2] * columns.shape[3])

    def _by_units(self, part: JacobianPart, m: int, rows: slice, n_columns: int) -> Iterator[tuple[slice, Array]]:
        """Yield some units, and their columns of shape (n, k, n_in_local + owns_bias, n_units)."""
        block = self._jacobian.layout.blocks[m]
        n_at_once = max(rows.stop - rows.start, n_columns)
        columns_of = _shared_columns if part.layer.shape.shares_weights else _dense_columns
        pieces = columns_of(part, self.k, rows, block, n_at_once)
        for units, columns in pieces:
            if self._roots is not None:
                view = self._roots[m]
                columns[:, :, : view.W.shape[0]] *= view.W[:, units]
                if view.b is not None:
                    columns[:, :, -1] *= view.b[units]
            yield units, columns

    def _of_all(self, array: Any, columns: tuple[int, int], k: int = 1) -> Any:
        """Gather the rows of a range of all samples, k from each own sample in it; dense or sparse."""
        if self._share.whole:
            return array
        share = self._share.part(*columns)
        if is_packed(array):
            return array.gathered(share.n_samples, lambda rows: self._grid.gather_samples(rows, share))
        if is_sparse(array):
            return self._sparse_rows(array, share)
        by_sample = array.reshape(share.n_own, k * array.shape[1])
        return self._grid.gather_samples(by_sample, share).reshape(share.n_samples * k, array.shape[1])

    def _sparse_rows(self, X: Any, share: SampleShare) -> Any:
        offsets = library_of(X).row_offsets(X)
        lengths = self._grid.gather_samples(np.diff(offsets).astype(np.int64), share)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        # where own samples' values lie among those of all samples: each row moves as a whole
        xp = namespace(X.data)
        own = xp.arange(X.data.size)
        moves = like(X.data, starts[:-1][share.own] - offsets[:-1])
        own += moves[xp.searchsorted(X.indptr, own, side="right") - 1]
        values, columns = xp.zeros(int(starts[-1]), X.dtype), xp.zeros(int(starts[-1]), np.int64)
        values[own], columns[own] = X.data, X.indices
        self._grid.sum_over_replicas(values)
        self._grid.sum_over_replicas(columns)
        return library_of(X).sparse_array(values, columns.astype(X.indices.dtype), starts, X.shape[1])


def _pairs_suit(part: JacobianPart, block: Block) -> bool:
    """Whether Gram matrices of all pairs of channels take less work than explicit columns."""
    n_channels, (n_in, n_out) = part.layer.n_channels, block.shape
    return n_channels == 1 or 0 < _PAIR * n_channels**2 * (n_in + n_out) < n_in * n_out


def _rows_of(X: Any, rows: slice) -> Any:
    """Select consecutive rows of dense or sparse inputs; all rows without a copy."""
    if rows.start == 0 and rows.stop == X.shape[0]:
        return X
    return library_of(X).sparse_rows(X, rows.start, rows.stop) if is_sparse(X) else X[rows]


def _dense_columns(
    part: JacobianPart, k: int, rows: slice, block: Block, n_at_once: int
) -> Iterator[tuple[slice, Array]]:
    """Yield columns of J of a dense block, of shape (n, k, n_in_local + owns_bias, n_units), some units at a time."""
    Z, D = _rows_of(part.inputs, rows), part.factor.dense(rows)
    Z = Z.toarray() if is_sparse(Z) else Z
    if block.owns_bias:
        xp = namespace(Z)
        Z = xp.concatenate([Z, xp.ones((len(Z), 1), Z.dtype)], axis=1)
    step = max(1, _CHUNK_SIZE // max(1, n_at_once * k * Z.shape[1]))
    for start in range(0, D.shape[2], step):
        units = slice(start, min(start + step, D.shape[2]))
        yield units, Z[:, None, :, None] * D[:, :, None, units]


def _shared_columns(
    part: JacobianPart, k: int, rows: slice, block: Block, n_at_once: int
) -> Iterator[tuple[slice, Array]]:
    """Yield columns of J of a layer that shares weights, of shape (n, k, n_in_local + owns_bias, n_units).

    Places couple all pairs of samples, so products of Gram matrices would cost more than J itself; the same holds for
    the channels of narrow layers.

    Yields
    ------
    tuple of slice and Array
        Some units at a time, and their columns.
    """
    D, inputs = part.factor.dense(rows), _rows_of(part.inputs, rows)
    n, n_elements = len(D), part.layer.shape.n_elements
    (n_in, n_out), n_rows = block.shape, block.shape[0] + block.owns_bias
    D = D.reshape(n, k, n_elements, n_out)
    winners = None if part.winners is None else part.winners[rows].reshape(n, n_elements, n_out)
    step = max(1, _CHUNK_SIZE // max(1, n_at_once * k * n_rows))
    for start in range(0, n_out, step):
        units = slice(start, min(start + step, n_out))
        n_units = units.stop - units.start
        layer = part.layer.of_outputs((block.outputs[0] + units.start, block.outputs[0] + units.stop))
        chosen = None if winners is None else winners[:, :, units].reshape(n, n_elements * n_units)
        columns = namespace(D).empty((n, k, n_rows, n_units), D.dtype)
        for a in range(k):
            delta = D[:, a, :, units].reshape(n, n_elements * n_units)
            for piece in layer.unfold(inputs, delta, chosen):
                columns[piece.rows, a, :n_in] = sample_gradients(piece)
                if block.owns_bias:
                    columns[piece.rows, a, -1] = layer.bias_cotangents(piece)
        yield units, columns
