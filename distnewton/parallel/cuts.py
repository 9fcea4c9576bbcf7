"""Division of items into groups: evenly, by weights, or along the files from which features come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate, pairwise

from distnewton.errors import ConfigError
from distnewton.frozen import frozen

Range = tuple[int, int]
"""First index, and one past the last."""


def bounds(n: int, n_parts: int, i_part: int) -> tuple[int, int]:
    """Compute the half-open range of one part when ``n`` items are split as by ``numpy.array_split``.

    Parameters
    ----------
    n : int
        Number of items.
    n_parts : int
        Number of contiguous parts; parts may be empty.
    i_part : int
        Number of the part, from 0.

    Returns
    -------
    tuple of int
        First index and one past the last.
    """
    size, n_larger = divmod(n, n_parts)
    start = i_part * size + min(i_part, n_larger)
    return start, start + size + (i_part < n_larger)


def weighted_bounds(n: int, weights: Sequence[float]) -> list[Range]:
    """Compute the half-open ranges of all parts when ``n`` items are split in proportion to weights.

    Parameters
    ----------
    n : int
        Number of items.
    weights : sequence of float
        Weights of the parts, not negative, not all 0.

    Returns
    -------
    list of tuple of int
        First index and one past the last of each part. Each limit is rounded to the nearest integer, so a part's size
        is off by at most one item.
    """
    # exact sums, so that all ranks split alike for any number of parts
    sums = [float(total) for total in accumulate(map(Fraction, weights), initial=Fraction())]
    return list(pairwise(round(n * (before / sums[-1])) for before in sums))


@frozen
class FileOwners:
    """Files by columns, and the ranks of a grid that own them; no other rank opens a file.

    Files and ranks have the same order: a rank owns one file, a share of the features of one, or several whole files.

    Attributes
    ----------
    columns : tuple of int
        Number of features of each file, possibly 0.
    files : tuple of (int, int)
        Half-open range of files for each rank of a grid; empty for ranks without a block in layer 1.
    """

    columns: tuple[int, ...]
    files: tuple[Range, ...]

    def suits(self, splits: Sequence[int]) -> bool:
        """Whether all ranks of each feature group own the same files, and the groups together all files."""
        return self._groups(splits) is not None

    def cut(self, splits: Sequence[int]) -> list[Range]:
        """Compute the half-open range of each group's features, for suitable splits.

        Parameters
        ----------
        splits : sequence of int
            Number of groups of layers 0..L.

        Returns
        -------
        list of tuple of int
        """
        groups = self._groups(splits) or []
        starts, counts, seen = list(accumulate(self.columns, initial=0)), Counter(groups), Counter[Range]()
        cuts = []
        for first, last in groups:
            start, end = starts[first], starts[last]
            if last - first == 1:
                own = bounds(end - start, counts[first, last], seen[first, last])
                start, end = start + own[0], start + own[1]
                seen[first, last] += 1
            cuts.append((start, end))
        return cuts

    def _groups(self, splits: Sequence[int]) -> list[Range] | None:
        """Files of each feature group; None if its ranks own different files, or if a file belongs to no group."""
        n_groups, n_sharing = splits[0], splits[1]
        if n_groups * n_sharing > len(self.files):
            return None
        groups = [self.files[j * n_sharing] for j in range(n_groups)]
        alike = all(self.files[k] == groups[k // n_sharing] for k in range(n_groups * n_sharing))
        distinct = list(dict.fromkeys(groups))
        whole = [(0, 0), *distinct, (len(self.columns), 0)]
        return groups if alike and all(a[1] == b[0] for a, b in pairwise(whole)) else None


def files_of_ranks(
    n_files: int, n_ranks: int, splits: Sequence[int] = (), counts: Sequence[int] = ()
) -> tuple[Range, ...]:
    """Compute the half-open range of files of each rank of a grid; empty for ranks without a block in layer 1.

    Parameters
    ----------
    n_files : int
        Number of files by columns.
    n_ranks : int
        Number of ranks of a grid.
    splits : sequence of int
        Number of groups of layers 0..L; if given, files are assigned to feature groups, otherwise to ranks.
    counts : sequence of int
        Number of ranks of each file. Empty: as equal as possible, the first files having more; with fewer ranks than
        files each rank has several files.

    Returns
    -------
    tuple of (int, int)

    Raises
    ------
    ConfigError
        If the counts do not match files and ranks.
    """
    n_units, n_sharing = splits[:2] if splits else (n_ranks, 1)
    if counts:
        if len(counts) != n_files or sum(counts) != n_units * n_sharing:
            raise ConfigError(
                f"partition.files has {len(counts)} numbers of {sum(counts)} ranks together, but there are {n_files} "
                f"files and {n_units * n_sharing} ranks with features: give the number of ranks of each file",
                collective=True,
            )
        found = _repeated(counts)
    else:
        found = [files for files in _dealt(n_files, n_units) for _ in range(n_sharing)]
    return (*found, *[(0, 0)] * (n_ranks - len(found)))


def _dealt(n_files: int, n_units: int) -> list[Range]:
    """Files of each of some equal ranks, or groups of them."""
    if n_units < n_files:
        return [bounds(n_files, n_units, i) for i in range(n_units)]
    sizes = (bounds(n_units, n_files, i) for i in range(n_files))
    return _repeated([last - first for first, last in sizes])


def _repeated(counts: Sequence[int]) -> list[Range]:
    """Each file, alone, as often as its count says."""
    return [(i, i + 1) for i, count in enumerate(counts) for _ in range(count)]
