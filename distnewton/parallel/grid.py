"""The process grid: the blocks of this rank, and the communicators of the boundaries on which it stands."""

from __future__ import annotations

from types import TracebackType

from distnewton.backend import like, namespace
from distnewton.guards.ledger import Ledger
from distnewton.parallel.collectives import Array, Communicator, PendingSum
from distnewton.parallel.partition import Block, Partition, check_rank_count
from distnewton.parallel.replicas import SampleShare, ranks_of_a_grid
from distnewton.parallel.rounding import RoundedSums


class ProcessGrid:
    """A partition mapped to the ranks of a communicator.

    Parameters
    ----------
    comm : Communicator
        All ranks; duplicated, and freed with the grid.
    partition : Partition
        Partition of the network; it must need exactly ``comm.size / n_replicas`` ranks.
    n_replicas : int
        Number of copies of the grid, each with its share of the samples. World rank r is rank r mod n of replica
        r // n, for n ranks in a replica: ranks of a replica are neighbours, since they communicate most.

    rounded : bool
        Whether sums over boundaries are sent as bfloat16, which works for float32 host arrays.

    Raises
    ------
    ConfigError
        If the splits do not fit the number of ranks.

    Attributes
    ----------
    world : Communicator
        All ranks of all replicas.
    comm : Communicator
        The ranks of this replica.
    n_replicas, replica : int
        Number of replicas, and the number of this rank's.
    blocks : dict of int to Block
        This rank's block by layer; layers without a block of this rank are absent.

    Notes
    -----
    Construction is collective over ``comm``. Boundaries with the same ranks share one communicator: a regular a x b
    grid has only a row and a column communicator.
    """

    def __init__(self, comm: Communicator, partition: Partition, n_replicas: int = 1, *, rounded: bool = False) -> None:
        n = ranks_of_a_grid(comm.size, n_replicas)
        check_rank_count(partition, n, n_replicas)
        self.partition = partition
        self.world = comm.duplicate()
        self.n_replicas, self.replica = n_replicas, comm.rank // n
        first = self.replica * n
        self.comm = self.world if n_replicas == 1 else self.world.subgroup(range(first, first + n))
        self.replica_comm = self.world.subgroup(range(comm.rank % n, comm.size, n)) if n_replicas > 1 else None
        self.blocks: dict[int, Block] = {block.layer: block for block in partition.blocks(self.rank)}
        self._boundaries = self._join_boundaries()
        self._sums: dict[tuple[int, int], Communicator | RoundedSums] = dict(self._boundaries)
        if rounded:
            self._sums = {key: RoundedSums(group) for key, group in self._boundaries.items()}
        self._groups: dict[int, list[int]] = {}
        for layer, j in self._boundaries:
            self._groups.setdefault(layer, []).append(j)

    def _join_boundaries(self) -> dict[tuple[int, int], Communicator]:
        """Make communicators of this rank's boundaries; all ranks must pass boundaries in the same order."""
        by_ranks = {tuple(range(self.size)): self.comm}
        boundaries = {}
        for layer in range(self.partition.n_layers):
            for j in range(self.partition.splits[layer]):
                ranks = self.partition.boundary(layer, j)
                if self.rank in ranks:
                    if ranks not in by_ranks:
                        by_ranks[ranks] = self.comm.subgroup(ranks)
                    boundaries[layer, j] = by_ranks[ranks]
        return boundaries

    @property
    def rank(self) -> int:
        """This rank's number within its replica."""
        return self.comm.rank

    @property
    def size(self) -> int:
        """Number of ranks in a replica."""
        return self.comm.size

    @property
    def ledger(self) -> Ledger:
        """Ledger to which costs are charged."""
        return self.world.ledger

    def groups(self, layer: int) -> list[int]:
        """Return the groups of a layer on whose boundary this rank stands, ascending: one or two."""
        return self._groups.get(layer, [])

    def group_width(self, layer: int, j: int) -> int:
        """Return the number of units in a group: neurons, or channels."""
        start, stop = self.partition.group(layer, j)
        return stop - start

    def sum_boundary(self, layer: int, j: int, array: Array) -> Array:
        """Sum an array over boundary (layer, j), in place.

        The sum is its own adjoint: forward it sums partial pre-activations, backward partial cotangents.

        Parameters
        ----------
        layer, j : int
            A boundary on which this rank stands, below the output layer.
        array : Array
            This rank's part, zero if it owns none.

        Returns
        -------
        Array
        """
        return self._sums[layer, j].sum_inplace(array)

    def collect(self, layer: int, j: int, array: Array) -> Array:
        """Combine parts held by the ranks of a boundary, zero elsewhere, in place and exactly."""
        return self._boundaries[layer, j].sum_inplace(array)

    def start_boundary(self, layer: int, j: int, array: Array) -> PendingSum:
        """Start :meth:`sum_boundary`; in the same order on all ranks."""
        return self._sums[layer, j].start_sum(array)

    def start_all(self, array: Array) -> PendingSum:
        """Start :meth:`sum_all`."""
        return self.comm.start_sum(array)

    def sum_all(self, array: Array) -> Array:
        """Sum an array over all ranks in place: the output boundary."""
        return self.comm.sum_inplace(array)

    def sum_over_replicas(self, array: Array) -> Array:
        """Sum an array of this rank's own variables over the replicas, in place; no effect with one replica.

        Parameters
        ----------
        array : Array
            Contribution of this replica's samples to the variables, or to part of what the rank holds of them.

        Returns
        -------
        Array
        """
        return array if self.replica_comm is None else self.replica_comm.sum_inplace(array)

    def mean_over_replicas(self, array: Array) -> Array:
        """Average an array of this rank's own variables over the replicas; returns a new array."""
        mean = self.sum_over_replicas(array.copy())
        mean /= self.n_replicas
        return mean

    def sum_of_variables(self, *values: float) -> list[float]:
        """Sum numbers that each rank computed from its own variables, which are the same in all replicas.

        Parameters
        ----------
        *values : float
            For example dot products.

        Returns
        -------
        list of float
            Bitwise the same on all ranks of all replicas.
        """
        return self.world.sum_scalars(*(value if self.replica == 0 else 0.0 for value in values))

    def sum_of_samples(self, array: Array) -> Array:
        """Sum over replicas what all ranks of a replica computed identically from their samples, in place.

        Parameters
        ----------
        array : Array of float64
            A few numbers. Only those of each replica's first rank count, so that processors that round differently
            cannot disagree.

        Returns
        -------
        Array
            Bitwise the same on all ranks of all replicas.
        """
        if self.rank:
            array[...] = 0
        return self.world.sum_inplace(array)

    def gather_samples(self, array: Array, share: SampleShare) -> Array:
        """Gather the rows of all samples from all replicas.

        Parameters
        ----------
        array : Array of shape (n_own, ...)
            This replica's rows.
        share : SampleShare
            Share of samples to which they belong.

        Returns
        -------
        Array of shape (n_samples, ...)
            In the order of all samples; with one replica the array itself.
        """
        if self.replica_comm is None:
            return array
        whole: Array = namespace(array).zeros((share.n_samples, *array.shape[1:]), array.dtype)
        own = share.own
        whole[own if isinstance(own, slice) else like(array, own)] = array
        return self.replica_comm.sum_inplace(whole)

    def stack_replicas(self, array: Array) -> Array:
        """Stack a small float64 array of each replica along a new first axis."""
        if self.replica_comm is None:
            return array[None]
        return self.replica_comm.allgather(array.ravel()).reshape(self.n_replicas, *array.shape)

    def feature_range(self) -> tuple[int, int]:
        """Half-open range of the features that this rank holds; empty without a block in layer 1."""
        block, size = self.blocks.get(1), self.partition.features_per_unit
        return (0, 0) if block is None else (block.inputs[0] * size, block.inputs[1] * size)

    def first_of_feature_group(self) -> bool:
        """Whether this rank represents its feature group where each group must count once."""
        block = self.blocks.get(1)
        return block is not None and self.partition.first_of_features(block.i) == self.rank

    def free(self) -> None:
        """Free all communicators (collective)."""
        # boundaries with the same ranks share a communicator, which is freed once, in the order of creation
        for comm in dict.fromkeys(self._boundaries.values()):
            if comm is not self.comm:
                comm.free()
        if self.replica_comm is not None:
            self.replica_comm.free()
            self.comm.free()
        self.world.free()

    def __enter__(self) -> ProcessGrid:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After an error the ranks are not in step, and freeing is collective: leave it to MPI's finalisation.
        if error is None:
            self.free()
