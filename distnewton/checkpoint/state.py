"""The state that a method carries between iterations, in the three kinds that a checkpoint stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distnewton.backend import Array

Tree = Mapping[str, Any]
"""Numbers and parts of a state in JSON form."""
BlockKey = tuple[int, int]
"""Number of a logical block (0 in a state of one block), and a layer."""


@dataclass
class State:
    """State of an object, with the states of the objects inside it as parts.

    Attributes
    ----------
    numbers : dict
        JSON-compatible values, the same on all ranks.
    vectors : dict of str to Array of shape (n_params_local,)
        One number per variable, stored by global index: any grid can read its own blocks.
    factors : dict of str to dict of BlockKey to Array
        Arrays of any shape, by own logical block and layer; omitted if the network is split into other blocks.
    parts : dict of str to State
        States of the objects inside.
    same_blocks : bool
        For a state that was read: whether it comes from the same logical blocks, and thus has its factors.
    """

    numbers: dict[str, Any] = field(default_factory=dict)
    vectors: dict[str, Array] = field(default_factory=dict)
    factors: dict[str, dict[BlockKey, Array]] = field(default_factory=dict)
    parts: dict[str, State] = field(default_factory=dict)
    same_blocks: bool = True

    def walk(self, prefix: str = "") -> Iterator[tuple[str, State]]:
        """Yield this state and those inside, with the prefix of their names: ``stage/newton/``."""
        yield prefix, self
        for name, part in self.parts.items():
            yield from part.walk(f"{prefix}{name}/")

    def tree(self) -> dict[str, Any]:
        """Return the numbers and the names of the arrays, of this state and those inside."""
        return {
            "numbers": self.numbers,
            "vectors": sorted(self.vectors),
            "factors": sorted(self.factors),
            "parts": {name: part.tree() for name, part in self.parts.items()},
        }

    def n_bytes(self) -> int:
        """Count the bytes of this rank's arrays."""
        arrays = (a for _, s in self.walk() for a in (*s.vectors.values(), *_values(s.factors)))
        return sum(a.nbytes for a in arrays)

    def moved(self, move: Callable[[Array], Array]) -> State:
        """Apply a function to every array of a state, for example to move it to the host or a device."""
        return State(
            self.numbers,
            {name: move(vector) for name, vector in self.vectors.items()},
            {name: {m: move(array) for m, array in by_layer.items()} for name, by_layer in self.factors.items()},
            {name: part.moved(move) for name, part in self.parts.items()},
            same_blocks=self.same_blocks,
        )

    def not_finite(self) -> str:
        """Return the name of an array that contains NaN or infinity; empty if there is none."""
        for prefix, state in self.walk():
            named = [*state.vectors.items(), *((name, a) for name, by in state.factors.items() for a in by.values())]
            for name, array in named:
                if not np.isfinite(array).all():
                    return f"{prefix}{name}"
        return ""


def _values(factors: dict[str, dict[BlockKey, Array]]) -> Iterator[Array]:
    for by_layer in factors.values():
        yield from by_layer.values()
