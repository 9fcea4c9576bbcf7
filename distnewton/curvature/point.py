"""A point and some samples there: the results of a forward pass, the loss, and the targets."""

from __future__ import annotations

from distnewton.backend import Array
from distnewton.frozen import frozen
from distnewton.network.losses import Loss, LossHessian
from distnewton.network.network import Activations, PartitionedNetwork


@frozen
class Point:
    """Some samples at a point.

    Attributes
    ----------
    network : PartitionedNetwork
        The network on its grid.
    params : Array of shape (n_params_local,)
        The point.
    activations : Activations
        Activations of these samples at the point.
    loss : Loss
        Loss of a sample.
    targets : Array
        Targets of these samples, replicated.
    """

    network: PartitionedNetwork
    params: Array
    activations: Activations
    loss: Loss
    targets: Array

    @property
    def n_samples(self) -> int:
        """Number of these samples."""
        return len(self.activations.output)

    @property
    def loss_gradient(self) -> Array:
        """Gradients of the samples' losses with respect to the outputs, of shape (n, n_out)."""
        return self.loss.gradient(self.activations.output, self.targets)

    @property
    def loss_hessian(self) -> LossHessian:
        """Hessians of the samples' losses with respect to the outputs."""
        return self.loss.hessian(self.activations.output, self.targets)

    def rows(self, start: int, stop: int) -> Point:
        """Select some of the samples, as views."""
        activations = self.activations.rows(start, stop)
        return Point(self.network, self.params, activations, self.loss, self.targets[start:stop])

    def outputs(self, params: Array) -> Array:
        """Compute the outputs of the samples at another point.

        Parameters
        ----------
        params : Array of shape (n_params_local,)
            The other point.

        Returns
        -------
        Array of shape (n, n_out)
            Outputs, replicated.

        Notes
        -----
        Collective: a forward pass, which takes as much memory as the activations of the samples.
        """
        block = self.network.grid.blocks.get(1)
        # a rank without a block in layer 1 holds no features
        X = self.network.backend.empty(self.n_samples, 0) if block is None else self.activations.groups[0, block.i]
        outputs: Array = self.network.forward(params, X).output
        return outputs

    def tangent(self, direction: Array) -> Array:
        """Compute J d by forward differentiation, of shape (n, n_out), replicated (collective: a forward pass)."""
        return self.network.tangent(self.params, self.activations, direction)

    def backpropagate(self, cotangent: Array) -> dict[int, Array]:
        """Compute cotangents of the own output groups, by layer, for one output (collective: a backward pass)."""
        return self.network.backpropagate(self.params, self.activations, cotangent)
