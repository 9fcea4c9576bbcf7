r"""The gradient times an inverse that is cheap to apply: the directions ``kfac`` and ``mini_block_fisher``.

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
    """The preconditioned gradient; each rank uses its own blocks, and communicates only for statistics.

    Momentum averages the gradient if a subclass says so ([MBF]), otherwise the direction (K-FAC).

    Attributes
    ----------
    preconditioner : type of Preconditioner
        The preconditioner P.
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
        """Update the preconditioner when its periods say so, and apply it."""
        self._preconditioners.update(problem)
        direction = self._preconditioners.apply(problem.gradient)
        direction *= -1
        return DirectionResult(direction)

    def state(self) -> State:
        """Return the preconditioner's state."""
        return State(parts={"preconditioner": self._preconditioners.state()})

    def restore(self, state: State, layout: ParameterLayout) -> None:
        """Restore the preconditioner's state."""
        self._preconditioners.restore(state.parts["preconditioner"], layout)

    def n_vectors(self) -> int:
        """Number of vectors that the preconditioner keeps."""
        return self._preconditioners.n_vectors

    def factor_size(self, shape: NetworkShape, block: Block) -> float:
        """Count the numbers in the preconditioner's factors of a block."""
        return self._preconditioners.factor_size(shape, block)
