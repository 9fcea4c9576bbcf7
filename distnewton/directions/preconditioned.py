r"""The gradient times an inverse that is cheap to apply: ``kfac`` and ``mini_block_fisher`` as directions.

.. math:: d = -P^{-1} g
"""

from __future__ import annotations

from typing import Any, ClassVar

from distnewton.checkpoint.state import State
from distnewton.curvature.linearization import Linearization
from distnewton.directions.blockwise import Blockwise
from distnewton.directions.direction import (
    LEARNING_RATE,
    Curvature,
    Direction,
    DirectionResult,
    Presets,
    Role,
    RoleOptions,
)
from distnewton.directions.options import ClipOptions, MomentumOptions
from distnewton.directions.preconditioner import Preconditioner
from distnewton.network.layout import ParameterLayout
from distnewton.network.shapes import NetworkShape
from distnewton.parallel.partition import Block
from distnewton.parallel.termination import EarlyTermination

_FACTORS = {"damping": 0.01, "statistics_period": 4, "inverse_period": 20}


class PreconditionedGradient(Direction):
    """The preconditioned gradient; each rank with its own blocks, no communication but for statistics.

    Momentum averages the gradient where a subclass says so ([MBF]), else the direction (K-FAC).

    Attributes
    ----------
    preconditioner : type of Preconditioner
        P.
    """

    family = LEARNING_RATE
    roles: ClassVar[frozenset[Role]] = frozenset({"solver", "proposal"})
    role_options: ClassVar[RoleOptions] = {"direction": (MomentumOptions, ClipOptions)}
    presets: ClassVar[Presets] = {"direction": {**_FACTORS, "average": 0.98}, "proposal": _FACTORS}
    curvature: Curvature = "cotangents"
    preconditioner: ClassVar[type[Preconditioner]]

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self._preconditioners = Blockwise(self.preconditioner(self.options))

    def solve(self, problem: Linearization, termination: EarlyTermination) -> DirectionResult:
        """Update the preconditioner as its periods say, and apply it."""
        self._preconditioners.update(problem)
        direction = self._preconditioners.apply(problem.gradient)
        direction *= -1
        return DirectionResult(direction)

    def state(self) -> State:
        """The preconditioner's."""
        return State(parts={"preconditioner": self._preconditioners.state()})

    def restore(self, state: State, layout: ParameterLayout) -> None:
        """Take over the preconditioner's."""
        self._preconditioners.restore(state.parts["preconditioner"], layout)

    def n_vectors(self) -> int:
        """Vectors that the preconditioner keeps."""
        return self._preconditioners.n_vectors

    def factor_size(self, shape: NetworkShape, block: Block) -> float:
        """Numbers in the preconditioner's factors of a block."""
        return self._preconditioners.factor_size(shape, block)
