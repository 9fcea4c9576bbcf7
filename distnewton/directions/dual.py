r"""The exact direction through sample space (Woodbury's identity), over all ranks or for each rank's own block.

K = J J^T over N = |S| n_out rows (|S| k with a sketch of k) does not need J: it is a sum over blocks of Hadamard
products of Gram matrices, so ranks need one sum of N^2 + N numbers, which includes J h. [EGN] (arXiv 2405.14402) does
this with an explicit J; the form used here (:mod:`~distnewton.directions.sample_space`) holds for any gradient, also
for one over more samples than S and with weight decay.

If the grid has replicas, each computes the rows of K for its own samples, using the others' inputs and factors too.
``block_dual`` solves with each replica's own samples, and the step uses the mean.

With momentum mu the method is SPRING ([SPRING], arXiv 2401.10190): among the directions that fit the residuals of these
samples it takes the one nearest to mu times the last direction,

.. math:: d = \arg\min_\phi\; g^T \phi + \tfrac12 \phi^T G \phi + \tfrac\lambda2 \|\phi - \mu d_{prev}\|_D^2,

a projection of the last direction as in Kaczmarz's method.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from pydantic import Field

from distnewton.backend import Array, load_lapack
from distnewton.checkpoint.state import State
from distnewton.curvature.linearization import Linearization
from distnewton.curvature.sample import CurvatureSample
from distnewton.directions.acceleration import accelerated, longest_acceleration
from distnewton.directions.direction import Curvature, Direction, DirectionResult, Presets, Role, RoleOptions
from distnewton.directions.options import (
    AccelerationOptions,
    BlockOptions,
    DampingFormOptions,
    MomentumOptions,
    SketchOptions,
)
from distnewton.directions.sample_space import SampleSpace
from distnewton.directions.variable_space import VariableSpace
from distnewton.errors import ConfigError, NumericalError
from distnewton.network.layout import ParameterLayout
from distnewton.options import Options
from distnewton.parallel.termination import EarlyTermination
from distnewton.solvers.block_cholesky import system_size
from distnewton.solvers.least_squares import solves_for_variables, variable_system_bytes


class SampleSpaceOptions(SketchOptions, DampingFormOptions):
    """Options for the rows of the Jacobian, and for the damping that makes the system regular."""


class SpringOptions(Options):
    """Option for momentum in sample space."""

    momentum: float = Field(
        0.0, ge=0.0, lt=1.0, description=MomentumOptions.model_fields["momentum"].description
    )


class Dual(Direction):
    """The exact direction of the full matrix."""

    name = "dual"
    help = "the exact Gauss-Newton direction through sample space (Woodbury), one sum"
    roles: ClassVar[frozenset[Role]] = frozenset({"solver", "proposal"})
    own_options: ClassVar[type[Options]] = SampleSpaceOptions
    # a proposal is scaled along straight lines and has momentum of its own, so it takes neither of these options
    role_options: ClassVar[RoleOptions] = dict.fromkeys(("direction", "solver"), (AccelerationOptions, SpringOptions))
    presets: ClassVar[Presets] = {"proposal": {"damping": 0.1}}
    planned_as = "dual"
    curvature: Curvature = "roots"
    random_rows = False

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        load_lapack()
        self.damping_form = self.options.damping_form
        self._momentum = self.options.momentum if isinstance(self.options, SpringOptions) else 0.0
        self._last: Array | None = None
        self._found: Array | None = None
        self._tried: tuple[CurvatureSample, Any] | None = None

    def solve(self, problem: Linearization, termination: EarlyTermination) -> DirectionResult:
        """Factorise the matrix in sample space, and map the solution back to the variables."""
        _check_shift(problem)
        sample = problem.sample
        space_of = VariableSpace if VariableSpace.suits(problem) else SampleSpace
        space = space_of(problem, problem.jacobian.layers, known=self._known(sample))
        velocity, residual = space.solve(*self._right_hand_side(problem))
        if self._momentum:
            self._found = velocity
        elif problem.shift_matrix.diagonal is None:
            self._tried = sample, space.known
        result = DirectionResult(
            velocity, residual=residual, note=space.note, rank=space.rank, condition=space.condition
        )

        def solve(v: Array) -> DirectionResult:
            if sample.residuals is None:
                second = sample.point.loss_hessian.matvec(sample.curve(v)[1])
                return DirectionResult(space.solve(None, sample.pull_back(second / problem.n_samples))[0])
            bent = sample.bend(v)
            if isinstance(space, VariableSpace):
                return DirectionResult(space.solve(None, sample.transposed_product(bent / problem.n_samples))[0])
            return DirectionResult(space.solve(bent, None)[0])

        return accelerated(problem, result, longest_acceleration(self.options), solve)

    def step_taken(self, direction: Array, step_size: float) -> None:
        """Keep the direction of an accepted step; discard what is known of the point if the point moves."""
        self._last, self._found = self._found if step_size else None, None
        if step_size:
            self._tried = None

    def state(self) -> State:
        """Return the last direction, if there is momentum."""
        return State(vectors={} if self._last is None else {"last": self._last})

    def restore(self, state: State, layout: ParameterLayout) -> None:
        """Restore the last direction."""
        self._last = state.vectors.get("last")

    def n_vectors(self) -> int:
        """Number of vectors kept: the last direction, if there is momentum."""
        return int(self._momentum > 0.0)

    def check_memory(
        self, n_samples: int, n_out: int, itemsize: int, memory_mb: float, n_ranks: int = 1, n_params: int = 0
    ) -> None:
        """Refuse a system in sample space that does not fit in memory, with the sizes that would."""
        n_ranks = 1 if self.apart else n_ranks
        n_rows = min((0 if self.options.sketch == "auto" else self.options.sketch) or n_out, n_out)
        n = n_samples * n_rows
        needed = self.system_bytes(n, itemsize, n_ranks, n_params) / 2**20
        if needed <= memory_mb:
            return
        fitting = self._most_rows(n, itemsize, memory_mb, n_ranks)
        ways = [f"more memory (run.memory_mb = {math.ceil(needed)})", "or direction = gauss_newton"]
        if fitting >= n_samples:
            ways.insert(0, f"fewer rows (method.sketch = {fitting // n_samples})")
        if fitting >= n_rows:
            ways.insert(0, f"at most {fitting // n_rows} samples (method.subsample and subsample_min, or batch)")
        if not self.apart:
            ways.insert(0, "more ranks")
        raise ConfigError(
            f"the {self.name} direction solves for {n_samples} samples x {n_rows} rows = {n:,} unknowns: {needed:,.0f} "
            f"MB a rank, {needed / memory_mb:.1f} times run.memory_mb = {memory_mb:g}, which allows {fitting:,}; take "
            f"{', '.join(ways)}",
            collective=True,
        )

    def system_bytes(self, n_rows: int, itemsize: int, n_ranks: int, n_params: int = 0) -> float:
        """Return the bytes a rank needs for a matrix with this many rows, or for the Jacobian of fewer variables."""
        if n_params and not self.apart and solves_for_variables(n_rows, n_params):
            return variable_system_bytes(n_rows, n_params)
        return float(itemsize * system_size(n_rows, 1 if self.apart else n_ranks))

    def _most_rows(self, too_many: int, itemsize: int, memory_mb: float, n_ranks: int) -> int:
        """Largest number of rows below a bound such that matrices of all sizes up to it fit."""
        low, high = 0, too_many
        while high - low > 1:
            middle = (low + high) // 2
            if self.system_bytes(middle, itemsize, n_ranks) <= memory_mb * 2**20:
                low = middle
            else:
                high = middle
        return low

    def _known(self, sample: CurvatureSample) -> Any:
        """Results from this point with another damping."""
        tried, self._tried = self._tried, None
        return tried[1] if tried is not None and tried[0] is sample else None

    def _right_hand_side(self, problem: Linearization) -> tuple[Array | None, Array | None]:
        """Both parts of the gradient J^T u / n + h, including momentum."""
        u = problem.sample.residuals if problem.of_sample else None
        h = problem.gradient if u is None else None
        if u is not None and problem.regularization:
            h = problem.regularization * problem.penalised_part(problem.params)
        if self._last is not None:
            D = problem.damping_matrix
            pull = self._momentum * problem.damping * (self._last if D is None else D * self._last)
            h = -pull if h is None else h - pull
        return u, h


class BlockDualOptions(SampleSpaceOptions, BlockOptions):
    """Options of the exact direction of a rank's own block."""


