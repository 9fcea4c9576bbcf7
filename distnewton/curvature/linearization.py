"""Everything a direction may know: the model of the objective around the current point."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distnewton.backend import Array, Backend, like, to_host
from distnewton.curvature.group_summaries import ParameterGroups, Summary, summarise
from distnewton.curvature.jacobian import Jacobian, linearize
from distnewton.network.layers import Unfolded
from distnewton.network.layout import ParameterLayout
from distnewton.network.losses import Loss, LossHessian, ScaledIdentity, random_signs
from distnewton.network.network import Activations, PartitionedNetwork
from distnewton.network.shapes import LayerShape
from distnewton.network.weighted import weights_of
from distnewton.parallel.grid import ProcessGrid
from distnewton.parallel.replicas import Draws, OwnDraws, SampleShare


class CurvatureSample:
    """The samples whose curvature counts, with what a direction may ask about them.

    Parameters
    ----------
    network : PartitionedNetwork
        The network.
    params : Array of shape (n_params_local,)
        The point.
    activations : Activations
        Of the point on these samples.
    loss : Loss
        Loss of a sample.
    targets : Array
        Targets of these samples, replicated.
    generator : numpy.random.Generator or None
        For random cotangents, the same state on all ranks; only methods that draw need it.
    deltas : dict of int to Array or None
        Cotangents of the own output groups for the gradients of the samples' losses, where they are known already.
    share : SampleShare or None
        Which samples of all replicas' these are; by default they are all there are.

    Attributes
    ----------
    n_samples : int
        Number of samples over all replicas, at least 1.
    share : SampleShare
        Which of them are this replica's.
    """

    def __init__(
        self,
        network: PartitionedNetwork,
        params: Array,
        activations: Activations,
        loss: Loss,
        targets: Array,
        generator: np.random.Generator | None = None,
        deltas: dict[int, Array] | None = None,
        share: SampleShare | None = None,
    ) -> None:
        self._network, self._params, self._activations = network, params, activations
        self._loss, self._targets = loss, targets
        self._generator, self._deltas = generator, deltas
        self._jacobian: Jacobian | None = None
        self._hessian: LossHessian | None = None
        self._rooted = False
        self.share = share or SampleShare(len(activations.output))
        self.n_samples = max(1, self.share.n_samples)

    @property
    def backend(self) -> Backend:
        """Array library and dtype."""
        return self._network.backend

    @property
    def layout(self) -> ParameterLayout:
        """Where the blocks lie in a flat vector."""
        return self._network.layout

    @property
    def weights(self) -> Array | None:
        """Weights of the samples, of shape (n,) and mean 1 over all samples of the run; None where all count alike."""
        return weights_of(self._targets)

    @property
    def inputs(self) -> Mapping[int, Any]:
        """Z^{m-1} of the input group of each own block, by layer."""
        groups = self._activations.groups
        return {m: groups[m - 1, block.i] for m, block in self._network.grid.blocks.items()}

    def unfold(self, m: int, delta: Array) -> Iterator[Unfolded]:
        """Inputs and cotangents of an own layer by places, some samples at a time.

        Parameters
        ----------
        m : int
            An own layer.
        delta : Array of shape (n, n_elements of the own output group)
            Cotangents of what is activated there.

        Yields
        ------
        Unfolded
        """
        winners = self._activations.winners.get((m, self._network.grid.blocks[m].j))
        yield from self._network.layers[m].unfold(self.inputs[m], delta, winners)

    def shape(self, m: int) -> LayerShape:
        """Units, kernel and pooling of a layer."""
        return self._network.shape.layers[m - 1]

    def linearize(self, sketch: int = 0, *, rooted: bool = False) -> None:
        """Compute the Jacobian: of all outputs, of exact roots of the loss Hessian, or of random ones.

        Parameters
        ----------
        sketch : int
            Random cotangents a sample; 0, or at least the number of outputs: no sketch.
        rooted : bool
            Whether directions need B = I, as the sketch has it anyway.

        Notes
        -----
        Collective, as :func:`~distnewton.curvature.jacobian.linearize`.
        """
        n_out = self._activations.output.shape[1]
        hessian = self._loss.hessian(self._activations.output, self._targets)
        roots = None
        if 0 < sketch < n_out:
            roots = hessian.roots(sketch, self.draws)
        elif rooted:
            roots = hessian.roots(n_out, None)
        self._rooted = roots is not None
        self._jacobian = linearize(self._network, self._params, self._activations, roots)
        self._hessian = hessian if roots is None else ScaledIdentity(1.0, roots[:, :, 0].copy())

    @property
    def has_jacobian(self) -> bool:
        """Whether the sample was linearized."""
        return self._jacobian is not None

    @property
    def jacobian(self) -> Jacobian:
        """This rank's columns of J, or of R J with roots R."""
        if self._jacobian is None:
            raise RuntimeError("linearize the sample first: directions say by `curvature` what they need")
        return self._jacobian

    @property
    def loss_hessian(self) -> LossHessian:
        """B of the rows of the Jacobian, the identity with roots; of all outputs where there is none."""
        if self._hessian is None:
            self._hessian = self._loss.hessian(self._activations.output, self._targets)
        return self._hessian

    def product(self, v: Array, scalars: Sequence[float]) -> tuple[Array, Array]:
        """J v, or R J v with roots, and sums of some numbers, over the ranks of a replica.

        Parameters
        ----------
        v : Array of shape (n_params_local,)
            This rank's block.
        scalars : sequence of float
            Numbers to sum over the ranks.

        Returns
        -------
        Array of shape (n, n_out), or (n, k)
            In float64, replicated.
        Array of shape (len(scalars),)
            The sums.

        Notes
        -----
        Collective: one sum where there is a Jacobian, else a forward pass.
        """
        grid = self._network.grid
        if self._jacobian is None:
            tangent = self._network.tangent(self._params, self._activations, v)
            return tangent.astype(np.float64), grid.sum_all(np.array(scalars, dtype=float))
        q = self._jacobian.matvec(v)
        message = grid.sum_all(self._joined([q.ravel().astype(np.float64)], scalars))
        return message[: q.size].reshape(q.shape), to_host(message[q.size :])

    def transposed_product(self, U: Array) -> Array:
        """This rank's block of J^T u over the samples of all replicas, or of its like with roots.

        Parameters
        ----------
        U : Array of shape (n, n_out), or (n, k)
            Cotangents of the rows.

        Returns
        -------
        Array of shape (n_params_local,)
            A new array.

        Notes
        -----
        Collective where there is no Jacobian: a backward pass. With replicas a sum over them.
        """
        if self._jacobian is not None:
            made = self._jacobian.rmatvec(U, self.backend.empty(self.layout.n_params))
        else:
            made = self.backend.zeros(self.layout.n_params)
            self._network.add_gradient(self._params, self._activations, U, made)
        return self._network.grid.sum_over_replicas(made)

    def fisher_cotangents(self) -> dict[int, Array]:
        """Cotangents of the own output groups whose squares add up to the empirical Fisher matrix's.

        Those of each sample's loss, times the root of its weight where it has one: a sample of weight 2 counts twice.

        Returns
        -------
        dict of int to Array
            By layer, of shape (n, n_elements of the group).

        Notes
        -----
        Collective, as :meth:`loss_cotangents`.
        """
        deltas, weights = self.loss_cotangents(), self.weights
        if weights is None:
            return deltas
        # the gradient of the weighted loss has the weight as a factor, so that it is 0 where that is
        xp = self.backend.xp
        roots = xp.sqrt(xp.where(weights > 0, weights, 1.0))[:, None]
        return {m: delta / roots.astype(delta.dtype) for m, delta in deltas.items()}

    def loss_cotangents(self) -> dict[int, Array]:
        """Cotangents of the own output groups for the gradient of each sample's weighted loss.

        Returns
        -------
        dict of int to Array
            By layer, of shape (n, n_elements of the group).

        Notes
        -----
        Collective where neither the Jacobian of all outputs nor the gradient's own backward pass has them already.
        """
        if self._deltas is None:
            self._deltas = self._backpropagate(self._loss.gradient(self._activations.output, self._targets))
        return self._deltas

    def random_cotangents(self) -> dict[int, Array]:
        """Cotangents of the own output groups for random outputs c with E[c c^T] = B (the Fisher's, or [DNM]'s G).

        Returns
        -------
        dict of int to Array
            By layer, of shape (n, n_elements of the group).

        Notes
        -----
        Collective where there is no Jacobian: a backward pass.
        """
        if self._jacobian is not None and self._rooted:
            # a random sign for each stored row: its square has the same mean as the sum of the rows' squares
            n, k = self._jacobian.n_samples, self._jacobian.n_out
            return self._expand(like(self._activations.output, random_signs(self.draws, n, k)))
        hessian = self._loss.hessian(self._activations.output, self._targets)
        c = hessian.roots(1, self.draws)[:, 0, :]
        return self._backpropagate(self.backend.asarray(c))

    def products(self, directions: Sequence[Array], scalars: Sequence[float]) -> tuple[list[Array], Array, LossHessian]:
        """J d of some directions, and sums of some numbers, over the ranks of a replica.

        A sketch knows less of a direction that was found with it than of others, so J d is then taken by forward
        differentiation, exactly.

        Parameters
        ----------
        directions : sequence of Array of shape (n_params_local,)
            This rank's blocks of the directions.
        scalars : sequence of float
            Numbers to sum over the ranks.

        Returns
        -------
        list of Array of shape (n, n_out)
            J d in float64, replicated.
        Array of shape (len(scalars),)
            The sums.
        LossHessian
            B of the rows of J d.

        Notes
        -----
        Collective: one sum of k |S| n_out numbers where the Jacobian is known for all outputs, else a forward pass a
        direction.
        """
        grid = self._network.grid
        if self._jacobian is None or self._rooted:
            hessian = self._loss.hessian(self._activations.output, self._targets)
            tangents = [self._network.tangent(self._params, self._activations, d) for d in directions]
            return [t.astype(np.float64) for t in tangents], grid.sum_all(np.array(scalars, dtype=float)), hessian
        parts = [self._jacobian.matvec(d).astype(np.float64) for d in directions]
        message = grid.sum_all(self._joined([q.ravel() for q in parts], scalars))
        n = parts[0].size
        sums = [message[a * n : (a + 1) * n].reshape(parts[0].shape) for a in range(len(parts))]
        return sums, to_host(message[len(parts) * n :]), self.loss_hessian

    def _joined(self, parts: Sequence[Array], scalars: Sequence[float]) -> Array:
        """One message of several vectors and a few numbers, in float64."""
        numbers = like(parts[0], np.array(scalars, dtype=np.float64))
        message: Array = self.backend.xp.concatenate([*parts, numbers])
        return message

    def summarise(self, direction: Array, groups: ParameterGroups, regularization: float) -> Summary:
        """First, second and third derivatives of these samples' objective along the groups of a direction.

        Parameters
        ----------
        direction : Array of shape (n_params_local,)
            This rank's block.
        groups : ParameterGroups
            What belongs together.
        regularization : float
            1/C.

        Returns
        -------
        Summary
            Of the mean loss of these samples and the regularisation; replicated.

        Notes
        -----
        Collective, as :func:`~distnewton.curvature.group_summaries.summarise` and :meth:`loss_cotangents`.
        """
        return summarise(
            self._network,
            self._params,
            self._activations,
            self._loss,
            self._targets,
            self.loss_cotangents(),
            direction,
            groups,
            regularization,
            self.n_samples,
        )

    def _backpropagate(self, U: Array) -> dict[int, Array]:
        """Cotangents of the own output groups for cotangents U of the outputs."""
        if self._jacobian is not None and not self._rooted:
            return self._expand(U)
        return self._network.backpropagate(self._params, self._activations, U)

    def _expand(self, U: Array) -> dict[int, Array]:
        """Cotangents of the own output groups from the Jacobian's factors; no communication."""
        jacobian = self.jacobian
        made = {}
        for m, part in jacobian.parts.items():
            n_elements = self.layout.blocks[m].shape[1] * part.layer.shape.n_elements
            made[m] = self.backend.empty(jacobian.n_samples, n_elements)
            part.factor.expand(self.backend.asarray(U), made[m])
        return made

    @property
    def draws(self) -> Draws:
        """The random numbers of this replica's samples."""
        return self.generator if self.share.whole else OwnDraws(self.generator, self.share)

    @property
    def generator(self) -> np.random.Generator:
        """Random numbers of this sample; they go on from call to call."""
        if self._generator is None:
            raise RuntimeError("this sample was given no random numbers")
        return self._generator


