r"""The regularised objective over all samples, evaluated in chunks, and what an evaluation keeps for the next step.

.. math:: f(\theta) = \frac{\theta^T P \theta}{2C} + \frac1l \sum_i \xi(z^{L,i}; y^i)

P is the identity, with zeros for variables that are not penalised.

Samples are permuted once, by the seed, when training starts, so chunks are ranges that need no copy. A curvature
subsample that is not the whole set is drawn for each point and copied; it passes forward again when the point is
linearised. Each replica of the grid holds its share of the samples; loss and gradient are summed over the replicas.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from distnewton.backend import Array, take_rows
from distnewton.data.rows import row_range
from distnewton.network.losses import Loss
from distnewton.network.network import Activations, PartitionedNetwork
from distnewton.network.weighted import plain_targets
from distnewton.parallel.replicas import SampleShare
from distnewton.planning.chunks import chunk_ranges, rows_kept
from distnewton.solvers.damping import penalised_part

_QUIET = np.errstate(over="ignore", invalid="ignore")
"""A trial step may overflow: the line search refuses it, so the ranks need not warn."""


def subsample_size(n_samples: int, fraction: float, minimum: int = 1) -> int:
    """Return the size of the curvature subsample: a fraction of all, rounded up, at least `minimum` and at most all."""
    return min(n_samples, max(minimum, int(np.ceil(fraction * n_samples))))


@dataclass
class Evaluation:
    """The loss at a point, and the activations that were kept.

    Attributes
    ----------
    params : Array of shape (n_params_local,)
        The point.
    loss : float
        Mean loss of the samples, over all replicas.
    chunks : list of tuple
        Ranges of this replica's samples, each with its activations, or None if these were not kept. The last chunk is
        the subsample, unless `apart` is given.
    outputs : Array of shape (n_own, n_out)
        Outputs of this replica's samples, the same on all its ranks.
    targets : Array
        Their targets, in the same order, without weights.
    share : SampleShare
        This replica's share of the subsample.
    apart : Array of int or None
        Numbers of this replica's samples in the subsample, if it is not the last chunk.
    """

    params: Array
    loss: float
    chunks: list[tuple[tuple[int, int], Activations | None]]
    outputs: Array
    targets: Array
    share: SampleShare
    apart: Array | None = None

    @property
    def subsample(self) -> tuple[tuple[int, int], Activations]:
        """Range of this replica's samples in the curvature subsample, and their activations."""
        samples, activations = self.chunks[-1]
        if activations is None:
            raise RuntimeError("the activations of the subsample are always kept")
        return samples, activations