class BlockDual(Dual):
    """The exact direction of each rank's own block, without communication."""

    name = "block_dual"
    help = "each rank's own block solved exactly through sample space, without communication"
    own_options = BlockDualOptions
    role_options: ClassVar[RoleOptions] = {}
    planned_as = ""
    apart = True

    def solve(self, problem: Linearization, termination: EarlyTermination) -> DirectionResult:
        """Factorise one matrix for each of this rank's blocks, and map the solutions back to the variables."""
        _check_shift(problem)
        u, h = self._right_hand_side(problem) if problem.grid.n_replicas == 1 else (None, problem.gradient)
        result = DirectionResult(problem.backend.zeros(problem.layout.n_params))
        for block, model in problem.by_block:
            found, own = model.backend.zeros(model.layout.n_params), None if h is None else block.gather(h)
            layers = [m for m in model.jacobian.layers if model.layout.blocks[m].n_params]
            for part in [[m] for m in layers] if self.options.by_layer else [layers]:
                if part:
                    result = _joined(result, SampleSpace(model, part, apart=True), u, own, found)
            block.scatter(found, result.direction)
        return result


def _check_shift(problem: Linearization) -> None:
    undamped = problem.damping == 0.0 and problem.penalised is not None
    if undamped or not problem.shift > 0.0:
        raise NumericalError(
            "the dual direction needs method.damping > 0, or a finite method.C and no data.unpenalised: without either "
            "the matrix is singular",
            collective=True,
        )


def _joined(
    result: DirectionResult, space: SampleSpace, u: Array | None, h: Array | None, out: Array
) -> DirectionResult:
    """Combine the result of some blocks with the next block's direction, or with its failure (no communication)."""
    try:
        direction, residual = space.solve(u, h)
    except NumericalError as error:
        # reported with the direction, which is then retried: other replicas may be waiting for the mean
        return DirectionResult(result.direction, finished=False, failure=str(error))
    out += direction
    return DirectionResult(
        result.direction,
        residual=max(result.residual, residual),
        failure=result.failure,
        finished=result.finished,
        rank=min(result.rank or space.rank, space.rank),
        condition=max(result.condition, space.condition),
    )
