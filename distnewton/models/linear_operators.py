"""Jacobian and curvature matrix of a model on data as scipy LinearOperators, in the order of torch's parameters."""

from __future__ import annotations

from collections.abc import Collection
from math import prod
from typing import Literal

import numpy as np
from scipy.sparse.linalg import LinearOperator

from distnewton.backend import Array, to_host
from distnewton.curvature.linearization import Linearization
from distnewton.curvature.operators import BlockGaussNewton
from distnewton.curvature.point import Point
from distnewton.curvature.sample import CurvatureSample
from distnewton.directions.dual import BlockDual, BlockDualOptions, Dual
from distnewton.errors import ConfigError, NumericalError
from distnewton.models.model import Model
from distnewton.models.model_file import fill_block, weight_shape
from distnewton.network.network import PartitionedNetwork
from distnewton.parallel.termination import NEVER
from distnewton.solvers.conjugate_gradient import ConjugateGradient

Kind = Literal["ggn", "block", "fisher"]
_DUAL_ROWS = 1000
"""Limit of rows of J for ``solve`` to choose the dual method, whose cost grows with their cube."""


class TorchOrder:
    """Positions of a rank's variables in torch's vector of all parameters.

    Parameters
    ----------
    network : PartitionedNetwork
        The network on its grid.
    lacking : collection of str
        Biases missing in the vector, by their names in the equivalent torch.nn.Sequential; here they are 0.

    Attributes
    ----------
    n_params : int
        Length of the vector.
    """

    def __init__(self, network: PartitionedNetwork, lacking: Collection[str] = ()) -> None:
        self._network, layout, shape = network, network.layout, network.shape
        # -1: a variable that the vector lacks
        self._places = np.full(layout.n_params, -1)
        views, n = layout.views(self._places), 0
        for m, (layer, number) in enumerate(zip(shape.layers, shape.modules, strict=True), 1):
            size, n_biases = weight_shape(layer), 0 if f"{number}.bias" in lacking else layer.n_out
            weight = np.arange(n, n + prod(size)).reshape(size)
            n += prod(size)
            bias = np.arange(n, n + layer.n_out) if n_biases else np.full(layer.n_out, -1)
            n += n_biases
            if m in views:
                fill_block(layer, layout.blocks[m], views[m], weight, bias)
        self.n_params = n

    def mask(self, local: Array) -> Array:
        """Set variables that the vector lacks to 0, in place; returns the block."""
        local[self._network.backend.library.to_device(np.flatnonzero(self._places < 0))] = 0.0
        return local

    def to_local(self, vector: Array) -> Array:
        """Extract this rank's block of a vector that all ranks hold; shape (n_params_local,)."""
        # index -1 takes the zero at the end
        return self._network.backend.asarray(np.append(np.ravel(vector), 0.0)[self._places])

    def to_whole(self, local: Array) -> Array:
        """Join the blocks of all ranks to a replicated vector (collective: one sum of n_params + 1 numbers)."""
        whole = np.zeros(self.n_params + 1)
        whole[self._places] = to_host(local)
        whole[-1] = 0.0
        self._network.grid.sum_all(whole)
        vector: Array = whole[:-1]
        return vector


class _GradientOuterProducts:
    """g g^T for each sample, with g the gradient of its loss in the outputs: B of the empirical Fisher matrix."""

    def __init__(self, gradients: Array) -> None:
        self._gradients = gradients

    def matvec(self, V: Array) -> Array:
        """Multiply the matrix of each sample by its row."""
        g = self._gradients
        product: Array = g * (g * V).sum(axis=1)[:, None]
        return product


class JacobianOperator(LinearOperator):
    """The Jacobian of all outputs with respect to all parameters, sample by sample; its adjoint is ``.T``.

    Parameters
    ----------
    sample : CurvatureSample
        Data at the point of linearization.
    order : TorchOrder
        Order of the parameters.
    n_out : int
        Number of outputs of the network.

    Notes
    -----
    Products are collective over the grid: all ranks pass the same vector and get the same result.
    """

    def __init__(self, sample: CurvatureSample, order: TorchOrder, n_out: int) -> None:
        self._sample, self._order, self._n_out = sample, order, n_out
        super().__init__(np.float64, (sample.n_samples * n_out, order.n_params))  # type: ignore[call-arg]

    def _matvec(self, v: Array) -> Array:
        return to_host(self._sample.product(self._order.to_local(v), [0.0])[0]).ravel()

    def _rmatvec(self, u: Array) -> Array:
        U = self._sample.backend.asarray(np.reshape(u, (-1, self._n_out)))
        return self._order.to_whole(self._sample.transposed_product(U))


