r"""The outputs as curves along groups of a direction: their first two derivatives in one forward pass.

With u = sum_s u_s cut into groups, V_s and v_{b,s} the parts of u_s in a layer, S_s and S_ss derivatives of
pre-activations, Z_s and Z_ss of activations,

.. math:: S_s = Z_s W + Z V_s + v_{b,s}, \quad S_{ss} = Z_{ss} W + 2 Z_s V_s, \quad
    Z_s = a' * S_s, \quad Z_{ss} = a' * S_{ss} + a'' * S_s^2

All groups travel in the same messages.
"""

from __future__ import annotations

from distnewton.backend import Array
from distnewton.curvature.groups import ParameterGroups
from distnewton.curvature.point import Point
from distnewton.errors import ConfigError


class Curves:
    """Derivatives along each group, layer by layer; groups without variables are left out.

    Parameters
    ----------
    point : Point
        The samples.
    direction : Array of shape (n_params_local,)
        This rank's block of u.
    groups : ParameterGroups
        Division of u into groups.
    """

    def __init__(self, point: Point, direction: Array, groups: ParameterGroups) -> None:
        if point.network.jets is not None:
            message = "there are no curves of derivatives: take another direction than grouped_newton"
            raise ConfigError(message, collective=True)
        self.point, self.groups = point, groups
        layout = point.network.layout
        self._weights, self._changes = layout.views(point.params), layout.views(direction)
        # groups ordered by their first layers, so that the ones that affect a layer come first
        self._position = {s: a for a, s in enumerate(groups.order)}
        # derivatives of the activations of the layer below, by group of neurons, each (2, n_active, n, width)
        self._below: dict[int, Array] = {}

    def outputs(self) -> Array:
        """Compute the first and second derivatives of the outputs.

        Returns
        -------
        Array of shape (2, n_groups_with_variables, n, n_out)
            In the order of ``groups.order``, replicated.

        Notes
        -----
        Collective: a forward pass with 2 S_m times the numbers, where S_m counts the groups with variables up to layer
        m.
        """
        network, n = self.point.network, self.point.n_samples
        for m in range(1, network.n_layers):
            self._below = {j: self._pass_group(m, j) for j in network.grid.groups(m)}
        outputs = network.backend.zeros(2, len(self.groups.order), n, network.n_out)
        block = network.grid.blocks.get(network.n_layers)
        if block is not None:
            T = network.backend.zeros(*outputs.shape[:3], block.shape[1])
            self._add_partial(network.n_layers, T)
            outputs[..., slice(*block.outputs)] = T
        summed: Array = network.grid.sum_all(outputs)
        return summed

    def meet_weights(self, m: int, s: int, change: Array, below: Array) -> None:
        """Hook for a layer whose own weights change along a curve that also changes their inputs.

        Parameters
        ----------
        m, s : int
            An own layer, and the position in the order of the group of its weights.
        change : Array of shape (n_in_local, n_out_local)
            V_s.
        below : Array of shape (2, n_active, n, width)
            Z_s and Z_ss of the inputs.
        """

    def meet_activation(self, m: int, T: Array, second: Array, third: Array) -> None:
        """Hook before the activation of an own output group.

        Parameters
        ----------
        m : int
            A hidden layer of which this rank owns a block.
        T : Array of shape (2, n_active, n, n_elements of the group)
            S_s and S_ss.
        second, third : Array of shape (n, n_elements of the group)
            a''/a' and a'''/a'.
        """

    def _pass_group(self, m: int, j: int) -> Array:
        """Propagate both derivatives into a hidden group on whose boundary this rank stands."""
        network, activations = self.point.network, self.point.activations
        block = network.grid.blocks.get(m)
        T = network.backend.zeros(2, self.groups.n_active[m], self.point.n_samples, network.n_elements(m, j))
        own = block is not None and block.j == j
        if own:
            self._add_partial(m, T)
        network.grid.sum_boundary(m, j, T)
        activated = activations.elements(m, j)
        second, third = network.activation.derivative_ratios(activated)
        if own:
            self.meet_activation(m, T, second, third)
        T[1] += second * (T[0] * T[0])
        # samples come first where derivatives are multiplied
        for order in range(2):
            for s in range(T.shape[1]):
                network.activation.multiply_derivative(T[order, s], activated)
        return network.average(m, j, T)

    def _add_partial(self, m: int, T: Array) -> None:
        """Write this rank's part of S_s and S_ss to zeros."""
        network, activations = self.point.network, self.point.activations
        block, layer, U = network.grid.blocks[m], network.layers[m], self._changes[m]
        n_below, winners = self.groups.n_active[m - 1], activations.winners.get((m, block.j))
        below = self._below.get(block.i) if n_below else None
        if below is not None:
            for order in range(2):
                for s in range(n_below):
                    layer.elements(below[order, s], self._weights[m].W, None, winners, T[order, s])
        for group, V in self.groups.parts(network.layout, m, U.W):
            s, change = self._position[group], network.backend.empty(*T.shape[2:])
            layer.elements(activations.groups[m - 1, block.i], V, None, winners, change)
            T[0, s] += change
            if below is not None:
                self.meet_weights(m, s, V, below)
                if s < n_below:
                    layer.elements(below[0, s], V, None, winners, change)
                    T[1, s] += 2.0 * change
        for group, v in self.groups.parts(network.layout, m, U.b, biases=True):
            layer.add_bias(T[0, self._position[group]], v)
