"""How samples are taken in chunks, so that what a rank holds of them fits its memory."""

from __future__ import annotations

from distnewton.parallel.cuts import bounds

MAX_CHUNK_ROWS = 4096
"""More samples at once would leave the caches without making matrix products faster."""


def rows_kept(width: float, itemsize: int, memory_bytes: float) -> tuple[int, int]:
    """Samples whose activations are kept, and those that pass at a time.

    Parameters
    ----------
    width : float
        Numbers a sample that are kept, outputs twice, on the rank with most of them.
    itemsize : int
        Bytes of a number.
    memory_bytes : float
        What the activations of a rank may occupy.

    Returns
    -------
    tuple of int
    """
    rows = memory_bytes / (width * itemsize)
    return int(rows / 2), int(max(1, min(MAX_CHUNK_ROWS, rows / 4)))


def chunk_ranges(n_samples: int, last: tuple[int, int] | None, n_rows: int) -> list[tuple[int, int]]:
    """Cut the samples into ranges of at most ``n_rows``; the range ``last``, if any, is whole and at the end."""
    ranges = []
    for start, stop in ((0, last[0]), (last[1], n_samples)) if last else ((0, n_samples),):
        n_chunks = -(-(stop - start) // n_rows)
        parts = (bounds(stop - start, n_chunks, i) for i in range(n_chunks))
        ranges += [(start + a, start + b) for a, b in parts]
    return [*ranges, last] if last else ranges
