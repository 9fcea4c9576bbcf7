"""The process grid: which blocks this rank owns, and the communicators of the boundaries it stands on."""

from __future__ import annotations

from types import TracebackType

from distnewton.parallel.collectives import Array, Communicator
from distnewton.parallel.partition import Block, Partition, check_rank_count


class ProcessGrid:
    """A partition laid over the ranks of a communicator.

    Parameters
    ----------
    comm : Communicator
        All ranks of the grid; duplicated, and freed with the grid.
    partition : Partition
        Who owns what; must ask for exactly ``comm.size`` ranks.

    Raises
    ------
    ConfigError
        If the splits do not fit the number of ranks.

    Attributes
    ----------
    blocks : dict of int to Block
        This rank's block by layer; layers in which it owns none are absent.

    Notes
    -----
    Construction is collective over ``comm``. Boundaries with the same ranks share one communicator: on a regular
    a x b grid there are only a row and a column communicator.
    """

    def __init__(self, comm: Communicator, partition: Partition) -> None:
        check_rank_count(partition, comm.size)
        self.partition = partition
        self.comm = comm.duplicate()
        self.rank, self.size = comm.rank, comm.size
        self.ledger = comm.ledger
        self.blocks: dict[int, Block] = {block.layer: block for block in partition.blocks(self.rank)}
        self._by_ranks: dict[tuple[int, ...], Communicator] = {}
        self._boundaries: dict[tuple[int, int], Communicator] = {}
        for layer in range(partition.n_layers):
            for j in range(partition.splits[layer]):
                self._join(layer, j, partition.boundary(layer, j))

    def _join(self, layer: int, j: int, ranks: tuple[int, ...]) -> None:
        """Make or share the communicator of one boundary; all ranks pass the boundaries in the same order."""
        if self.rank not in ranks:
            return
        if ranks not in self._by_ranks:
            whole = len(ranks) == self.size
            self._by_ranks[ranks] = self.comm if whole else self.comm.subgroup(ranks)
        self._boundaries[layer, j] = self._by_ranks[ranks]

    def groups(self, layer: int) -> list[int]:
        """Groups of a layer on whose boundary this rank stands, ascending: one on a regular grid, at most two."""
        return [j for m, j in self._boundaries if m == layer]

    def group_width(self, layer: int, j: int) -> int:
        """Number of units in a group: neurons, or channels."""
        start, stop = self.partition.group(layer, j)
        return stop - start

    def sum_boundary(self, layer: int, j: int, array: Array) -> Array:
        """Sum an array over boundary (layer, j), in place.

        It is its own adjoint: forward it sums partial pre-activations, backward partial cotangents.

        Parameters
        ----------
        layer, j : int
            A boundary on which this rank stands, below the output layer.
        array : Array
            This rank's part, zero where it owns none.

        Returns
        -------
        Array
        """
        return self._boundaries[layer, j].sum_inplace(array)

    def sum_all(self, array: Array) -> Array:
        """Sum an array over all ranks, in place: the output boundary."""
        return self.comm.sum_inplace(array)

    def feature_range(self) -> tuple[int, int]:
        """Half-open range of the features this rank holds; empty without a block in layer 1."""
        block, size = self.blocks.get(1), self.partition.features_per_unit
        return (0, 0) if block is None else (block.inputs[0] * size, block.inputs[1] * size)

    def first_of_feature_group(self) -> bool:
        """Whether this rank speaks for its feature group, where each group is to count once."""
        block = self.blocks.get(1)
        return block is not None and block.j == 0

    def free(self) -> None:
        """Free all communicators (collective)."""
        for ranks, comm in self._by_ranks.items():
            if len(ranks) < self.size:
                comm.free()
        self.comm.free()

    def __enter__(self) -> ProcessGrid:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After an error the ranks are not in step, and freeing is collective: leave it to MPI's end.
        if error is None:
            self.free()
