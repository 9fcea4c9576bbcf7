"""Base of the directions that delegate the work to another direction."""

from __future__ import annotations

from typing import Any

from distnewton.backend import Array
from distnewton.directions.direction import Direction
from distnewton.network.shapes import NetworkShape
from distnewton.parallel.partition import Block


class DelegatingDirection(Direction):
    """A direction that another one computes.

    Parameters
    ----------
    options : Options
        Options of the stage.
    inner : Direction
        The direction that does the work.
    """

    def __init__(self, options: Any, inner: Direction) -> None:
        super().__init__(options)
        self._inner = inner
        self.curvature, self.random_rows = inner.curvature, inner.random_rows
        self.damping_form = inner.damping_form

    def step_taken(self, direction: Array, step_size: float) -> None:
        """Notify the inner direction."""
        self._inner.step_taken(direction, step_size)

    def check_memory(
        self, n_samples: int, n_out: int, itemsize: int, memory_mb: float, n_ranks: int = 1, n_params: int = 0
    ) -> None:
        """Refuse problems that the inner direction refuses."""
        self._inner.check_memory(n_samples, n_out, itemsize, memory_mb, n_ranks, n_params)

    def system_bytes(self, n_rows: int, itemsize: int, n_ranks: int, n_params: int = 0) -> float:
        """Return the bytes of the inner direction's matrix."""
        return self._inner.system_bytes(n_rows, itemsize, n_ranks, n_params)

    def n_vectors(self) -> int:
        """Number of vectors that the inner direction keeps."""
        return self._inner.n_vectors()

    def factor_size(self, shape: NetworkShape, block: Block) -> float:
        """Count the numbers in the inner direction's factors of a block."""
        return self._inner.factor_size(shape, block)
