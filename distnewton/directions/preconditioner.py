"""The protocol of preconditioners: matrices close to a logical block of G + lambda I with a cheap inverse."""

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
        Options of the stage; averages and periods are those of :class:`~distnewton.directions.options.FactorOptions`
        if :attr:`own_options` includes them, otherwise its defaults.

    Attributes
    ----------
    name, help : str
        Value of ``method.preconditioner``, and a one-line description.
    own_options : type of Options
        Options of the preconditioner.
    n_vectors : int
        Number of vectors of the block's variables that it keeps.
    factors : tuple of str
        Names of its averages and inverses: dicts of arrays by layer, in attributes of these names with an underscore.
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
        """Adapt to the curvature of a new point when the periods say so.

        Parameters
        ----------
        problem : Linearization
            The model; its damping and 1/C damp the inverse.

        Notes
        -----
        Collective if cotangents have to be propagated backward for it.
        """
        self._layout, self._backend = problem.layout, problem.backend
        if self._n_calls % self._options.statistics_period == 0:
            self._n_updates += 1
            # a plain mean at first, so the initial zeros do not count
            self._accumulate(problem, max(1.0 - self._options.statistics_decay, 1.0 / self._n_updates))
        if self._n_calls % self._options.inverse_period == 0:
            self._invert(problem.backend, problem.shift)
        self._n_calls += 1

    def apply(self, v: Array, layers: Iterable[int] | None = None) -> Array:
        """Multiply the inverse with a vector; no communication.

        Parameters
        ----------
        v : Array of shape (n_params_local,)
            A vector of the block's variables.
        layers : iterable of int or None
            Own layers that take part, all by default; entries of other layers are zero in the result.

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
        """Backend of the last update."""
        if self._backend is None:
            raise RuntimeError("update the preconditioner before it is applied")
        return self._backend

    def factor_size(self, shape: NetworkShape, block: Block) -> float:
        """Count the numbers in the factors of a block and in their inverses; none by default."""
        return 0.0

    def restricted(self, layers: list[int]) -> Callable[[Array], Array]:
        """Return :meth:`apply` restricted to some layers."""
        return lambda v: self.apply(v, layers)

    def state(self) -> State:
        """Return averages, inverses, and the number of calls that they cover."""
        state = State({"n_calls": self._n_calls, "n_updates": self._n_updates})
        if self._n_calls:
            self._save(state)
        return state

    def restore(self, state: State, layout: ParameterLayout) -> None:
        """Restore averages and inverses; those that belong to other blocks are recomputed at the next update.

        Parameters
        ----------
        state : State
            State from :meth:`state`.
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
        """Restore averages and inverses; returns False on all ranks if they belong to other blocks."""
        if state.same_blocks:
            for name in self.factors:
                setattr(self, f"_{name}", {m: array for (_, m), array in state.factors[name].items()})
        return state.same_blocks

    @abstractmethod
    def _accumulate(self, problem: BlockModel, weight: float) -> None:
        """Move the averages towards the statistics of this sample."""

    @abstractmethod
    def _invert(self, backend: Backend, shift: float) -> None:
        """Factorise the averages with ``shift`` added to the diagonal."""

    @abstractmethod
    def _apply_layer(self, layer: int, V: Array, out: Array) -> None:
        """Write the inverse times the block V of a layer, of shape (n_in + owns_bias, n_out), to ``out``."""
