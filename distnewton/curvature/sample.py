"""The curvature sample: the samples that define the curvature, and the products that directions need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from distnewton.backend import Array, like, to_host
from distnewton.curvature.columns import SampleColumns
from distnewton.curvature.curves import Curves
from distnewton.curvature.group_summaries import Summary, summarise
from distnewton.curvature.groups import ParameterGroups
from distnewton.curvature.jacobian import Jacobian, linearize
from distnewton.curvature.point import Point
from distnewton.network.layout import ParameterLayout
from distnewton.network.losses import LossHessian, ScaledIdentity, random_signs
from distnewton.parallel.grid import ProcessGrid
from distnewton.parallel.replicas import Draws, OwnDraws, SampleShare

_DIFFERENCE = 0.1
"""Fraction of a step used for differences: the error is of third order in it, and it is far above rounding."""


class CurvatureSample(SampleColumns):
    """Products with the Jacobian of the outputs on some samples, and cotangents of their losses.

    Parameters
    ----------
    point : Point
        The samples at the current point.
    generator : numpy.random.Generator or None
        Random numbers for cotangents, in the same state on all ranks; only needed by methods that draw.
    deltas : dict of int to Array or None
        Cotangents of the own output groups for the gradients of the samples' losses, if already known.
    share : SampleShare or None
        This replica's share of the samples; by default it holds all of them.

    Attributes
    ----------
    n_samples : int
        Number of samples over all replicas, at least 1.
    """

    def __init__(
        self,
        point: Point,
        generator: np.random.Generator | None = None,
        deltas: dict[int, Array] | None = None,
        share: SampleShare | None = None,
    ) -> None:
        self.point, self._generator, self._deltas = point, generator, deltas
        self._jacobian: Jacobian | None = None
        self._hessian: LossHessian | None = None
        self._rooted = self._exact = False
        self._diagonal: Array | None = None
        self.share = share or SampleShare(point.n_samples)
        self.n_samples = max(1, self.share.n_samples)

    @property
    def params(self) -> Array:
        """This rank's block of the current point."""
        return self.point.params

    @property
    def grid(self) -> ProcessGrid:
        """Process grid."""
        return self.point.network.grid

    @property
    def layout(self) -> ParameterLayout:
        """Layout of the blocks in a flat vector."""
        return self.point.network.layout

    @property
    def inputs(self) -> Mapping[int, Any]:
        """Z^{m-1} of the input group of each own block, by layer."""
        groups = self.point.activations.groups
        return {m: groups[m - 1, block.i] for m, block in self.grid.blocks.items()}

    def winners(self, m: int) -> Array | None:
        """Choices of max pooling in the own output group of a layer, if it has max pooling."""
        return self.point.activations.winners.get((m, self.grid.blocks[m].j))

    # --- the Jacobian

    def linearize(self, sketch: int = 0, *, rooted: bool = False) -> None:
        """Compute the Jacobian: of all outputs, of exact roots of the loss Hessian, or of random ones.

        Parameters
        ----------
        sketch : int
            Number of random cotangents per sample; 0, or at least the number of outputs, for no sketch.
        rooted : bool
            Whether directions need B = I, which a sketch always has.

        Notes
        -----
        Collective, like :func:`~distnewton.curvature.jacobian.linearize`.
        """
        point, n_out = self.point, self.point.network.n_out
        hessian = point.loss_hessian
        roots = None
        # a residual is a single row, whereas its channels would be many
        rooted = rooted or point.network.jets is not None
        if 0 < sketch < n_out:
            roots = hessian.roots(sketch, self.draws)
        elif rooted:
            roots = hessian.roots(n_out, None)
        self._rooted = roots is not None
        self._exact = self._rooted and not 0 < sketch < n_out
        self._jacobian = linearize(point.network, point.params, point.activations, roots)
        self._hessian = hessian if roots is None else ScaledIdentity(1.0, roots[:, :, 0].copy())

    @property
    def has_jacobian(self) -> bool:
        """Whether the Jacobian has been computed."""
        return self._jacobian is not None

    @property
    def jacobian(self) -> Jacobian:
        """This rank's columns of J, or of R J if there are roots R."""
        if self._jacobian is None:
            raise RuntimeError("linearize the sample first: directions say by `curvature` what they need")
        return self._jacobian

    @property
    def loss_hessian(self) -> LossHessian:
        """B for the rows of the Jacobian: the identity with roots; for all outputs if there is no Jacobian."""
        if self._hessian is None:
            self._hessian = self.point.loss_hessian
        return self._hessian

    @property
    def residuals(self) -> Array | None:
        """Own samples' u with J^T u / |S| = gradient of the mean loss, for exact roots of B; None without those."""
        return self.point.loss.residuals(self.point.activations.output, self.point.targets) if self._exact else None

    def rooted(self, V: Array) -> Array:
        """Convert outputs V (n, n_out) of own samples to rows of the Jacobian: R V for exact roots R of B."""
        roots = self.backend.asarray(self.point.loss_hessian.roots(self.point.network.n_out, None))
        return self.backend.stacked_matvec(roots, self.backend.asarray(V))

    def product(self, v: Array, scalars: Sequence[float]) -> tuple[Array, Array]:
        """Compute J v, or R J v with roots, and sum some numbers, over the ranks of a replica.

        Parameters
        ----------
        v : Array of shape (n_params_local,)
            This rank's block.
        scalars : sequence of float
            Numbers to sum over the ranks.

        Returns
        -------
        Array of shape (n, n_out), or (n, k)
            Product in float64, replicated.
        Array of shape (len(scalars),)
            The sums.

        Notes
        -----
        Collective: one sum if there is a Jacobian, else a forward pass.
        """
        if self._jacobian is None:
            return self.point.tangent(v).astype(np.float64), self.grid.sum_all(np.array(scalars, dtype=float))
        q = self._jacobian.matvec(v)
        numbers = like(q, np.array(scalars, dtype=np.float64))
        message = self.grid.sum_all(self.backend.xp.concatenate([q.ravel().astype(np.float64), numbers]))
        return message[: q.size].reshape(q.shape), to_host(message[q.size :])

    def transposed_product(self, U: Array) -> Array:
        """Compute this rank's block of J^T u, or of (R J)^T u with roots, over the samples of all replicas.

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
        Collective if there is no Jacobian: a backward pass. With replicas a sum over them.
        """
        if self._jacobian is None:
            return self.pull_back(U)
        product = self._jacobian.rmatvec(U, self.backend.empty(self.layout.n_params))
        return self.grid.sum_over_replicas(product)

    def pull_back(self, U: Array) -> Array:
        """Compute this rank's block of J^T u over the samples of all replicas, whether or not there are roots.

        Parameters
        ----------
        U : Array of shape (n, n_out)
            Cotangents of the outputs.

        Returns
        -------
        Array of shape (n_params_local,)
            A new array.

        Notes
        -----
        Collective if the Jacobian of all outputs is not known: a backward pass. With replicas a sum over them.
        """
        product = self.backend.zeros(self.layout.n_params)
        self.point.network.add_products(self.point.activations, self._backpropagate(self.backend.asarray(U)), product)
        return self.grid.sum_over_replicas(product)

    def products(self, directions: Sequence[Array]) -> tuple[list[Array], LossHessian]:
        """Compute J d for some directions, summed over the ranks of a replica.

        A sketch is less accurate for a direction that was computed with it than for others, so with a sketch J d is
        computed exactly, by forward differentiation.

        Parameters
        ----------
        directions : sequence of Array of shape (n_params_local,)
            This rank's blocks of the directions.

        Returns
        -------
        list of Array of shape (n, n_out)
            J d in float64, replicated.
        LossHessian
            B for the rows of J d.

        Notes
        -----
        Collective: one sum of k |S| n_out numbers if the Jacobian is known for all outputs, else a forward pass for
        each direction.
        """
        if self._jacobian is None or (self._rooted and not self._exact):
            return [self.point.tangent(d).astype(np.float64) for d in directions], self.point.loss_hessian
        # products have the precision of the network: summing them needs no more
        parts = self.backend.xp.stack([self._jacobian.matvec(d) for d in directions])
        sums = self.grid.sum_all(parts).astype(np.float64)
        return [sums[a] for a in range(len(directions))], self.loss_hessian

    # --- beyond the linear model

    def outputs(self, params: Array) -> Array:
        """Compute the outputs of the samples at another point, such as params + d (see :meth:`Point.outputs`)."""
        return self.point.outputs(params)

    def curve(self, direction: Array) -> tuple[Array, Array]:
        """Compute two derivatives of the outputs along a direction: J d, and d^2/dt^2 z(params + t d) at t = 0.

        Parameters
        ----------
        direction : Array of shape (n_params_local,)
            This rank's block.

        Returns
        -------
        tuple of Array of shape (n, n_out)
            Replicated; exact up to rounding, ignoring the kinks of ``relu``.

        Notes
        -----
        Collective: a forward pass with twice the numbers.
        """
        groups = ParameterGroups("all", self.grid.partition, self.grid.rank)
        curves = Curves(self.point, direction, groups).outputs()
        return curves[0, 0], curves[1, 0]

    def bend(self, direction: Array) -> Array:
        """Compute the second derivative of the residuals along a direction, as rows of the Jacobian of exact roots.

        Parameters
        ----------
        direction : Array of shape (n_params_local,)
            This rank's block.

        Returns
        -------
        Array of shape (n, k)
            R times that of the outputs. If derivatives in the inputs are carried along and residuals are not linear in
            them, it is computed by central differences of the residuals themselves.

        Notes
        -----
        Collective: one or two forward passes.
        """
        point, h = self.point, _DIFFERENCE
        if point.network.jets is None:
            return self.rooted(self.curve(direction)[1])
        moved = (point.loss.residuals(point.outputs(point.params + s * h * direction), point.targets) for s in (1, -1))
        here, up, down = self.residuals, *moved
        if here is None or up is None or down is None:
            raise RuntimeError("only sums of squares have residuals")
        bent: Array = (up - 2.0 * here + down) / h**2
        return bent

    def diagonal(self) -> Array:
        r"""Compute the exact diagonal of the undamped matrix without 1/C, once.

        .. math:: \Big( |S|^{-1} \sum_{i \in S} J_i^T B_i J_i \Big)_{aa}
            = |S|^{-1} \sum_{i \in S} \sum_k (c_{ik}^T J_i)_a^2, \qquad B_i = \sum_k c_{ik} c_{ik}^T

        Returns
        -------
        Array of shape (n_params_local,)
            This rank's part, over the samples of all replicas; with a sketch, that of the sketched matrix.

        Notes
        -----
        Collective without a Jacobian: a backward pass for each output. With replicas a sum over them. Dense layers need
        n_out products with D and one with the inputs, convolutions n_out products with both.
        """
        if self._diagonal is None:
            self._diagonal = self.backend.zeros(self.layout.n_params)
            sums = self.layout.matrices(self._diagonal)
            dense: dict[int, Array] = {}
            for deltas in self._root_cotangents():
                for m, delta in deltas.items():
                    if self.shape(m).shares_weights:
                        self.add_squares(m, delta, sums[m])
                    else:
                        # sum_k (z_a delta_kt)^2 = z_a^2 sum_k delta_kt^2: one product for all roots
                        dense[m] = dense.get(m, 0) + delta * delta
            for m, squares in dense.items():
                self.add_squares(m, self.backend.xp.sqrt(squares), sums[m])
            self.grid.sum_over_replicas(self._diagonal)
            self._diagonal /= self.n_samples
        return self._diagonal

    def _root_cotangents(self) -> Iterator[dict[int, Array]]:
        """Yield the cotangents of the own output groups for each root of B."""
        if self._rooted:
            unit = self.backend.zeros(self.jacobian.n_samples, self.jacobian.n_out)
            for a in range(self.jacobian.n_out):
                unit[...] = 0
                unit[:, a] = 1
                yield self._expand(unit)
            return
        n_out = self.point.network.n_out
        roots = self.point.loss_hessian.roots(n_out, None)
        for a in range(n_out):
            yield self._backpropagate(self.backend.asarray(roots[:, a]))

    def summarise(
        self, direction: Array, groups: ParameterGroups, regularization: float, penalised: Array | None = None
    ) -> Summary:
        """Compute three derivatives of these samples' objective along the groups of a direction.

        Parameters
        ----------
        direction : Array of shape (n_params_local,)
            This rank's block.
        groups : ParameterGroups
            Division of the direction into groups.
        regularization : float
            1/C.
        penalised : Array of shape (n_params_local,) or None
            1 for regularised variables, 0 for others; None if all are regularised.

        Returns
        -------
        Summary
            Derivatives of the mean loss of these samples plus the regularisation; replicated.

        Notes
        -----
        Collective, like :func:`~distnewton.curvature.group_summaries.summarise` and :meth:`loss_cotangents`.
        """
        return summarise(self, direction, groups, regularization, penalised)

    # --- cotangents

    def loss_cotangents(self) -> dict[int, Array]:
        """Compute the cotangents of the own output groups for the gradient of each sample's weighted loss.

        Returns
        -------
        dict of int to Array
            By layer, of shape (n, n_elements of the group).

        Notes
        -----
        Collective unless the Jacobian of all outputs, or the gradient's own backward pass, already provides them.
        """
        if self._deltas is None:
            self._deltas = self._backpropagate(self.point.loss_gradient)
        return self._deltas

    def random_cotangents(self) -> dict[int, Array]:
        """Compute such cotangents for random outputs c with E[c c^T] = B; one backward pass."""
        if self._jacobian is not None and self._rooted:
            # a random sign for each stored row: the squared sum has the same mean as the sum of the rows' squares
            n, k = self._jacobian.n_samples, self._jacobian.n_out
            return self._expand(like(self.point.activations.output, random_signs(self.draws, n, k)))
        c = self.point.loss_hessian.roots(1, self.draws)[:, 0, :]
        return self._backpropagate(self.backend.asarray(c))

    def _backpropagate(self, U: Array) -> dict[int, Array]:
        """Compute the cotangents of the own output groups for cotangents U of the outputs."""
        if self._jacobian is not None and not self._rooted:
            return self._expand(U)
        return self.point.backpropagate(U)

    def _expand(self, U: Array) -> dict[int, Array]:
        """Compute the cotangents of the own output groups from the Jacobian's factors; no communication."""
        jacobian, deltas = self.jacobian, {}
        for m, part in jacobian.parts.items():
            n_elements = self.layout.blocks[m].shape[1] * part.layer.shape.n_elements
            deltas[m] = self.backend.empty(jacobian.n_samples, n_elements)
            part.factor.expand(self.backend.asarray(U), deltas[m])
        return deltas

    # --- random numbers

    @property
    def draws(self) -> Draws:
        """Random numbers for this replica's samples."""
        return self.generator if self.share.whole else OwnDraws(self.generator, self.share)

    @property
    def generator(self) -> np.random.Generator:
        """Random numbers of this sample; new ones at each call."""
        if self._generator is None:
            raise RuntimeError("this sample was given no random numbers")
        return self._generator
