r"""The damped subsampled Gauss-Newton matrix as operators on this rank's variables.

.. math:: G_S + \lambda I, \qquad G_S = I/C + |S|^{-1} \sum_{i \in S} J_i^T B_i J_i \qquad\text{[DNM]}
"""

from __future__ import annotations

from collections.abc import Sequence

from distnewton.backend import Array
from distnewton.curvature.jacobian import Jacobian
from distnewton.network.losses import LossHessian
from distnewton.solvers.damping import Shift


class BlockGaussNewton:
    r"""This rank's diagonal block of the damped Gauss-Newton matrix, or the block for some of its layers.

    .. math:: (G_{pp} + \lambda I) v = (1/C + \lambda) v + |S|^{-1} J_p^T B J_p v

    Parameters
    ----------
    jacobian : Jacobian
        This rank's columns of J on the subsample.
    loss_hessian : LossHessian
        B of the samples.
    shift : float or Shift
        1/C + lambda, or the diagonal matrix to be added.
    layers : sequence of int or None
        Own layers whose variables the block couples; all by default. Entries of other layers stay zero.

    Notes
    -----
    No communication.
    """

    def __init__(
        self,
        jacobian: Jacobian,
        loss_hessian: LossHessian,
        shift: float | Shift,
        layers: Sequence[int] | None = None,
    ) -> None:
        self._jacobian, self._loss_hessian = jacobian, loss_hessian
        self._shift = shift if isinstance(shift, Shift) else Shift(shift)
        self._layers = jacobian.layers if layers is None else list(layers)
        self._product = jacobian.backend.zeros(jacobian.layout.n_params)

    def matvec(self, v: Array) -> Array:
        """Multiply the block with a vector.

        Parameters
        ----------
        v : Array of shape (n_params_local,)
            Zero outside the block's layers.

        Returns
        -------
        Array of shape (n_params_local,)
            Overwritten by the next call.
        """
        U = self._loss_hessian.matvec(self._jacobian.matvec(v, self._layers))
        U /= max(1, self._jacobian.n_samples)
        self._jacobian.rmatvec(U, self._product, self._layers)
        for layer in self._layers:
            self._shift.add_product(self._product, v, self._jacobian.layout.slices[layer])
        return self._product
