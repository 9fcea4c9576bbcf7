r"""The regularised objective over all samples, in chunks, and what its evaluation leaves for the next step.

.. math:: f(\theta) = \frac{\theta^T P \theta}{2C} + \frac1l \sum_i \xi(z^{L,i}; y^i)

P is the identity, without the variables that are not penalised.

Samples are permuted once, by the seed, when training starts, so that chunks are ranges and never copied. Samples of the
curvature that are not all are drawn anew for each point, copied, and passed forward once more where the point is
linearised. Of replicas of the grid each has its share of the samples; loss and gradient are summed over them.
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
"""A trial step may overflow: that is a value that the line search refuses, and nothing to warn of on every rank."""


def subsample_size(n_samples: int, fraction: float, minimum: int = 1) -> int:
    """Number of samples in the curvature subsample: a fraction, rounded up, within 1 and all."""
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
        Range of this replica's samples, and activations, or None where they were not kept; the subsample is the last.
    outputs : Array of shape (n_own, n_out)
        Outputs of this replica's samples, the same on all its ranks.
    targets : Array
        Their targets, in the same order, without weights.
    share : SampleShare
        Which samples of the subsample are this replica's.
    apart : Array of int or None
        Numbers of this replica's samples that are the subsample, in place of the last chunk.
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
        """Range of this replica's samples, and activations, of the curvature subsample."""
        samples, activations = self.chunks[-1]
        if activations is None:
            raise RuntimeError("the activations of the subsample are always kept")
        return samples, activations


class Objective:
    """Loss over this rank's features and all samples, plus regularisation.

    Parameters
    ----------
    network : PartitionedNetwork
        The network on its grid.
    loss : Loss
        Loss of one sample; where samples have weights, a :class:`~distnewton.network.weighted.Weighted` one.
    X : Array or csr_array of shape (n_own, n_features_local)
        Features this rank holds of its replica's samples, already permuted.
    targets : Array
        Targets of these samples, with weights where the loss takes some; the same on all ranks of the replica, permuted
        alike.
    regularization : float
        1/C.
    memory_bytes : float
        What the activations of a rank may occupy. Chunks and what is kept of an evaluation follow from it.
    share : SampleShare or None
        Which samples are this replica's; by default it holds all.
    n_counted : float or None
        l, of which C may be a multiple: the sum of the samples' weights; by default their number.
    penalised : Array of shape (n_params_local,) or None
        Diagonal of P: 0 for variables that regularisation leaves out, 1 for others; None for the identity.

    Attributes
    ----------
    renewal : callable or None
        Draws samples anew: takes the number of an iteration, and returns whether they are others than before.
    n_rows_kept : int
        Samples whose activations an evaluation keeps, so that the gradient need not pass forward again.
    chunk_rows : int
        Samples that pass at a time.
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
        # the same number of rows on all ranks, since chunks are summed together: the widest rank decides
        width = network.grid.comm.allgather(np.array([network.n_kept + network.n_out])).max()
        self.n_rows_kept, self.chunk_rows = rows_kept(width, network.backend.dtype.itemsize, memory_bytes)

    @property
    def n_samples(self) -> int:
        """All samples, over the replicas."""
        return self.share.n_samples

    def batch(self, rows: Array) -> Objective:
        """The same objective on some of the samples only; 1/C is that of the whole.

        Parameters
        ----------
        rows : Array of shape (n,)
            Positions of samples among all, the same on all ranks.

        Returns
        -------
        Objective
        """
        part = copy.copy(self)
        own, part.share = self.share.choose(rows)
        part.X, part.targets = take_rows(self.X, own), take_rows(self.targets, own)
        return part

    def on(self, network: PartitionedNetwork, X: Any, penalised: Array | None) -> Objective:
        """The same objective on another partition of the network; what belongs to a rank is given. Collective."""
        return Objective(
            network, self.loss, X, self.targets, self.regularization, self.memory_bytes, self.share, self.n_counted,
            penalised,
        )  # fmt: skip

    def renew(self, iteration: int) -> bool:
        """Take the samples of an iteration, in place; whether they are others than before."""
        return self.renewal is not None and self.renewal(iteration)

    def regularized(self, regularization: float) -> Objective:
        """The same objective with another 1/C."""
        other = copy.copy(self)
        other.regularization = regularization
        return other

    def loss_of_nothing(self) -> float:
        """Mean loss where all outputs are zero (collective, one number)."""
        total, n_out = 0.0, self.network.n_out
        if self.network.grid.rank == 0:
            for start, stop in chunk_ranges(self.share.n_own, None, self.chunk_rows):
                total += self.loss.value(self.network.backend.zeros(stop - start, n_out), self.targets[start:stop])
        (total,) = self.network.grid.world.sum_scalars(total)
        return total / self.n_samples

    @_QUIET
    def evaluate(self, params: Array, curvature: tuple[int, int] | Array | None) -> Evaluation:
        """Loss of all samples, keeping activations as far as memory allows.

        Parameters
        ----------
        params : Array of shape (n_params_local,)
            The point; kept, not copied.
        curvature : tuple of int, Array of shape (n,), or None
            Samples of the curvature of the step that starts here: a range of all samples, which is evaluated last and
            always kept, or ascending positions among all samples, for whose activations room is left. None keeps
            nothing.

        Returns
        -------
        Evaluation

        Notes
        -----
        Collective, as :meth:`PartitionedNetwork.forward` a chunk, and one sum of a number over all ranks.
        """
        network = self.network
        last, apart = None, None
        if isinstance(curvature, np.ndarray):
            apart, share = self.share.choose(curvature)
            # a point and a trial share the memory, and only the point has the subsample
            room = self.n_rows_kept - len(apart) // 2
        else:
            share = self.share.part(*(curvature or (0, self.n_samples)))
            last = self.share.within(*curvature) if curvature else None
            # the subsample is kept in any case; other chunks as far as there is room besides it
            room = self.n_rows_kept - (last[1] - last[0]) if last else 0
        chunks: list[tuple[tuple[int, int], Activations | None]] = []
        outputs = network.backend.empty(self.share.n_own, network.n_out)
        total = 0.0
        for samples in chunk_ranges(self.share.n_own, last, self.chunk_rows):
            activations = network.forward(params, row_range(self.X, *samples))
            rows, n_rows = slice(*samples), samples[1] - samples[0]
            outputs[rows] = activations.output
            # all of a replica hold the outputs, but one rank's sum is everyone's, so that decisions never differ
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
        """Activations and targets of this replica's samples of the curvature.

        Parameters
        ----------
        evaluation : Evaluation
            Of the point.

        Returns
        -------
        tuple of Activations and Array

        Notes
        -----
        Collective where these samples lie apart, and not all activations were kept: a forward pass.
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
        """This rank's block of the gradient of the objective; shape (n_params_local,).

        Parameters
        ----------
        evaluation : Evaluation
            Of the point; chunks that were not kept are computed again.

        Returns
        -------
        Array of shape (n_params_local,)

        Notes
        -----
        Collective, as :meth:`PartitionedNetwork.add_gradient` a chunk, and a sum over the replicas.
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
        """P theta / C, the gradient of the regularisation; shape (n_params_local,)."""
        gradient: Array = self.regularization * penalised_part(params, self.penalised)
        return gradient
