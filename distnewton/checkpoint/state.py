"""What a method carries from one iteration to the next, in the three kinds that a checkpoint stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distnewton.backend import Array

Tree = Mapping[str, Any]
"""Numbers and parts of a state as JSON has them."""
BlockKey = tuple[int, int]
"""Number of a logical block, 0 in a state of one block, and a layer."""


@dataclass
class State:
    """State of an object, with that of the objects inside it as parts.

    Attributes
    ----------
    numbers : dict
        JSON-able values, the same on all ranks.
    vectors : dict of str to Array of shape (n_params_local,)
        A number for each variable, stored by global index: any grid gets back its own blocks.
    factors : dict of str to dict of BlockKey to Array
        Of whatever shape, by own logical block and layer: they are left out where the network is cut into other blocks.
    parts : dict of str to State
        Of the objects inside.
    same_blocks : bool
        Of a state that was read: whether it comes from the same logical blocks, so that its factors are there.
    """

    numbers: dict[str, Any] = field(default_factory=dict)
    vectors: dict[str, Array] = field(default_factory=dict)
    factors: dict[str, dict[BlockKey, Array]] = field(default_factory=dict)
    parts: dict[str, State] = field(default_factory=dict)
    same_blocks: bool = True

    def walk(self, prefix: str = "") -> Iterator[tuple[str, State]]:
        """This state and those inside, with the prefix of their names: ``stage/newton/``."""
        yield prefix, self
        for name, part in self.parts.items():
            yield from part.walk(f"{prefix}{name}/")

    def tree(self) -> dict[str, Any]:
        """Numbers, and names of what else there is, of this state and those inside."""
        return {
            "numbers": self.numbers,
            "vectors": sorted(self.vectors),
            "factors": sorted(self.factors),
            "parts": {name: part.tree() for name, part in self.parts.items()},
        }

    def n_bytes(self) -> int:
        """Bytes of this rank's arrays."""
        arrays = (a for _, s in self.walk() for a in (*s.vectors.values(), *_values(s.factors)))
        return sum(a.nbytes for a in arrays)

    def moved(self, move: Callable[[Array], Array]) -> State:
        """The same state with every array as a function returns it: on the host, say, or on a device."""
        return State(
            self.numbers,
            {name: move(vector) for name, vector in self.vectors.items()},
            {name: {m: move(array) for m, array in by_layer.items()} for name, by_layer in self.factors.items()},
            {name: part.moved(move) for name, part in self.parts.items()},
            same_blocks=self.same_blocks,
        )

    def not_finite(self) -> str:
        """Name of an array that holds NaN or infinity, empty if there is none."""
        for prefix, state in self.walk():
            named = [*state.vectors.items(), *((name, a) for name, by in state.factors.items() for a in by.values())]
            for name, array in named:
                if not np.isfinite(array).all():
                    return f"{prefix}{name}"
        return ""


def _values(factors: dict[str, dict[BlockKey, Array]]) -> Iterator[Array]:
    for by_layer in factors.values():
        yield from by_layer.values()
