r"""The partition of a network over ranks: pure arithmetic on the split of every layer's neurons, without MPI.

``splits = [P_0, ..., P_L]`` cuts the neurons of layer m (the features for m = 0) into P_m contiguous groups.
Layer m then has P_{m-1} x P_m blocks. Block (i, j) is the weight matrix restricted to input group i and output group j;
the bias of group j belongs to block (0, j), or to the first one with inputs if a slow rank owns none. Ranks are
numbered with alternating orientation,

.. math:: \mathrm{rank}(m; i, j) = \begin{cases} i P_m + j & m \text{ odd} \\ j P_{m-1} + i & m \text{ even} \end{cases}

so on a process grid of a x b (splits a, b, a, b, ...) the ranks that hold group j of layer m after its sum are exactly
those that need it as input of layer m + 1. This generalises the partition of [DNM].

The split divides *units*: neurons, or the channels of images. An input channel feeds several rows of a weight matrix,
one for each position of its kernel (or, if images are flattened, for each pixel); a block holds them all.

*Logical blocks* (``block_splits``) are the blocks that block-diagonal methods separate. By default there is one per
rank. Otherwise they are split like the ranks of a grid of their own, and each rank owns whole ones: its groups of units
are unions of theirs. The method is then the same on every grid that can share the blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from distnewton.errors import ConfigError
from distnewton.frozen import frozen
from distnewton.parallel.cuts import FileOwners, Range, bounds, weighted_bounds


@frozen
class Block:
    """Block (i, j) of the weights of one layer: input group i, output group j.

    Attributes
    ----------
    layer : int
        Number of the layer, from 1.
    i, j : int
        Input and output group.
    inputs, outputs : tuple of int
        Half-open ranges of global units: features, neurons or channels.
    rows_per_unit : int
        Rows of the weight matrix for each input unit.
    owns_bias : bool
        Whether the biases of the output group belong to this block.
    """

    layer: int
    i: int
    j: int
    inputs: tuple[int, int]
    outputs: tuple[int, int]
    rows_per_unit: int = 1
    owns_bias: bool = True

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the weight block, ``(n_in_local, n_out_local)``, all rows of the input units counted."""
        return (self.inputs[1] - self.inputs[0]) * self.rows_per_unit, self.outputs[1] - self.outputs[0]

    @property
    def rows(self) -> NDArray[np.int64]:
        """Global rows of the weight matrix, in the block's own order; shape (n_in_local,).

        In the global order the rows of a unit are contiguous, as in torch's layers. In a block the order is position,
        then unit, as for the values of its images, whose channels are contiguous.
        """
        units = np.arange(*self.inputs)[None, :] * self.rows_per_unit
        return (units + np.arange(self.rows_per_unit)[:, None]).ravel()

    @property
    def n_params(self) -> int:
        """Number of variables, bias included."""
        n_in, n_out = self.shape
        return (n_in + self.owns_bias) * n_out


