"""Sparse matrices that ``scipy.sparse.save_npz`` wrote, read block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distnewton.data.columns import Wanted, extra_note
from distnewton.data.description import Description
from distnewton.data.formats.array_files import check_labels, not_finite, read_labels
from distnewton.data.formats.stored_arrays import StoredArray, check_shape
from distnewton.data.row_selection import RowSelection
from distnewton.data.rows import join_rows
from distnewton.data.source import Source
from distnewton.errors import DataError

if TYPE_CHECKING:
    from scipy import sparse

MEMBERS = frozenset(["format", "shape", "data"])
"""Arrays that identify an archive as a sparse matrix."""
BLOCK_VALUES = 1 << 18
"""Approximate number of values in a block."""


class SparseSource(Source):
    """Features in a sparse matrix by rows (CSR) or by columns (CSC); labels in a separate file.

    Parameters
    ----------
    name : str
        File, for messages.
    arrays : mapping of str to callable
        Functions that open the arrays of the archive.
    labels : StoredArray or None
        Labels; None if there are none.
    wanted : Wanted
        Requests of the caller.

    Raises
    ------
    DataError
        If the matrix has another layout, its arrays do not match, or the number of labels differs.
    """

    def __init__(
        self, name: str, arrays: Mapping[str, Callable[[], StoredArray]], labels: StoredArray | None, wanted: Wanted
    ) -> None:
        self.name, self._labels = name, labels
        self._by_rows = _is_by_rows(name, arrays)
        shape, values = arrays["shape"]().load(), arrays["data"]()
        self._values, self._indices = values, arrays["indices"]()
        if shape.shape != (2,) or values.dtype.kind not in "fiub" or self._indices.dtype.kind not in "iu":
            raise DataError(
                f"{name}: features must be a matrix of numbers, got shape {shape} and values of {values.dtype}"
            )
        check_shape(name, tuple(shape.tolist()), values.dtype)
        self._n_samples, n_columns = shape.tolist()
        self._pointers = arrays["indptr"]().load().astype(np.int64)
        n_lines = self._n_samples if self._by_rows else n_columns
        if not _belong_together(self._pointers, n_lines, {values.shape, self._indices.shape}):
            raise DataError(f"{name}: the arrays of the sparse matrix do not match; save it again")
        if not self._n_samples:
            raise DataError(f"{name}: no samples (shape {tuple(shape.tolist())})")
        check_labels(name, self._n_samples, labels)
        self._n_columns, self._n_kept = n_columns, wanted.n_kept(name, n_columns)

    def describe(self) -> Description:
        """Check all values in one streaming pass."""
        n_stored = n_beyond = 0
        for first, block in self._blocks(0, self._n_samples if self._by_rows else self._n_columns):
            self._check(first, block)
            columns = block.indices if self._by_rows else first + block.nonzero()[1]
            n_stored += block.nnz
            n_beyond += int(np.count_nonzero(columns >= self._n_kept))
        labels = self._labels
        return Description(
            self.name, "npz", self._n_samples, self._n_kept, n_stored - n_beyond, True,
            np.full(self._n_samples, np.nan)
            if labels is None else read_labels(labels, np.arange(labels.table_shape[1])),
            n_beyond, extra_note(self._n_columns - self._n_kept, self._n_kept), labelled=labels is not None,
        )  # fmt: skip

    def _check(self, first: int, block: Any) -> None:
        """Refuse a value that is not finite."""
        finite = np.isfinite(block.data)
        if not finite.all():
            at = int(np.argmin(finite))
            line = first + int(np.searchsorted(block.indptr, at, side="right")) - 1
            place = (line, int(block.indices[at])) if self._by_rows else (int(block.indices[at]), line)
            raise not_finite(self.name, *place, block.data[at])

    def _blocks(self, start: int, stop: int) -> Iterator[tuple[int, Any]]:
        """Yield blocks of lines (rows of CSR, columns of CSC): first line, and a matrix without duplicates."""
        from scipy import sparse

        pointers = self._pointers
        targets = np.arange(pointers[start], pointers[stop], BLOCK_VALUES)
        cuts = np.unique([start, *np.searchsorted(pointers, targets), stop])
        cuts = cuts[(cuts >= start) & (cuts <= stop)]
        lengths = np.diff(pointers[cuts]).tolist()
        n_across = self._n_columns if self._by_rows else self._n_samples
        parts = [array.runs(int(pointers[start]), lengths) for array in (self._indices, self._values)]
        for first, last, indices, values in zip(cuts[:-1].tolist(), cuts[1:].tolist(), *parts, strict=True):
            if len(indices) and not 0 <= indices.min() <= indices.max() < n_across:
                raise DataError(f"{self.name}: a value lies outside the matrix; save it again")
            lines, n_lines = pointers[first : last + 1] - pointers[first], last - first
            # in float64, since duplicate entries are summed
            triple = values.astype(np.float64), indices.astype(np.int64), lines
            block = (
                sparse.csr_array(triple, shape=(n_lines, n_across))
                if self._by_rows else sparse.csc_array(triple, shape=(n_across, n_lines))
            )  # fmt: skip
            block.sum_duplicates()
            yield first, block

    def _n_readable(self) -> int:
        return self._n_kept

    def _read(self, start: int, stop: int, dtype: np.dtype[Any], wanted: RowSelection) -> sparse.csr_array:
        """Read a range of columns: from every block if stored by rows, from those columns only if by columns."""
        from scipy import sparse

        if not self._by_rows:
            blocks = [block.astype(dtype) for _, block in self._blocks(start, stop)]
            blocks.append(sparse.csc_array((self._n_samples, 0), dtype=dtype))
            matrix: sparse.csr_array = wanted.apply(sparse.hstack(blocks, format="csr"))
            matrix.has_canonical_format = True
            return matrix
        pieces = []
        for first, block in self._blocks(0, self._n_samples):
            _, chosen = wanted.of(first, block.shape[0])
            part = block[chosen, start:stop]
            pieces.append((np.diff(part.indptr), part.indices, part.data.astype(dtype, copy=False)))
        return join_rows(pieces, stop - start, dtype)


def _is_by_rows(name: str, arrays: Mapping[str, Callable[[], StoredArray]]) -> bool:
    """Whether a matrix is stored by rows rather than by columns; refuses other layouts."""
    kind = str(arrays["format"]().load().astype(np.str_))
    if kind not in ("csr", "csc"):
        raise DataError(
            f"{name}: is a sparse matrix in {kind.upper()} format; save it by rows: scipy.sparse.save_npz(path, "
            "X.tocsr())"
        )
    if missing := sorted({"indices", "indptr"} - arrays.keys()):
        raise DataError(f"{name}: the sparse matrix has no {' and no '.join(missing)}; save it again")
    return kind == "csr"


def _belong_together(pointers: NDArray[np.int64], n_lines: int, shapes: set[tuple[int, ...]]) -> bool:
    """Whether the pointers fit `n_lines` lines whose values and indices have these shapes."""
    if pointers.shape != (n_lines + 1,) or pointers[0] != 0 or (np.diff(pointers) < 0).any():
        return False
    return shapes == {(int(pointers[-1]),)}