@dataclass(frozen=True)
class Linearization:
    r"""Gradient and linearised network at a point, with the quadratic model they make.

    .. math:: q(d) = g^T d + \tfrac12 d^T (G_S + \lambda I) d

    Attributes
    ----------
    gradient : Array of shape (n_params_local,)
        This rank's block of grad f, over all samples or over a mini-batch.
    sample : CurvatureSample
        Samples of the curvature.
    regularization : float
        1/C.
    damping : float
        lambda.
    grid : ProcessGrid
        The ranks.
    """

    gradient: Array
    sample: CurvatureSample
    regularization: float
    damping: float
    grid: ProcessGrid

    @property
    def jacobian(self) -> Jacobian:
        """This rank's columns of J on the curvature sample."""
        return self.sample.jacobian

    @property
    def loss_hessian(self) -> LossHessian:
        """B of the rows of the Jacobian."""
        return self.sample.loss_hessian

    @property
    def layout(self) -> ParameterLayout:
        """Where the blocks lie in a flat vector."""
        return self.sample.layout

    @property
    def backend(self) -> Backend:
        """Array library and dtype."""
        return self.sample.backend

    @property
    def shift(self) -> float:
        """1/C + lambda, the multiple of the identity in the damped matrix."""
        return self.regularization + self.damping

    @property
    def n_samples(self) -> int:
        """Size of the curvature sample over all replicas, at least 1."""
        return self.sample.n_samples