@frozen
class Partition:
    """The division of a network among ranks.

    Attributes
    ----------
    widths : tuple of int
        Units of layers 0..L: neurons, or channels; ``widths[0]`` counts the features, or the channels of the images.
    splits : tuple of int
        Number of groups of layers 0..L.
    rows_per_unit : tuple of int
        Rows of the weight matrix for each input unit, for layers 1..L; empty: 1 each.
    features_per_unit : int
        Features per input unit: 1, or the pixels of a channel.
    speeds : tuple of float
        Relative speed of each rank; empty: all equal. The size of a group of units is proportional to the mean speed of
        its ranks, so if a layer is split in one direction only, each rank's block is proportional to its speed.
    block_splits : tuple of int
        Numbers of groups of the logical blocks in layers 0..L; empty: those of the ranks.
    owners : FileOwners or None
        Files with the features, each with its own ranks; no group combines features of different files.
    feature_limits : tuple of int
        Starts of the groups of layer 0 (those of the logical blocks, if these are split otherwise), followed by the
        number of features; empty: as equal as possible.
    unbiased : tuple of int
        Layers without biases.
    bias_groups : tuple of int
        Input group whose blocks own the biases, for layers 1..L; empty: the first one with units.
    """

    widths: tuple[int, ...]
    splits: tuple[int, ...]
    rows_per_unit: tuple[int, ...] = ()
    features_per_unit: int = 1
    speeds: tuple[float, ...] = ()
    block_splits: tuple[int, ...] = ()
    owners: FileOwners | None = None
    feature_limits: tuple[int, ...] = ()
    unbiased: tuple[int, ...] = ()
    bias_groups: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        widths, splits = list(self.widths), list(self.splits)
        if len(widths) < 2:
            raise ConfigError(f"a network needs at least an input and an output width, got {widths}")
        if len(splits) != len(widths):
            raise ConfigError(
                f"splits needs one number per width ({len(widths)} for widths {widths}), got {len(splits)}: {splits}"
            )
        if min(splits + widths) < 1:
            raise ConfigError(f"widths and splits must be positive, got {widths} and {splits}")
        if self.rows_per_unit and len(self.rows_per_unit) != self.n_layers:
            raise ValueError(f"expected rows per unit of {self.n_layers} layers, got {self.rows_per_unit}")
        if self.speeds:
            self._check_speeds()
        if self.block_splits:
            self._check_blocks()
        if self.owners is not None:
            self._check_owners(self.owners)

    def _check_owners(self, owners: FileOwners) -> None:
        if self.block_splits:
            raise ConfigError("partition.blocks cut features across files by columns: leave them out", collective=True)
        if sum(owners.columns) != self.n_features or self.features_per_unit != 1:
            raise ConfigError("files by columns hold tables: a network on images has no use for them", collective=True)
        if not owners.suits(self.splits):
            raise ConfigError(
                f"splits {splits_title(self.splits)} give ranks that own different files the same features: a group of "
                f"features belongs to one file here, and its {self.splits[1]} rank(s) to that file alone; cut the "
                "features into more groups, or say which ranks own which file (partition.files)",
                collective=True,
            )

    def _check_blocks(self) -> None:
        title, cut = splits_title(self.splits), splits_title(self.block_splits)
        if len(self.block_splits) != len(self.splits) or min(self.block_splits) < 1:
            raise ConfigError(f"partition.blocks needs one number per width ({len(self.widths)}), got {cut}")
        if any(n > n_blocks for n, n_blocks in zip(self.splits, self.block_splits, strict=True)):
            raise ConfigError(f"splits {title} cut blocks {cut}: a rank owns whole blocks")
        for number in range(self.logical.n_ranks):
            if len(set(self._owners(number))) > 1:
                raise ConfigError(f"splits {title} put layers of block {number} of {cut} on several ranks")

    def _check_speeds(self) -> None:
        if len(self.speeds) != self.n_ranks:
            raise ConfigError(
                f"partition.speeds has {len(self.speeds)} numbers, splits {splits_title(self.splits)} need "
                f"{self.n_ranks} ranks: one a rank"
            )
        if any(not 0.0 < speed < math.inf for speed in self.speeds):
            raise ConfigError(f"partition.speeds must be positive, got {list(self.speeds)}")

    @property
    def all_rows_per_unit(self) -> tuple[int, ...]:
        """Rows of the weight matrix for each input unit, for layers 1..L."""
        return self.rows_per_unit or (1,) * self.n_layers

    @property
    def n_features(self) -> int:
        """Number of features of a sample."""
        return self.widths[0] * self.features_per_unit

    @property
    def n_layers(self) -> int:
        """Number of layers with weights, L."""
        return len(self.widths) - 1

    def grid_shape(self, layer: int) -> tuple[int, int]:
        """Return the numbers of input and output groups of a layer, ``(P_{m-1}, P_m)``."""
        return self.splits[layer - 1], self.splits[layer]

    @cached_property
    def n_ranks(self) -> int:
        """Number of ranks that the splits need: the largest number of blocks in a layer."""
        return max(a * b for a, b in map(self.grid_shape, range(1, self.n_layers + 1)))

    def group(self, layer: int, j: int) -> tuple[int, int]:
        """Return the half-open range of the units of group j of a layer (0 for features)."""
        if self.feature_limits and layer == 0:
            first, end = self._cut(0, j) if self.block_splits else (j, j + 1)
            return self.feature_limits[first], self.feature_limits[end]
        if layer == 0 and self.owners is not None:
            return self._features_of_files[j]
        first, end = self._cut(layer, j)
        if not self.block_splits:
            return first, end
        n, n_groups = self.widths[layer], self.block_splits[layer]
        return bounds(n, n_groups, first)[0], bounds(n, n_groups, end)[0]

    def _cut(self, layer: int, j: int) -> tuple[int, int]:
        """Return the half-open range of the parts of group j of a layer: units, or groups of the logical blocks."""
        if not self.speeds:
            return bounds(self._n_items(layer), self.splits[layer], j)
        return self._weighted[layer][j]

    def _n_items(self, layer: int) -> int:
        """Parts of the groups of a layer."""
        return self.block_splits[layer] if self.block_splits else self.widths[layer]

    @cached_property
    def _weighted(self) -> list[list[Range]]:
        """Groups of each layer, sized by the speeds of the ranks."""
        return [weighted_bounds(self._n_items(m), weights) for m, weights in enumerate(self._weights)]

    @cached_property
    def _features_of_files(self) -> list[Range]:
        return [] if self.owners is None else self.owners.cut(self.splits)

    @cached_property
    def _weights(self) -> list[list[float]]:
        """Mean speed of the ranks with rows or columns of each group, by layer."""
        return [
            [
                fmean(self.speeds[rank] for rank in {*self._owners_below(m, j), *self._owners_above(m, j)})
                for j in range(n_groups)
            ]
            for m, n_groups in enumerate(self.splits)
        ]

    def owner(self, layer: int, i: int, j: int) -> int:
        """Return the rank that owns block (i, j) of a layer."""
        n_i, n_j = self.grid_shape(layer)
        return i * n_j + j if layer % 2 else j * n_i + i

    def block(self, layer: int, rank: int) -> Block | None:
        """Return the block of a layer that a rank owns, or None if it owns none, or one without variables.

        Parameters
        ----------
        layer : int
            Number of the layer, from 1.
        rank : int
            Any rank, not only this process's.

        Returns
        -------
        Block or None
        """
        block = self._division(layer, rank)
        return block if block is not None and block.n_params else None

    def _division(self, layer: int, rank: int) -> Block | None:
        """Return the block of a layer that falls to a rank, with or without variables."""
        n_i, n_j = self.grid_shape(layer)
        if rank >= n_i * n_j:
            return None
        i, j = divmod(rank, n_j) if layer % 2 else divmod(rank, n_i)[::-1]
        n_rows = self.all_rows_per_unit[layer - 1]
        owns_bias = layer not in self.unbiased and self._bias_groups[layer - 1] == i
        return Block(layer, i, j, self.group(layer - 1, i), self.group(layer, j), n_rows, owns_bias)

    @cached_property
    def _bias_groups(self) -> tuple[int, ...]:
        """Input group whose blocks own the biases of layers 1..L: not one without units, whose ranks own nothing."""
        return self.bias_groups or tuple(
            next(i for i in range(self.splits[m]) if np.ptp(self.group(m, i))) for m in range(self.n_layers)
        )

    def blocks(self, rank: int) -> list[Block]:
        """Return all blocks of a rank by layer, at most one in each."""
        owned = (self.block(layer, rank) for layer in range(1, self.n_layers + 1))
        return [block for block in owned if block is not None]

    @cached_property
    def logical(self) -> Partition:
        """Partition whose ranks are the logical blocks: this one, unless they are split otherwise."""
        if not self.block_splits:
            return self
        return Partition(
            self.widths, self.block_splits, self.rows_per_unit, self.features_per_unit,
            feature_limits=self.feature_limits, unbiased=self.unbiased, bias_groups=(0,) * self.n_layers,
        )  # fmt: skip

    def of_features(self, chosen: NDArray[np.bool_]) -> Partition:
        """Apply the same division to a selection of features: each group keeps its selected ones.

        Parameters
        ----------
        chosen : Array of bool, of shape (n_features,)
            Selected features of a network without images.

        Returns
        -------
        Partition
            Partition with renumbered features.
        """
        finest = self.logical
        limits = [finest.group(0, j)[0] for j in range(finest.splits[0])]
        before = np.concatenate([[0], np.cumsum(chosen)])
        kept = (*before[limits].tolist(), int(before[-1]))
        owners = self.owners
        if owners is not None:
            ends = before[np.cumsum([0, *owners.columns])]
            owners = replace(owners, columns=tuple(np.diff(ends).tolist()))
        # a group keeps the biases even if none of its features is selected
        return replace(
            self, widths=(kept[-1], *self.widths[1:]), owners=owners, feature_limits=kept, bias_groups=self._bias_groups
        )

    @property
    def cut_of_blocks(self) -> tuple[tuple[int, ...], tuple[float, ...], FileOwners | None]:
        """Everything that determines the logical blocks: their splits, and the speeds and files behind them."""
        return self.logical.splits, self.logical.speeds, self.logical.owners

    def holder(self, number: int) -> int:
        """Return the rank that owns a logical block."""
        return self._owners(number)[0] if self.block_splits else number

    def numbers(self, rank: int) -> list[int]:
        """Return the logical blocks that a rank owns, ascending."""
        if not self.block_splits:
            return [rank]
        return [number for number in range(self.logical.n_ranks) if self.holder(number) == rank]

    def _owners(self, number: int) -> list[int]:
        """Owner of each of a logical block's parts, by layer."""
        groups = self._groups
        return [
            self.owner(block.layer, groups[block.layer - 1][block.i], groups[block.layer][block.j])
            for block in (self.logical._division(m, number) for m in range(1, self.n_layers + 1))
            if block is not None
        ]

    @cached_property
    def _groups(self) -> list[list[int]]:
        """Group of the ranks that contains each group of the logical blocks, by layer."""
        return [
            [j for j in range(n_groups) for _ in range(*self._cut(m, j))] for m, n_groups in enumerate(self.splits)
        ]

    def boundary(self, layer: int, j: int) -> tuple[int, ...]:
        """Return the ranks that share group j of a layer: owners of (m; ., j) and of (m + 1; j, .), sorted.

        They sum the group's partial pre-activations forward and its partial cotangents backward. A rank that owns no
        variables of these blocks has no part in them. The output boundary spans all ranks, since every rank holds the
        outputs, the loss and the labels.

        Parameters
        ----------
        layer : int
            0 (the features) to L.
        j : int
            Group of that layer.

        Returns
        -------
        tuple of int
        """
        if layer == self.n_layers:
            return tuple(range(self.n_ranks))
        above = (rank for rank in self._owners_above(layer, j) if self.block(layer + 1, rank) is not None)
        return tuple(sorted({*self.column(layer, j), *above}))

    def column(self, layer: int, j: int) -> list[int]:
        """Return the ranks that own variables of blocks (layer; ., j), which share their outputs, in the order of i."""
        return [rank for rank in self._owners_below(layer, j) if self.block(layer, rank) is not None]

    def first_of_features(self, i: int) -> int:
        """Return the first rank that owns variables of group i of the features; one of its ranks always does."""
        return self.boundary(0, i)[0]

    @property
    def shares_last_hidden(self) -> bool:
        """Whether the last hidden layer is a single group, on whose boundary all ranks stand."""
        last = self.n_layers - 1
        return last > 0 and self.splits[last] == 1 and len(self.boundary(last, 0)) == self.n_ranks

    def _owners_below(self, layer: int, j: int) -> list[int]:
        """Owners of blocks (layer; ., j), in the order of i; the features have none."""
        return [self.owner(layer, i, j) for i in range(self.splits[layer - 1])] if layer else []

    def _owners_above(self, layer: int, j: int) -> list[int]:
        """Owners of blocks (layer + 1; j, .); the outputs have none."""
        return [self.owner(layer + 1, j, k) for k in range(self.splits[layer + 1])] if layer < self.n_layers else []

    def n_params(self, rank: int) -> int:
        """Return the number of variables that a rank owns."""
        return sum(block.n_params for block in self.blocks(rank))

    def idle_ranks(self) -> list[int]:
        """Ranks without variables, which exist if there are more groups than neurons or features."""
        return [rank for rank in range(self.n_ranks) if self.n_params(rank) == 0]


