"""How items are cut into groups: evenly, by weights, or along the files that features come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise

from distnewton.errors import ConfigError

Range = tuple[int, int]
"""First number, and one past the last."""


def bounds(n: int, n_parts: int, i_part: int) -> tuple[int, int]:
    """Half-open range of the indices of one part when ``n`` items are cut as ``numpy.array_split`` cuts.

    Parameters
    ----------
    n : int
        Number of items.
    n_parts : int
        Number of contiguous parts; parts may be empty.
    i_part : int
        Which part, from 0.

    Returns
    -------
    tuple of int
        First index and one past the last.
    """
    size, n_larger = divmod(n, n_parts)
    start = i_part * size + min(i_part, n_larger)
    return start, start + size + (i_part < n_larger)


def weighted_bounds(n: int, weights: Sequence[float]) -> list[Range]:
    """Half-open ranges of the indices of all parts when ``n`` items are cut in proportion to weights.

    Parameters
    ----------
    n : int
        Number of items.
    weights : sequence of float
        Of the parts, not negative, not all 0.

    Returns
    -------
    list of tuple of int
        First index and one past the last of each: each limit is the nearest to its exact place, so that no part is off
        by more than an item.
    """
    # exact sums, so that all ranks cut alike, whatever their number
    sums = [float(total) for total in accumulate(map(Fraction, weights), initial=Fraction())]
    return list(pairwise(round(n * (before / sums[-1])) for before in sums))


@dataclass(frozen=True)
class FileOwners:
    """Files by columns, and the ranks of a grid that own them: no other rank opens a file.

    Files and ranks have one order: a rank owns a file, a share of the features of one, or several files whole.

    Attributes
    ----------
    columns : tuple of int
        Features of each file, of which there may be none.
    files : tuple of (int, int)
        Half-open range of files of each rank of a grid; empty for ranks without a block in layer 1.
    """

    columns: tuple[int, ...]
    files: tuple[Range, ...]

    def suits(self, splits: Sequence[int]) -> bool:
        """Whether the ranks of each group of features own the same files, and the groups all files."""
        return self._groups(splits) is not None

    def cut(self, splits: Sequence[int]) -> list[Range]:
        """Half-open range of the features of each group, for splits that suit.

        Parameters
        ----------
        splits : sequence of int
            Groups of layers 0..L.

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
        """Files of each group of features; None where ranks of a group own different ones, or some file no group."""
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
    """Half-open range of files of each rank of a grid; empty for ranks without a block in layer 1.

    Parameters
    ----------
    n_files : int
        Files by columns.
    n_ranks : int
        Ranks of a grid.
    splits : sequence of int
        Groups of layers 0..L where they are given: then the groups of features are dealt out, else the ranks.
    counts : sequence of int
        Ranks of each file; empty: as equal as can be, the first files having more, and of fewer ranks than files each
        has some of these.

    Returns
    -------
    tuple of (int, int)

    Raises
    ------
    ConfigError
        If the counts do not fit files and ranks.
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
