"""The quadratic model of the objective around the current point, from which directions are computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any, Literal

import numpy as np

from distnewton.backend import Array, Backend, scalar
from distnewton.curvature.columns import BlockSample, SampleColumns, SharedColumns
from distnewton.curvature.jacobian import Jacobian
from distnewton.curvature.sample import CurvatureSample
from distnewton.frozen import frozen
from distnewton.network.layout import LogicalBlock, ParameterLayout
from distnewton.network.losses import LossHessian
from distnewton.parallel.grid import ProcessGrid
from distnewton.solvers.damping import Shift, penalised_part

DampingForm = Literal["identity", "diagonal"]


@frozen
class BlockModel(ABC):
    """The damped quadratic model of some variables (a rank's, or a logical block's), with the others fixed.

    Attributes
    ----------
    gradient : Array of shape (n_params_local,)
        Gradient in these variables, over all samples or over a mini-batch.
    sample : SampleColumns
        Curvature sample.
    regularization : float
        1/C.
    damping : float
        lambda.
    grid : ProcessGrid
        The ranks.
    """

    gradient: Array
    sample: SampleColumns
    regularization: float
    damping: float
    grid: ProcessGrid

    @property
    @abstractmethod
    def shift_matrix(self) -> Shift:
        """The diagonal matrix P/C + lambda D."""

    @property
    def jacobian(self) -> Jacobian:
        """Columns of J for these variables, on the curvature sample."""
        return self.sample.jacobian

    @property
    def loss_hessian(self) -> LossHessian:
        """B for the rows of the Jacobian."""
        return self.sample.loss_hessian

    @property
    def layout(self) -> ParameterLayout:
        """Layout of the blocks in a flat vector."""
        return self.sample.layout

    @property
    def backend(self) -> Backend:
        """Array library and dtype."""
        return self.sample.backend

    @property
    def n_samples(self) -> int:
        """Size of the curvature sample over all replicas, at least 1."""
        return self.sample.n_samples

    @property
    def shift(self) -> float:
        """1/C + lambda times the mean of D: the shift of the diagonal of J^T B J / |S|, or its mean."""
        return self.shift_matrix.mean


@frozen
class LogicalModel(BlockModel):
    """The model of one of a rank's logical blocks.

    Attributes
    ----------
    shifts : Shift
        The block's part of P/C + lambda D.
    """

    shifts: Shift

    @property
    def shift_matrix(self) -> Shift:
        """The diagonal matrix P/C + lambda D."""
        return self.shifts


@frozen
class Linearization(BlockModel):
    r"""Gradient and linearised network at a point, and the damped quadratic model that they define.

    .. math:: q(d) = g^T d + \tfrac12 d^T (G_S + \lambda D) d, \qquad
        G_S = P/C + |S|^{-1} \sum_{i \in S} J_i^T B_i J_i

    P is the identity without unpenalised variables. D is the identity, or the diagonal of G_S (Fletcher's form of
    Levenberg-Marquardt damping, which does not depend on the scales of the variables).

    Attributes
    ----------
    gradient, regularization, damping, grid
        As for :class:`BlockModel`, for this rank's block of variables.
    sample : CurvatureSample
        Curvature sample.
    damping_form : str
        ``identity`` or ``diagonal``. The diagonal is computed on construction, which is then collective.
    of_sample : bool
        Whether the gradient is that of the curvature sample and the regularisation.
    penalised : Array of shape (n_params_local,) or None
        Diagonal of P: 0 for unpenalised variables, 1 for others; None for the identity.
    """

    sample: CurvatureSample
    damping_form: DampingForm = "identity"
    of_sample: bool = False
    penalised: Array | None = None

    def __post_init__(self) -> None:
        # computed here, where all ranks take part: directions of a rank's own block do not communicate
        _ = self.shift_matrix

    @property
    def params(self) -> Array:
        """This rank's block of the current point."""
        return self.sample.params

    @cached_property
    def damping_matrix(self) -> Array | None:
        """D as a vector of shape (n_params_local,); None for the identity."""
        if self.damping_form == "identity":
            return None
        diagonal = self.sample.diagonal() + self._penalties
        # a variable that no output depends on still needs some damping
        n = self.sample.point.network.shape.n_params
        (squares,) = self.grid.sum_of_variables(self.backend.dot(diagonal, diagonal))
        floor = float(np.finfo(diagonal.dtype).eps) * (squares / n) ** 0.5
        floored: Array = self.backend.xp.maximum(diagonal, floor)
        return floored

    @cached_property
    def shift_matrix(self) -> Shift:
        """The diagonal matrix P/C + lambda D."""
        D = self.damping_matrix
        if D is None and self.penalised is None:
            return Shift(self.regularization + self.damping)
        diagonal = self._penalties + (self.damping if D is None else self.damping * D)
        n = self.sample.point.network.shape.n_params
        (total,) = self.grid.sum_of_variables(scalar(diagonal.sum(dtype=np.float64)))
        return Shift(total / n, diagonal)

    @property
    def _penalties(self) -> Any:
        """P/C: a number, or the diagonal."""
        return self.regularization * (1.0 if self.penalised is None else self.penalised)

    def penalised_part(self, v: Array) -> Array:
        """Multiply by P: sets unpenalised variables to zero."""
        return penalised_part(v, self.penalised)

    @cached_property
    def by_block(self) -> list[tuple[LogicalBlock, BlockModel]]:
        """Models of this rank's logical blocks, which block-diagonal methods solve separately; no communication.

        If the rank owns a single block, this model itself.
        """
        parts = self.layout.parts
        if len(parts) == 1 and parts[0].is_whole:
            return [(parts[0], self)]
        shared, S = SharedColumns(self.sample), self.shift_matrix
        return [
            (
                block,
                LogicalModel(
                    block.gather(self.gradient),
                    BlockSample(shared, block),
                    self.regularization,
                    self.damping,
                    self.grid,
                    Shift(S.mean, None if S.diagonal is None else block.gather(S.diagonal)),
                ),
            )
            for block in parts
        ]

    def matvec(self, v: Array) -> Array:
        """Multiply the damped matrix with a vector.

        Parameters
        ----------
        v : Array of shape (n_params_local,)
            This rank's block.

        Returns
        -------
        Array of shape (n_params_local,)
            This rank's block of (G_S + lambda D) v, a new array.

        Notes
        -----
        Collective: one sum of (n, n_out) numbers if there is a Jacobian, else a forward and a backward pass.
        """
        sample = self.sample
        Jv, _ = sample.product(v, [])
        U = sample.loss_hessian.matvec(Jv)
        U /= sample.n_samples
        product = sample.transposed_product(sample.backend.asarray(U))
        self.shift_matrix.add_product(product, v)
        return product
