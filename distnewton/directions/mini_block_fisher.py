r"""The empirical Fisher matrix in mini-blocks ([MBF], arXiv 2202.04124), on the blocks of this rank.

A mini-block covers the inputs of one output neuron j:

.. math:: F_j = E[\delta_j^2\, \bar z \bar z^T], \qquad \bar F = E[(\|\delta\|^2 / n_{out})\, \bar z \bar z^T]

where z are the block's inputs (with a 1 if it owns the bias) and delta the gradient of a sample's own loss in the
pre-activations, with true labels, not drawn ones. ``neuron`` keeps F_j for each neuron; ``layer`` keeps their mean,
which serves all neurons of a block at the price of one matrix. In a convolution a mini-block is a kernel, the weights
from one channel to another, with g the gradient of a sample's own loss in them, summed over the kernel's places:

.. math:: F_{ij} = E[g_{ij} g_{ij}^T]

and each bias is its own block. F uses the gradients of single samples rather than that of the batch: the paper, of
which we know only the abstract, leaves this open, so F is a mean over samples for both kinds of layers.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from distnewton.backend import Array, Backend, namespace
from distnewton.curvature.linearization import BlockModel
from distnewton.directions.moments import apply_left, blend, inverted, moments_size, second_moments, shifted
from distnewton.directions.options import FactorOptions
from distnewton.directions.preconditioned import PreconditionedGradient
from distnewton.directions.preconditioner import Preconditioner
from distnewton.errors import ConfigError
from distnewton.network.layers import sample_gradients
from distnewton.network.shapes import NetworkShape
from distnewton.parallel.partition import Block


class MiniBlockOptions(FactorOptions):
    """Option for what a mini-block covers."""

    mini_blocks: Literal["layer", "neuron"] = Field(
        "layer", description="one mini-block shared by a layer's neurons, or one for each neuron"
    )


class MiniBlockFisher(Preconditioner):
    """Mini-blocks over the inputs of each output neuron, or one shared by a block's neurons; or over each kernel."""

    name = "mini_block_fisher"
    help = "mini-blocks of the empirical Fisher matrix"
    own_options = MiniBlockOptions
    factors = ("averages", "inverses", "bias_averages", "bias_inverses")

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self._shared = options.mini_blocks == "layer"
        # by layer, mini-blocks stacked along the first axis
        self._averages: dict[int, Array] = {}
        self._inverses: dict[int, Array] = {}
        # of convolutions, whose biases are separate blocks
        self._bias_averages: dict[int, Array] = {}
        self._bias_inverses: dict[int, Array] = {}

    def _accumulate(self, problem: BlockModel, weight: float) -> None:
        if problem.sample.point.network.jets is not None:
            message = "there are no mini-blocks of derivatives: take another direction or preconditioner"
            raise ConfigError(message, collective=True)
        deltas = problem.sample.fisher_cotangents()
        for m, Z in problem.sample.inputs.items():
            block = problem.layout.blocks[m]
            if not block.n_params:
                continue
            if problem.sample.shape(m).kernel is not None:
                fresh, squares = self._kernel_moments(problem, m, deltas[m])
                problem.grid.sum_over_replicas(squares)
                squares /= problem.n_samples
                self._bias_averages[m] = blend(self._bias_averages.get(m), squares, weight)
            else:
                fresh = self._neuron_moments(problem, Z, deltas[m], owns_bias=block.owns_bias)
            problem.grid.sum_over_replicas(fresh)
            fresh /= problem.n_samples
            self._averages[m] = blend(self._averages.get(m), fresh, weight)

    def _neuron_moments(self, problem: BlockModel, Z: Any, delta: Array, *, owns_bias: bool) -> Array:
        """Sums of delta_j^2 z z^T for each neuron, or of their mean over the neurons."""
        squares = delta * delta
        if self._shared:
            squares = squares.mean(axis=1, keepdims=True)
        xp = problem.backend.xp
        columns = xp.ascontiguousarray(squares.T)
        moments = [second_moments(problem.backend, Z, owns_bias, columns[j]) for j in range(len(columns))]
        stacked: Array = xp.stack(moments)
        return stacked

    def _kernel_moments(self, problem: BlockModel, m: int, delta: Array) -> tuple[Array, Array]:
        """Sums of g g^T for each kernel, of shape (n_in, n_out, r, r) in channels and pixels, and of bias squares."""
        (n_rows, n_out), r = problem.layout.blocks[m].shape, problem.sample.shape(m).rows_per_unit
        n_in = n_rows // r
        moments, squares = problem.backend.zeros(n_in, n_out, r, r), problem.backend.zeros(n_out)
        for part in problem.sample.unfold(m, delta):
            gradients = sample_gradients(part).reshape(len(part.deltas), r, n_in, n_out)
            by_kernel = problem.backend.xp.ascontiguousarray(gradients.transpose(2, 3, 1, 0))
            moments += by_kernel @ by_kernel.transpose(0, 1, 3, 2)
            squares += (part.deltas.sum(axis=1) ** 2).sum(axis=0)
        return moments, squares

    def _invert(self, backend: Backend, shift: float) -> None:
        for m, averages in self._averages.items():
            if m in self._bias_averages:
                identity = backend.xp.eye(averages.shape[-1], dtype=averages.dtype)
                self._inverses[m] = backend.inverses(averages + shift * identity)
                self._bias_inverses[m] = 1 / (self._bias_averages[m] + shift)
            else:
                blocks = (averages[j] for j in range(len(averages)))
                self._inverses[m] = backend.xp.stack([inverted(backend, shifted(F, shift)) for F in blocks])

    def _apply_layer(self, layer: int, V: Array, out: Array) -> None:
        inverses = self._inverses[layer]
        if layer in self._bias_inverses:
            n_in, n_out, r, _ = inverses.shape
            kernels = V[: n_in * r].reshape(r, n_in, n_out).transpose(1, 2, 0)
            products = self.backend.stacked_matvec(inverses, kernels)
            out[: n_in * r] = products.transpose(2, 0, 1).reshape(n_in * r, n_out)
            # the bias, if the block owns it
            out[n_in * r :] = V[n_in * r :] * self._bias_inverses[layer]
        elif self._shared:
            out[...] = apply_left(inverses[0], V)
        elif inverses.ndim == 2:
            namespace(out).multiply(inverses.T, V, out=out)
        else:
            out[...] = self.backend.stacked_matvec(inverses, V.T).T

    def factor_size(self, shape: NetworkShape, block: Block) -> float:
        """Count the numbers in the mini-blocks of a block and in their inverses."""
        n_in, n_out = block.shape
        if shape.layers[block.layer - 1].kernel is not None:
            return 2.0 * n_in * n_out * block.rows_per_unit
        return 2.0 * moments_size(n_in) * (1 if self._shared else n_out)


class MiniBlockFisherGradient(PreconditionedGradient):
    """The averaged gradient times the inverse mini-blocks ([MBF])."""

    name = "mini_block_fisher"
    help = "the averaged gradient preconditioned by mini-blocks of the empirical Fisher matrix"
    own_options = MiniBlockOptions
    preconditioner = MiniBlockFisher
    averages_gradient = True