class Objective:
    """Mean loss over all samples, plus regularisation.

    It has an attribute for each quantity of the formula, and two that say how many samples are evaluated at a time.

    Parameters
    ----------
    network : PartitionedNetwork
        The network on its grid.
    loss : Loss
        Loss of one sample; if samples have weights, a :class:`~distnewton.network.weighted.Weighted` one.
    X : Array or csr_array of shape (n_own, n_features_local)
        Features of this replica's samples that this rank holds, already permuted.
    targets : Array
        Targets of these samples in the same order, with weights if the loss uses them; the same on all ranks of the
        replica.
    regularization : float
        1/C.
    memory_bytes : float
        Bytes that a rank's activations may take; they decide the size of chunks and what an evaluation keeps.
    share : SampleShare or None
        Samples of this replica; by default all.
    n_counted : float or None
        The number l that C may be a multiple of: the sum of the samples' weights, by default their number.
    penalised : Array of shape (n_params_local,) or None
        Diagonal of P: 0 for variables that are not penalised, 1 for others; None for the identity.

    Attributes
    ----------
    renewal : callable or None
        Draws new samples: takes the number of an iteration, and returns whether the samples have changed.
    n_rows_kept : int
        Number of samples whose activations an evaluation keeps, which saves the gradient a forward pass.
    chunk_rows : int
        Number of samples in a chunk.
    """

    def __init__(
        self,
        network: PartitionedNetwork,
        loss: Loss,
        X: Any,
        targets: Array,
        regularization: float,
        memory_bytes: float,
        share: SampleShare | None = None,
        n_counted: float | None = None,
        penalised: Array | None = None,
    ) -> None:
        self.network, self.loss, self.X, self.targets = network, loss, X, targets
        self.regularization, self.penalised = regularization, penalised
        self.share = share or SampleShare(len(targets))
        self.memory_bytes = memory_bytes
        self.n_counted = float(self.n_samples) if n_counted is None else n_counted
        self.renewal: Callable[[int], bool] | None = None
        # all ranks sum the same chunks, so the rank that keeps the most per sample decides their size
        width = network.grid.comm.allgather(np.array([network.n_kept + network.n_out])).max()
        self.n_rows_kept, self.chunk_rows = rows_kept(width, network.backend.dtype.itemsize, memory_bytes)

    @property
    def n_samples(self) -> int:
        """Number of samples of all replicas."""
        return self.share.n_samples

    def batch(self, rows: Array) -> Objective:
        """Return the same objective on some of the samples, with the same 1/C.

        Parameters
        ----------
        rows : Array of shape (n,)
            Positions of the samples among all samples, the same on all ranks.

        Returns
        -------
        Objective
        """
        part = copy.copy(self)
        own, part.share = self.share.choose(rows)
        part.X, part.targets = take_rows(self.X, own), take_rows(self.targets, own)
        return part

    def on(self, network: PartitionedNetwork, X: Any, penalised: Array | None) -> Objective:
        """Return the same objective on another partition, given the new arrays of this rank. Collective."""
        return Objective(
            network, self.loss, X, self.targets, self.regularization, self.memory_bytes, self.share, self.n_counted,
            penalised,
        )  # fmt: skip

    def renew(self, iteration: int) -> bool:
        """Take the samples of an iteration, in place; return whether they have changed."""
        return self.renewal is not None and self.renewal(iteration)

    def regularized(self, regularization: float) -> Objective:
        """Return the same objective with another 1/C."""
        other = copy.copy(self)
        other.regularization = regularization
        return other

    def loss_of_nothing(self) -> float:
        """Compute the mean loss of zero outputs (collective: a sum of one number)."""
        total, n_out = 0.0, self.network.n_out
        if self.network.grid.rank == 0:
            for start, stop in chunk_ranges(self.share.n_own, None, self.chunk_rows):
                total += self.loss.value(self.network.backend.zeros(stop - start, n_out), self.targets[start:stop])
        (total,) = self.network.grid.world.sum_scalars(total)
        return total / self.n_samples

    @_QUIET
    def evaluate(self, params: Array, curvature: tuple[int, int] | Array | None) -> Evaluation:
        """Compute the loss of all samples; keep activations as far as memory allows.

        Parameters
        ----------
        params : Array of shape (n_params_local,)
            The point; kept, not copied.
        curvature : tuple of int, Array of shape (n,), or None
            Curvature samples of the step that starts here: either a range of all samples, which is evaluated last and
            always kept, or ascending positions among all samples, for which room is left. None means no curvature
            samples.

        Returns
        -------
        Evaluation

        Notes
        -----
        Collective: :meth:`PartitionedNetwork.forward` for each chunk, and a sum of one number over all ranks.
        """
        network = self.network
        last, apart = None, None
        if isinstance(curvature, np.ndarray):
            apart, share = self.share.choose(curvature)
            # a point and a trial share the memory, and only the point holds the subsample
            room = self.n_rows_kept - len(apart) // 2
        else:
            share = self.share.part(*(curvature or (0, self.n_samples)))
            last = self.share.within(*curvature) if curvature else None
            # the subsample is always kept, other chunks only if there is room
            room = self.n_rows_kept - (last[1] - last[0]) if last else 0
        chunks: list[tuple[tuple[int, int], Activations | None]] = []
        outputs = network.backend.empty(self.share.n_own, network.n_out)
        total = 0.0
        for samples in chunk_ranges(self.share.n_own, last, self.chunk_rows):
            activations = network.forward(params, row_range(self.X, *samples))
            rows, n_rows = slice(*samples), samples[1] - samples[0]
            outputs[rows] = activations.output
            # all ranks of a replica hold the outputs, but rounding may differ: only one rank's sum counts
            if network.grid.rank == 0:
                total += self.loss.value(activations.output, self.targets[rows])
            if samples == last:
                kept: Activations | None = activations
            else:
                kept = activations if n_rows <= room else None
                room -= n_rows if kept else 0
            chunks.append((samples, kept))
        (total,) = network.grid.world.sum_scalars(total)
        return Evaluation(params, total / self.n_samples, chunks, outputs, plain_targets(self.targets), share, apart)

    @_QUIET
    def curvature_samples(self, evaluation: Evaluation) -> tuple[Activations, Array]:
        """Return activations and targets of this replica's curvature samples.

        Parameters
        ----------
        evaluation : Evaluation
            Evaluation of the point.

        Returns
        -------
        tuple of Activations and Array

        Notes
        -----
        Collective, a forward pass, if these samples are no range and not all activations were kept.
        """
        rows = evaluation.apart
        if rows is None:
            samples, activations = evaluation.subsample
            return activations, self.targets[slice(*samples)]
        X, targets = take_rows(self.X, rows), take_rows(self.targets, rows)
        parts = [
            (kept, rows[slice(*np.searchsorted(rows, samples))] - samples[0])
            for samples, kept in evaluation.chunks if kept is not None
        ]  # fmt: skip
        if len(parts) < len(evaluation.chunks):
            return self.network.forward(evaluation.params, X), targets
        return Activations.gathered(parts, X), targets

    @_QUIET
    def gradient(self, evaluation: Evaluation) -> Array:
        """Compute this rank's block of the gradient of the objective.

        Parameters
        ----------
        evaluation : Evaluation
            Evaluation of the point; chunks that were not kept are computed again.

        Returns
        -------
        Array of shape (n_params_local,)

        Notes
        -----
        Collective: :meth:`PartitionedNetwork.add_gradient` for each chunk, and a sum over the replicas.
        """
        total = self.network.backend.zeros(self.network.layout.n_params)
        for samples, kept in evaluation.chunks:
            activations = kept or self.network.forward(evaluation.params, row_range(self.X, *samples))
            cotangent = self.loss.gradient(activations.output, self.targets[slice(*samples)])
            cotangent /= self.n_samples
            self.network.add_gradient(evaluation.params, activations, cotangent, total)
        self.network.grid.sum_over_replicas(total)
        total += self.penalty_gradient(evaluation.params)
        return total

    def penalty_gradient(self, params: Array) -> Array:
        """Return P theta / C, the gradient of the regularisation; shape (n_params_local,)."""
        gradient: Array = self.regularization * penalised_part(params, self.penalised)
        return gradient
