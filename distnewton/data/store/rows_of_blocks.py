"""Collecting parsed rows of a text into the blocks of a store."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnewton.data.formats.libsvm_lines import Rows
from distnewton.data.store.layout_on_disk import MAX_ROWS
from distnewton.data.store.writer import StoreWriter

BLOCK_VALUES = 1 << 20
"""Approximate number of values in a dense block: 8 MB of float64."""
SPARSE_BLOCK_VALUES = 1 << 18
"""Approximate number of values in a sparse block: readers transpose it in the processor's cache; smaller blocks repeat
columns more often. All of news20 (1.8 million values) took 20 ms with 2^20, and 15 ms with 2^18 and 2^16."""
_MIN_ROWS = 16
"""Minimum number of samples in a block, of any width."""

Values = NDArray[Any]


class DenseRows:
    """Collects rows of dense features into blocks.

    Parameters
    ----------
    writer : StoreWriter
        Writer of the blocks.
    block_values : int
        Approximate number of values in a block.
    """

    def __init__(self, writer: StoreWriter, block_values: int = BLOCK_VALUES) -> None:
        self._writer, self._block_values = writer, block_values
        self._buffer = np.empty((0, 0))
        self._n_filled = self._first_row = 0

    def add(self, rows: Values) -> None:
        """Add samples, (n, n_features)."""
        if not self._buffer.size:
            n_columns = max(1, rows.shape[1])
            n_rows = min(MAX_ROWS, max(_MIN_ROWS, self._block_values // n_columns))
            self._buffer = np.empty((n_rows, n_columns))
        at = 0
        while at < len(rows):
            n = min(len(rows) - at, len(self._buffer) - self._n_filled)
            self._buffer[self._n_filled : self._n_filled + n] = rows[at : at + n]
            self._n_filled, at = self._n_filled + n, at + n
            if self._n_filled == len(self._buffer):
                self.flush()

    def flush(self) -> None:
        """Write the collected rows."""
        if self._n_filled:
            self._writer.write_dense(self._first_row, 0, self._buffer[: self._n_filled])
            self._first_row, self._n_filled = self._first_row + self._n_filled, 0


class SparseRows:
    """Collects rows of sparse features into blocks.

    Parameters
    ----------
    writer : StoreWriter
        Writer of the blocks.
    block_values : int
        Approximate number of values in a block.
    max_rows : int
        Maximum number of samples in a block.
    """

    def __init__(self, writer: StoreWriter, block_values: int = SPARSE_BLOCK_VALUES, max_rows: int = MAX_ROWS) -> None:
        self._writer, self._block_values, self._max_rows = writer, block_values, max_rows
        self._pieces: list[tuple[Values, Values, Values]] = []
        self._n_rows = self._n_values = self._first_row = 0

    def add(self, rows: Rows) -> None:
        """Add samples."""
        lengths, indices, values = rows.lengths, rows.indices, rows.values
        while len(lengths):
            n_rows = min(len(lengths), self._max_rows - self._n_rows)
            n_values = int(lengths[:n_rows].sum())
            self._pieces.append((lengths[:n_rows], indices[:n_values], values[:n_values]))
            self._n_rows, self._n_values = self._n_rows + n_rows, self._n_values + n_values
            lengths, indices, values = lengths[n_rows:], indices[n_values:], values[n_values:]
            if self._n_rows == self._max_rows or self._n_values >= self._block_values:
                self.flush()

    def flush(self) -> None:
        """Write the collected rows."""
        if self._n_rows:
            joined = [np.concatenate(parts) for parts in zip(*self._pieces, strict=True)]
            self._pieces = []
            self._writer.write_sparse(self._first_row, *joined)
            self._first_row += self._n_rows
            self._n_rows = self._n_values = 0
