"""Base of the directions by conjugate gradients: a preconditioner, and a warm start from the last solution."""

from __future__ import annotations

from typing import Any, ClassVar

from distnewton.backend import Array
from distnewton.checkpoint.state import State
from distnewton.directions.blockwise import Blockwise
from distnewton.directions.direction import Direction, Presets, Role
from distnewton.directions.preconditioner import Preconditioner
from distnewton.network.layout import ParameterLayout
from distnewton.network.shapes import NetworkShape
from distnewton.parallel.partition import Block


class CGDirection(Direction):
    """A damped Gauss-Newton system solved by CG.

    Parameters
    ----------
    options : Options
        Stopping rule of CG, as in :class:`~distnewton.directions.options.CGOptions`.
    preconditioner : Preconditioner or None
        Preconditioner of CG.
    """

    roles: ClassVar[frozenset[Role]] = frozenset({"solver", "proposal"})
    presets: ClassVar[Presets] = {"proposal": {"damping": 0.1, "cg_max": 10}}
    slots = ("preconditioner",)

    def __init__(self, options: Any = None, preconditioner: Preconditioner | None = None) -> None:
        super().__init__(options)
        self.damping_form = self.options.damping_form
        self._preconditioners = None if preconditioner is None else Blockwise(preconditioner)
        self._last: Array | None = None

    def _remember(self, solution: Array) -> None:
        """Keep a solution if the next CG starts from it."""
        if self.options.warm_start:
            self._last = solution

    def state(self) -> State:
        """Return the last solution, if CG starts warm, and the preconditioner's state."""
        return State(
            vectors={} if self._last is None else {"last": self._last},
            parts={} if self._preconditioners is None else {"preconditioner": self._preconditioners.state()},
        )

    def restore(self, state: State, layout: ParameterLayout) -> None:
        """Restore the last solution and the preconditioner."""
        if self._preconditioners is not None:
            self._preconditioners.restore(state.parts["preconditioner"], layout)
        self._last = state.vectors.get("last")

    def n_vectors(self) -> int:
        """Number of vectors kept: the last solution, and those of the preconditioner."""
        kept = 0 if self._preconditioners is None else self._preconditioners.n_vectors
        return kept + int(self.options.warm_start > 0)

    def factor_size(self, shape: NetworkShape, block: Block) -> float:
        """Count the numbers in the preconditioner's factors of a block."""
        return 0.0 if self._preconditioners is None else self._preconditioners.factor_size(shape, block)
