"""What a preconditioner is: a matrix close to a logical block of G + lambda I, whose inverse is cheap to apply."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from distnewton.backend import Array, Backend
from distnewton.checkpoint.state import State
from distnewton.curvature.linearization import BlockModel
from distnewton.directions.options import FactorOptions
from distnewton.network.layout import ParameterLayout
from distnewton.network.shapes import NetworkShape
from distnewton.options import Options
from distnewton.parallel.partition import Block


class Preconditioner(ABC):
    """An approximation of a logical block of G + lambda I, block-diagonal over its layers.

    To add one, write a subclass and register it: :func:`distnewton.register`, or an entry point of the group
    ``distnewton.preconditioners``.

    Parameters
    ----------
    options : Options
        Those of the stage: averages and periods as in :class:`~distnewton.directions.options.FactorOptions`, where
        :attr:`own_options` includes them, else their defaults.

    Attributes
    ----------
    name, help : str
        Value of ``method.preconditioner``, and what it is in a line.
    own_options : type of Options
        Its options.
    n_vectors : int
        Vectors of the block's variables that it keeps.
    factors : tuple of str
        Names of its averages and inverses, dicts of arrays by layer in attributes with an underscore before the name.
    """

    name: ClassVar[str]
    help: ClassVar[str]
    own_options: ClassVar[type[Options]] = Options
    n_vectors: ClassVar[int] = 0
    factors: ClassVar[tuple[str, ...]] = ()

    def __init__(self, options: Any) -> None:
        self._options = options if isinstance(options, FactorOptions) else FactorOptions()
        self._n_calls = self._n_updates = 0
        self._layout: ParameterLayout | None = None
        self._backend: Backend | None = None

    def update(self, problem: BlockModel) -> None:
        """Follow the curvature of a new point, as often as the periods say.

        Parameters
        ----------
        problem : Linearization
            The model; its damping and 1/C are what the inverse is damped with.

        Notes
        -----
        Collective where cotangents have to be propagated backward for it.
        """
        self._layout, self._backend = problem.layout, problem.backend
        if self._n_calls % self._options.statistics_period == 0:
            self._n_updates += 1
            # a plain mean at first, so that the zero start does not count
            self._accumulate(problem, max(1.0 - self._options.statistics_decay, 1.0 / self._n_updates))
        if self._n_calls % self._options.inverse_period == 0:
            self._invert(problem.backend, problem.shift)
        self._n_calls += 1

    def apply(self, v: Array, layers: Iterable[int] | None = None) -> Array:
        """Multiply the inverse onto a vector; no communication.

        Parameters
        ----------
        v : Array of shape (n_params_local,)
            A vector of the block's variables.
        layers : iterable of int or None
            Own layers that take part, all by default; entries of others are zero in the result.

        Returns
        -------
        Array of shape (n_params_local,)
            A new array.
        """
        if self._layout is None:
            raise RuntimeError("update the preconditioner before it is applied")
        out = v * 0
        blocks, results = self._layout.matrices(v), self._layout.matrices(out)
        for m in blocks if layers is None else layers:
            if blocks[m].size:
                self._apply_layer(m, blocks[m], results[m])
        return out

    @property
    def backend(self) -> Backend:
        """That of the last update."""
        if self._backend is None:
            raise RuntimeError("update the preconditioner before it is applied")
        return self._backend

    def factor_size(self, shape: NetworkShape, block: Block) -> float:
        """Numbers in its factors of a block, and in their inverses; none by default."""
        return 0.0

    def restricted(self, layers: list[int]) -> Callable[[Array], Array]:
        """:meth:`apply` on some layers."""
        return lambda v: self.apply(v, layers)

    def state(self) -> State:
        """Averages, inverses, and the calls that they have seen."""
        state = State({"n_calls": self._n_calls, "n_updates": self._n_updates})
        if self._n_calls:
            self._save(state)
        return state

    def restore(self, state: State, layout: ParameterLayout) -> None:
        """Take over averages and inverses; those that belong to other blocks are made anew at the next update.

        Parameters
        ----------
        state : State
            As of :meth:`state`.
        layout : ParameterLayout
            The block's part of each layer.
        """
        if state.numbers["n_calls"] and self._load(state, layout):
            self._n_calls, self._n_updates = state.numbers["n_calls"], state.numbers["n_updates"]

    def _save(self, state: State) -> None:
        """Add averages and inverses to a state."""
        state.factors |= {
            name: {(0, m): array for m, array in getattr(self, f"_{name}").items()} for name in self.factors
        }

    def _load(self, state: State, layout: ParameterLayout) -> bool:
        """Take over averages and inverses; False where they belong to other blocks, on all ranks alike."""
        if state.same_blocks:
            for name in self.factors:
                setattr(self, f"_{name}", {m: array for (_, m), array in state.factors[name].items()})
        return state.same_blocks

    @abstractmethod
    def _accumulate(self, problem: BlockModel, weight: float) -> None:
        """Move the averages by a weight towards the statistics of this sample."""

    @abstractmethod
    def _invert(self, backend: Backend, shift: float) -> None:
        """Factorise the averages, with ``shift`` on the diagonal."""

    @abstractmethod
    def _apply_layer(self, layer: int, V: Array, out: Array) -> None:
        """Write the inverse times the block V of one layer, of shape (n_in + owns_bias, n_out), into ``out``."""