class CurvatureOperator(LinearOperator):
    r"""A curvature matrix of a model on data; :func:`distnewton.curvature_operator` makes it.

    .. math:: G = s \sum_i J_i^T B_i J_i

    Attributes
    ----------
    jacobian : LinearOperator of shape (n_samples * n_out, n_params)
        J, whose rows are the outputs of the first sample, then those of the second, and so on.
    model : Model
        The network on the ranks that share the products; ``model.grid.free()`` frees its communicators.

    Notes
    -----
    Products and solutions are collective over the grid: all ranks pass the same vector and get the same result.
    """

    def __init__(
        self, model: Model, point: Point, factor: float, order: TorchOrder, kind: Kind
    ) -> None:
        self.model = model
        self._point, self._sample = point, CurvatureSample(point)
        self._factor, self._order, self._kind = factor, order, kind
        is_fisher = kind == "fisher"
        self._hessian = _GradientOuterProducts(point.loss_gradient) if is_fisher else point.loss_hessian
        if kind == "block":
            self._sample.linearize()
        sample = self._sample
        self.jacobian = JacobianOperator(sample, order, model.network.n_out)
        self._blocks: dict[int, BlockGaussNewton] = {}
        if kind == "block":
            # shift 0; _multiply undoes the mean over samples, since the loss has its own factor
            jacobian = sample.jacobian
            self._blocks = {m: BlockGaussNewton(jacobian, point.loss_hessian, 0.0, [m]) for m in jacobian.layers}
        super().__init__(np.float64, (order.n_params, order.n_params))  # type: ignore[call-arg]

    def _matvec(self, v: Array) -> Array:
        return self._order.to_whole(self._multiply(self._order.to_local(v)))

    def _adjoint(self) -> CurvatureOperator:
        return self

    def _multiply(self, v: Array) -> Array:
        """Multiply by this rank's block of a vector; shape (n_params_local,)."""
        if self._kind != "block":
            U = self._hessian.matvec(self._sample.product(v, [0.0])[0])
            product = self._sample.transposed_product(self._sample.backend.asarray(U))
            return self._order.mask(self._factor * product)
        product = self._sample.backend.zeros(len(v))
        for m, block in self._blocks.items():
            part = self._sample.layout.slices[m]
            product[part] = (self._factor * self._sample.n_samples) * block.matvec(v)[part]
        return self._order.mask(product)

    def solve(
        self,
        v: Array,
        damping: float = 0.0,
        *,
        method: Literal["auto", "cg", "dual"] = "auto",
        tolerance: float = 1e-8,
        max_steps: int = 1000,
    ) -> Array:
        r"""Solve with the damped matrix.

        .. math:: (G + \lambda I) x = v

        Parameters
        ----------
        v : Array of shape (n_params,)
            Right-hand side.
        damping : float
            lambda.
        method : {"auto", "cg", "dual"}
            ``cg``: conjugate gradients. ``dual``: exact solution in the space of samples and outputs, for kinds ``ggn``
            and ``block`` of modules with all biases. ``auto``: ``dual`` if possible with at most 1000 rows of J, else
            ``cg``.
        tolerance : float
            Relative residual at which CG stops.
        max_steps : int
            Limit of CG steps.

        Returns
        -------
        Array of shape (n_params,)

        Raises
        ------
        ConfigError
            If the dual method cannot solve this system.
        NumericalError
            If CG does not reach the tolerance.
        """
        reason = self._why_not_dual(damping)
        if method == "dual" and reason:
            raise ConfigError(f"the dual method cannot solve this system: {reason}", collective=True)
        b = self._order.to_local(v)
        if method == "dual" or (method == "auto" and not reason and self.jacobian.shape[0] <= _DUAL_ROWS):
            return self._order.to_whole(self._solve_dual(b, damping))
        dot, grid = self._sample.backend.dot, self.model.grid
        cg = ConjugateGradient(
            lambda p: self._multiply(p) + damping * p,
            b,
            lambda p, q: float(grid.sum_of_variables(dot(p, q))[0]),
            tolerance=tolerance,
            max_steps=max_steps,
        )
        while not cg.finished:
            cg.step()
        if cg.relative_residual > tolerance:
            raise NumericalError(
                f"CG reached a relative residual of {cg.relative_residual:.2g} in {cg.n_steps} steps, not "
                f"{tolerance:g}: raise damping, tolerance or max_steps",
                collective=True,
            )
        return self._order.to_whole(cg.x)

    def _why_not_dual(self, damping: float) -> str:
        if self._kind == "fisher":
            return "kind is fisher"
        if not damping > 0.0:
            return "damping must be positive"
        # its Gram matrices include every bias of the network
        return "" if self._order.n_params == self.model.network.shape.n_params else "the module has layers without bias"

    def _solve_dual(self, b: Array, damping: float) -> Array:
        rooted = CurvatureSample(self._point)
        rooted.linearize(rooted=True)
        # Dual divides the matrix by the number of samples, this operator multiplies it by its factor
        scale = self._factor * self._sample.n_samples
        problem = Linearization(-b / scale, rooted, 0.0, damping / scale, self.model.grid)
        dual = BlockDual(BlockDualOptions(blocks="layer")) if self._kind == "block" else Dual()
        return dual.solve(problem, NEVER).direction
