"""The samples of a replica of the process grid: every R-th in the order of the run, so that ranges stay ranges."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from distnewton.errors import ConfigError
from distnewton.parallel.partition import divisors

Indices = NDArray[np.intp]


class SampleShare:
    """The samples of one replica among all samples, or among those of a subsample or a mini-batch.

    Replica q of R holds the positions p with p mod R = q. So of any range of samples it holds a range of its own, and
    of any set about one in R; the samples of a step do not depend on R.

    Parameters
    ----------
    n_samples : int
        Number of all samples.
    n_replicas, replica : int
        R and q.
    own : Array of int or None
        Ascending positions that this replica holds instead, for a subset.

    Attributes
    ----------
    n_samples : int
        Number of samples over all replicas.
    n_own : int
        Number of this replica's samples.
    """

    def __init__(self, n_samples: int, n_replicas: int = 1, replica: int = 0, own: Indices | None = None) -> None:
        self.n_samples, self._n_replicas, self._replica = n_samples, n_replicas, replica
        self._own = own
        self.n_own = len(range(replica, n_samples, n_replicas)) if own is None else len(own)

    @property
    def whole(self) -> bool:
        """Whether this replica holds all samples, because it is the only one."""
        return self._n_replicas == 1

    @property
    def own(self) -> Indices | slice:
        """Positions of this replica's samples among all, ascending."""
        return slice(self._replica, None, self._n_replicas) if self._own is None else self._own

    def within(self, start: int, stop: int) -> tuple[int, int]:
        """Return this replica's own range of samples within a range of all.

        Parameters
        ----------
        start, stop : int
            Half-open range of all samples.

        Returns
        -------
        tuple of int
            Half-open range of the samples that this replica holds.
        """
        if self._own is not None:
            first, last = np.searchsorted(self._own, [start, stop])
            return int(first), int(last)
        first, last = (-(-(p - self._replica) // self._n_replicas) for p in (start, stop))
        return max(0, first), max(0, last)

    def part(self, start: int, stop: int) -> SampleShare:
        """Return the share of a range of all samples, with positions counted from its start."""
        if self.whole:
            return SampleShare(stop - start)
        if self._own is not None:
            first, last = self.within(start, stop)
            return SampleShare(stop - start, self._n_replicas, self._replica, self._own[first:last] - start)
        return SampleShare(stop - start, self._n_replicas, (self._replica - start) % self._n_replicas)

    def choose(self, rows: Indices) -> tuple[Indices, SampleShare]:
        """Select this replica's samples from a set, such as a mini-batch.

        Parameters
        ----------
        rows : Array of int
            Positions among all samples.

        Returns
        -------
        Array of int
            Selected samples that this replica holds, as indices of its own samples.
        SampleShare
            Share of the selected samples.
        """
        if self.whole:
            return rows, SampleShare(len(rows))
        if self._own is not None:
            raise ValueError("samples are chosen from all, not from a subset")
        own = np.flatnonzero(rows % self._n_replicas == self._replica)
        return rows[own] // self._n_replicas, SampleShare(len(rows), self._n_replicas, self._replica, own)


class OwnDraws:
    """Random numbers drawn for all samples, of which a replica sees its own; independent of the number of replicas.

    Parameters
    ----------
    generator : numpy.random.Generator
        In the same state on all ranks.
    share : SampleShare
        This replica's share of the samples.
    """

    def __init__(self, generator: np.random.Generator, share: SampleShare) -> None:
        self._generator, self._share = generator, share

    def random(self, size: tuple[int, ...]) -> NDArray[np.float64]:
        """Draw numbers in [0, 1), of shape (n_own, ...)."""
        return self._generator.random((self._share.n_samples, *size[1:]))[self._share.own]

    def integers(self, high: int, *, size: tuple[int, ...]) -> NDArray[np.int64]:
        """Draw whole numbers below a limit, of shape (n_own, ...)."""
        return self._generator.integers(high, size=(self._share.n_samples, *size[1:]))[self._share.own]


Draws = np.random.Generator | OwnDraws
"""A source of random numbers for samples."""


def ranks_of_a_grid(n_ranks: int, n_replicas: int) -> int:
    """Number of ranks of each replica of the grid; raises a ConfigError where they do not divide evenly."""
    if n_ranks % n_replicas == 0:
        return n_ranks // n_replicas
    raise ConfigError(
        f"partition.replicas = {n_replicas} does not divide the {n_ranks} ranks that were started; these do: "
        f"{', '.join(map(str, divisors(n_ranks)))}",
        collective=True,
    )
