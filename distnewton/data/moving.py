"""Move features to another partition of the same ranks by messages, without reading a file again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distnewton.backend import Array, is_sparse
from distnewton.parallel.collectives import Communicator
from distnewton.parallel.partition import Partition


def move_columns(X: Any, before: Partition, after: Partition, comm: Communicator) -> Any:
    """Move columns to another partition.

    Parameters
    ----------
    X : Array or csr_array of shape (n, n_features_local)
        Columns of this rank in the old partition, on the host; scaled, and with channels last for images.
    before, after : Partition
        Old and new partition of the features.
    comm : Communicator
        Ranks of the grid, which hold the same samples.

    Returns
    -------
    Array or csr_array

    Notes
    -----
    Collective: one exchange of the columns that change owner.
    """
    n, size, own = comm.size, before.features_per_unit, before.block(1, comm.rank)
    first = 0 if own is None else own.inputs[0]
    parts = [_columns(X, size, first, _sent(before, after, comm.rank, rank)) for rank in range(n)]
    pieces = {}
    for source, arrays in enumerate(comm.exchange(parts)):
        if (units := _sent(before, after, source, comm.rank)) is not None:
            pieces[units] = arrays
    ordered = sorted(pieces.items(), key=lambda item: item[0])
    return _joined(X, ordered, sum(end - first for first, end in pieces), size)


def _sent(before: Partition, after: Partition, source: int, target: int) -> tuple[int, int] | None:
    """Range of units that `source` sends to `target`, or keeps; of several holders only one sends."""
    held, wanted = before.block(1, source), after.block(1, target)
    if held is None or wanted is None:
        return None
    first, end = max(held.inputs[0], wanted.inputs[0]), min(held.inputs[1], wanted.inputs[1])
    if first >= end:
        return None
    own = before.block(1, target)
    if own is not None and own.i == held.i:
        # the target holds them already
        return (first, end) if source == target else None
    # targets are distributed over the holders
    holders = before.boundary(0, held.i)
    return (first, end) if holders[target % len(holders)] == source else None


def _columns(X: Any, size: int, start: int, units: tuple[int, int] | None) -> Mapping[str, Array]:
    """Features of a range of units as named arrays; empty if no unit is sent. X begins with unit ``start``."""
    if units is None:
        return {}
    part = slice(units[0] - start, units[1] - start)
    if is_sparse(X):
        columns = X[:, part]
        return {"values": columns.data, "columns": columns.indices, "offsets": columns.indptr}
    return {"values": np.ascontiguousarray(X.reshape(len(X), size, -1)[:, :, part])}


def _joined(X: Any, pieces: Sequence[tuple[tuple[int, int], Mapping[str, Array]]], n_units: int, size: int) -> Any:
    """Concatenate pieces of ascending ranges by columns, in the same array type as X."""
    if is_sparse(X):
        from scipy.sparse import csr_array, hstack

        parts = [
            csr_array((piece["values"], piece["columns"], piece["offsets"]), shape=(X.shape[0], end - first))
            for (first, end), piece in pieces
        ]
        return hstack(parts, format="csr", dtype=X.dtype) if parts else csr_array((X.shape[0], 0), dtype=X.dtype)
    joined = np.empty((len(X), size, n_units), X.dtype)
    start = 0
    for (first, end), piece in pieces:
        joined[:, :, start : start + end - first] = piece["values"]
        start += end - first
    return joined.reshape(len(X), size * n_units)
