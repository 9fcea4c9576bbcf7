"""Division of the samples into chunks, which limits what a rank holds of them in memory."""

from __future__ import annotations

from distnewton.parallel.cuts import bounds

MAX_CHUNK_ROWS = 4096
"""Largest chunk; more samples would not fit the caches and not make matrix products faster."""


def rows_kept(width: float, itemsize: int, memory_bytes: float) -> tuple[int, int]:
    """Return the number of samples whose activations are kept, and the number in a chunk.

    Parameters
    ----------
    width : float
        Numbers kept for each sample, outputs counted twice, on the rank with the most.
    itemsize : int
        Bytes of a number.
    memory_bytes : float
        Bytes that the activations of a rank may take.

    Returns
    -------
    tuple of int
    """
    rows = memory_bytes / (width * itemsize)
    return int(rows / 2), int(max(1, min(MAX_CHUNK_ROWS, rows / 4)))


def chunk_ranges(n_samples: int, last: tuple[int, int] | None, n_rows: int) -> list[tuple[int, int]]:
    """Cut the samples into ranges of at most ``n_rows``; the range ``last``, if any, is not cut and comes last."""
    ranges = []
    for start, stop in ((0, last[0]), (last[1], n_samples)) if last else ((0, n_samples),):
        n_chunks = -(-(stop - start) // n_rows)
        parts = (bounds(stop - start, n_chunks, i) for i in range(n_chunks))
        ranges += [(start + a, start + b) for a, b in parts]
    return [*ranges, last] if last else ranges
