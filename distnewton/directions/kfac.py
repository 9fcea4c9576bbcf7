r"""Kronecker factors of each own block (K-FAC, arXiv 1503.05671), with the Gauss-Newton matrix's cotangents.

.. math:: G_{pp}\big|_{m} \approx A \otimes D, \qquad A = E[\bar z \bar z^T], \quad D = E[\delta \delta^T]

where z is the input of the block (with a 1 if it owns the bias) and delta the cotangent of its pre-activations for a
random output cotangent c with E[c c^T] = B (for cross-entropy: labels drawn from the model). The damping is split by
pi^2 = (tr A / dim A) / (tr D / dim D) into A + pi sqrt(s) I and D + sqrt(s) / pi I, with s = lambda + 1/C. A rank's
block has factors of its own inputs and outputs, of very many only the diagonal: no communication. Sample weights enter
both means; D gets them through c, which contains their roots.

In a convolution (KFC, arXiv 1602.01407) A sums over the places of the kernel and D is their mean: this takes places to
be identically distributed and their cotangents uncorrelated. The same holds for channels of derivatives ("expand",
arXiv 2405.15603).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distnewton.backend import Array, Backend, scalar
from distnewton.curvature.linearization import BlockModel
from distnewton.directions.moments import apply_right, blend, inverted, is_wide, moments_size, second_moments, shifted
from distnewton.directions.options import FactorOptions
from distnewton.directions.preconditioned import PreconditionedGradient
from distnewton.directions.preconditioner import Preconditioner
from distnewton.network.shapes import NetworkShape
from distnewton.parallel.partition import Block


class KroneckerFactors(Preconditioner):
    """Kronecker factors of each own block, and their inverses."""

    name = "kfac"
    help = "Kronecker factors of each rank's blocks"
    own_options = FactorOptions
    factors = ("inputs", "outputs", "inverse_inputs", "inverse_outputs")

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self._inputs: dict[int, Array] = {}
        self._outputs: dict[int, Array] = {}
        self._inverse_inputs: dict[int, Array] = {}
        self._inverse_outputs: dict[int, Array] = {}

    def _accumulate(self, problem: BlockModel, weight: float) -> None:
        deltas = problem.sample.random_cotangents()
        for m in problem.sample.inputs:
            A, D = _factors(problem, m, deltas[m])
            self._inputs[m] = blend(self._inputs.get(m), A, weight)
            self._outputs[m] = blend(self._outputs.get(m), D, weight)

    def _invert(self, backend: Backend, shift: float) -> None:
        for m, A in self._inputs.items():
            D = self._outputs[m]
            if not (A.size and D.size):
                continue
            mean = _mean_diagonal(D)
            ratio = _mean_diagonal(A) / mean if mean else 0.0
            # factors that are zero, or that overflowed in diverging training, have no balance to keep
            scale = math.sqrt(ratio) if 0.0 < ratio < math.inf else 1.0
            root = math.sqrt(shift)
            self._inverse_inputs[m] = inverted(backend, shifted(A, scale * root))
            self._inverse_outputs[m] = inverted(backend, shifted(D, root / scale))

    def _apply_layer(self, layer: int, V: Array, out: Array) -> None:
        inverse, of_outputs = self._inverse_inputs[layer], self._inverse_outputs[layer]
        if inverse.ndim == 1:
            apply_right(V, of_outputs, out)
            # in place: for a wide layer another array of its size costs as much as the product
            out *= inverse[:, None]
        else:
            apply_right(inverse @ V, of_outputs, out)

    def factor_size(self, shape: NetworkShape, block: Block) -> float:
        """Count the numbers in both factors of a block and in their inverses."""
        # like its rows, the factor of a convolution covers the channels and the places of the kernel
        n_in, n_out = block.shape
        return 2.0 * (moments_size(n_in) + moments_size(n_out))


def _factors(problem: BlockModel, m: int, delta: Array) -> tuple[Array, Array]:
    """A and D of an own layer."""
    backend, owns_bias = problem.backend, problem.layout.blocks[m].owns_bias
    A: Array | None = None
    n_out = problem.layout.blocks[m].shape[1]
    D = backend.zeros(n_out) if is_wide(n_out) else backend.zeros(n_out, n_out)
    weights, layer = problem.sample.weights, problem.sample.layer(m)
    for part in problem.sample.unfold(m, delta):
        n_places = part.deltas.shape[1]
        rows = part.deltas.reshape(part.deltas.shape[0] * n_places, n_out)
        inputs = part.inputs.reshape(len(rows), part.inputs.shape[-1]) if part.inputs.ndim == 3 else part.inputs
        of_rows = None if weights is None else backend.asarray(backend.xp.repeat(weights[part.rows], n_places))
        moments = second_moments(backend, inputs, owns_bias, of_rows, layer.bias_inputs(len(part.deltas)))
        A = moments if A is None else A + moments
        D += (rows * rows).sum(axis=0) if is_wide(n_out) else rows.T @ rows
    if A is None:
        # a replica of the grid may have no samples of a mini-batch
        n = problem.layout.blocks[m].shape[0]
        A = backend.zeros(n + owns_bias) if is_wide(n) else backend.zeros(n + owns_bias, n + owns_bias)
    problem.grid.sum_over_replicas(A)
    A /= problem.n_samples
    problem.grid.sum_over_replicas(D)
    D /= problem.n_samples * problem.sample.shape(m).n_linear
    return A, D


class KFAC(PreconditionedGradient):
    """The gradient times the inverse Kronecker factors."""

    name = "kfac"
    help = "the gradient preconditioned by Kronecker factors, without communication"
    own_options = FactorOptions
    preconditioner = KroneckerFactors


def _mean_diagonal(A: Array) -> float:
    """Trace over dimension; for a factor kept as its diagonal, the mean."""
    return scalar((A if A.ndim == 1 else A.diagonal()).mean(dtype=np.float64))