def divisors(n: int) -> list[int]:
    """Return the divisors of a positive number, ascending."""
    return [k for k in range(1, n + 1) if n % k == 0]


def regular_splits(n_ranks: int, n_layers: int) -> list[tuple[int, ...]]:
    """List all alternating splits a, b, a, b, ... with a b = ``n_ranks``, which leave no rank idle by construction.

    Parameters
    ----------
    n_ranks : int
        Number of ranks.
    n_layers : int
        Number of layers with weights.

    Returns
    -------
    list of tuple of int
        Tuples of length ``n_layers + 1``.
    """
    return [
        tuple((a, n_ranks // a)[m % 2] for m in range(n_layers + 1)) for a in divisors(n_ranks)
    ]


def regular_blocks(n_blocks: int, widths: Sequence[int], rows_per_unit: Sequence[int]) -> tuple[int, ...]:
    """Find regular splits into a number of logical blocks that minimise the largest block's size, inputs and outputs.

    Parameters
    ----------
    n_blocks : int
        Number of blocks.
    widths, rows_per_unit : sequence of int
        Shape of the network's layers.

    Returns
    -------
    tuple of int
        Splits that depend on the network only.
    """

    def cost(splits: tuple[int, ...]) -> int:
        # the first block is the largest: it has the larger groups and the biases
        blocks = Partition(tuple(widths), splits, tuple(rows_per_unit)).blocks(0)
        return sum(block.n_params + sum(block.shape) for block in blocks)

    return min(regular_splits(n_blocks, len(widths) - 1), key=cost)


def check_rank_count(partition: Partition, n_ranks: int, n_replicas: int = 1) -> None:
    """Refuse splits that do not use exactly the available ranks.

    Parameters
    ----------
    partition : Partition
        The split of the network.
    n_ranks : int
        Number of ranks started, for one replica of the grid.
    n_replicas : int
        Number of replicas, for the message.

    Raises
    ------
    ConfigError
        If the largest layer has another number of blocks; lists valid splits.
    """
    if partition.n_ranks == n_ranks:
        return
    each = f" for each of {n_replicas} replicas" if n_replicas > 1 else ""
    valid = ", ".join("-".join(map(str, s)) for s in regular_splits(n_ranks, partition.n_layers))
    raise ConfigError(
        f"partition.splits = {list(partition.splits)} needs {partition.n_ranks} ranks "
        f"(the largest product of neighbours), but {n_ranks} were started{each}. "
        f"Splits that fit {n_ranks} ranks are, for example: {valid}; or use splits = \"auto\"",
        collective=True,
    )


def splits_title(splits: Sequence[int], n_replicas: int = 1, blocks: Sequence[int] = ()) -> str:
    """Format splits for messages and files.

    Parameters
    ----------
    splits : sequence of int
        Splits of a grid.
    n_replicas : int
        Number of copies of the grid.
    blocks : sequence of int
        Groups of the logical blocks, if they differ from those of the ranks.

    Returns
    -------
    str
        ``2-1-2``, ``3 x 2-1-2`` with three replicas of the grid, ``2-1-2 (blocks 2-2-2)``.
    """
    text = "-".join(map(str, splits))
    text += f" (blocks {'-'.join(map(str, blocks))})" if blocks else ""
    return text if n_replicas == 1 else f"{n_replicas} x {text}"


def as_splits(values: Sequence[int]) -> tuple[int, ...]:
    """Convert splits to a tuple of plain ints."""
    return tuple(int(value) for value in values)
