"""Everything a direction may know: the model of the objective around the current point."""

from __future__ import annotations

from dataclasses import dataclass

from distnewton.backend import Array, Backend
from distnewton.curvature.jacobian import Jacobian
from distnewton.network.losses import LossHessian
from distnewton.parallel.grid import ProcessGrid


@dataclass(frozen=True)
class Linearization:
    r"""Gradient and linearised network at a point, with the quadratic model they make.

    .. math:: q(d) = g^T d + \tfrac12 d^T (G_S + \lambda I) d

    Attributes
    ----------
    gradient : Array of shape (n_params_local,)
        This rank's block of grad f, over all samples.
    jacobian : Jacobian
        This rank's columns of J on the curvature subsample.
    loss_hessian : LossHessian
        B of the subsample, replicated.
    regularization : float
        1/C.
    damping : float
        lambda.
    grid : ProcessGrid
        The ranks.
    """

    gradient: Array
    jacobian: Jacobian
    loss_hessian: LossHessian
    regularization: float
    damping: float
    grid: ProcessGrid

    @property
    def backend(self) -> Backend:
        """Array library and dtype."""
        return self.jacobian.backend

    @property
    def shift(self) -> float:
        """1/C + lambda, the multiple of the identity in the damped matrix."""
        return self.regularization + self.damping

    @property
    def n_samples(self) -> int:
        """Size of the subsample, at least 1."""
        return max(1, self.jacobian.n_samples)
