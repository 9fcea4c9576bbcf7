"""The sizes of a training problem, and a rank's share of it: arithmetic, without data and MPI."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

from distnewton.frozen import frozen
from distnewton.network.shapes import LayerShape, NetworkShape
from distnewton.parallel.cuts import FileOwners
from distnewton.parallel.partition import Block, Partition
from distnewton.solvers.least_squares import solves_for_variables

MODELLED = ("dual", "gauss_newton", "block_diagonal")
"""Directions whose iterations are modelled."""


@frozen
class PlannedMethod:
    """The method of an iteration, as far as its cost depends on it.

    Attributes
    ----------
    direction : str
        One of :data:`MODELLED`.
    n_steps : int
        Number of CG steps of a direction.
    n_trials : int
        Number of points that the line search tries.
    n_directions : int
        Number of directions that are combined: 2 with the last one, else 1.
    warm : bool
        Whether CG starts from a multiple of the last direction.
    recomputed : bool
        Whether products pass through the network instead of a stored Jacobian.
    n_pieces : int
        Number of pieces into which a pass divides the samples; 1 for networks on images.
    preconditioner : str
        Preconditioner of CG. The cost of ``kfac`` is modelled; others are cheap compared with products.
    accelerated : bool
        Whether a second solution bends the step; `n_steps` includes its CG steps.
    rounded : bool
        Whether sums over boundaries are sent as bfloat16.
    """

    direction: str = "gauss_newton"
    n_steps: int = 30
    n_trials: int = 1
    n_directions: int = 2
    warm: bool = False
    recomputed: bool = False
    n_pieces: int = 1
    preconditioner: str = "none"
    accelerated: bool = False
    rounded: bool = False


@frozen
class Problem:
    """The sizes of the problem of an iteration, or of one replica of the grid.

    It has more than ten attributes because formulas of messages, memory and work use each of them separately.

    Attributes
    ----------
    shape : NetworkShape
        Layers.
    n_samples, n_test : int
        Number of training and test samples, on the replica with the most.
    n_curvature : int
        Number of curvature samples, on the replica with the most.
    n_rows : int
        Number of Jacobian rows for each sample: outputs, or random cotangents.
    itemsize : int
        Bytes of a number.
    memory_bytes : float
        Bytes that a rank may keep of an evaluation.
    method : PlannedMethod
        Method of the iteration.
    nonzeros : float or None
        Mean number of nonzeros in a sample with sparse features; None for dense features.
    activation : str
        Activation of the hidden layers.
    n_replicas : int
        Number of copies of the grid that share the samples.
    reading_bytes : float
        Bytes that reading the data takes, besides the features; 0 if unknown.
    blocks : tuple of int
        Groups of the logical blocks; empty if each rank is a block.
    owners : FileOwners or None
        Ranks that own each file by columns of the features.
    packed : bool
        Whether features are genotypes of two bits each.
    """

    shape: NetworkShape
    n_samples: int
    n_curvature: int
    n_rows: int
    itemsize: int = 4
    memory_bytes: float = 2.0**30
    n_test: int = 0
    method: PlannedMethod = PlannedMethod()
    nonzeros: float | None = None
    activation: str = "relu"
    n_replicas: int = 1
    reading_bytes: float = 0.0
    blocks: tuple[int, ...] = ()
    owners: FileOwners | None = None
    packed: bool = False

    def shared(self, n_replicas: int) -> Problem:
        """Return the problem of a replica, if `n_replicas` of them share the samples."""
        sizes = (self.n_samples, self.n_test, self.n_curvature)
        n_samples, n_test, n_curvature = (-(-size // n_replicas) for size in sizes)
        return replace(
            self, n_samples=n_samples, n_test=n_test, n_curvature=n_curvature, n_replicas=self.n_replicas * n_replicas
        )

    @property
    def n_out(self) -> int:
        """Number of outputs."""
        return self.shape.widths[-1]

    @property
    def apart(self) -> bool:
        """Whether the curvature uses a subsample, which passes forward again."""
        return self.n_curvature < self.n_samples

    @property
    def rooted(self) -> bool:
        """Whether Jacobian rows are combinations of the outputs, whose factors are all stored."""
        return self.sketched or self.method.direction == "dual"

    @property
    def n_system(self) -> int:
        """Number of rows of the matrix in sample space, over all replicas; 0 if there is none."""
        return self.n_curvature * self.n_replicas * self.n_rows if self.method.direction == "dual" else 0

    @property
    def for_variables(self) -> bool:
        """Whether the exact direction solves for the variables, because they are fewer than its rows."""
        return solves_for_variables(self.n_system, self.shape.n_params)

    @property
    def sketched(self) -> bool:
        """Whether Jacobian rows are random combinations of the outputs."""
        return self.n_rows < self.n_out


class Group:
    """A group of a hidden layer, with the ranks at its boundary.

    Parameters
    ----------
    partition : Partition
        Who owns what.
    layer, j : int
        Which group.
    """

    def __init__(self, partition: Partition, layer: int, j: int) -> None:
        self._partition, self._layer, self._j = partition, layer, j
        start, stop = partition.group(layer, j)
        self.n_units = stop - start

    @cached_property
    def ranks(self) -> tuple[int, ...]:
        """Ranks of the boundary, ascending."""
        return self._partition.boundary(self._layer, self._j)


class Share:
    """A rank's share of a network.

    Parameters
    ----------
    shape : NetworkShape
        Layers.
    partition : Partition
        Who owns what.
    rank : int
        The rank.

    Attributes
    ----------
    blocks : dict of int to Block
        Blocks by layer.
    groups : dict of int to list of Group
        Groups by hidden layer.
    """

    def __init__(self, shape: NetworkShape, partition: Partition, rank: int) -> None:
        self.shape, self.partition, self.rank = shape, partition, rank
        self.blocks: dict[int, Block] = {block.layer: block for block in partition.blocks(rank)}
        self.groups: dict[int, list[Group]] = {
            m: [Group(partition, m, j) for j in self._numbers(m)] for m in range(1, partition.n_layers)
        }

    def _numbers(self, m: int) -> list[int]:
        """List the groups of a layer to which this rank's products contribute, or that it needs as inputs."""
        numbers = {self.blocks[m].j} if m in self.blocks else set()
        return sorted(numbers | ({self.blocks[m + 1].i} if m + 1 in self.blocks else set()))

    def layer(self, m: int) -> LayerShape:
        """Shape of a layer."""
        return self.shape.layers[m - 1]

    @property
    def n_layers(self) -> int:
        """Number of weight layers."""
        return self.partition.n_layers

    @cached_property
    def n_params(self) -> int:
        """Number of variables that this rank owns."""
        return sum(block.n_params for block in self.blocks.values())

    def n_kept(self, itemsize: int) -> float:
        """Return the numbers that a forward pass keeps for each sample, without features."""
        total = float(self.partition.widths[-1])
        for m, groups in self.groups.items():
            layer = self.layer(m)
            kind = layer.pooling.kind if layer.pooling else ""
            for group in groups:
                total += group.n_units * layer.n_values
                total += group.n_units * layer.n_elements if kind == "average" else 0
                total += group.n_units * layer.n_values / itemsize if kind == "max" else 0
        return total
