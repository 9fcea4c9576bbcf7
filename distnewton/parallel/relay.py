"""What the nodes of a tree pass on in a phase of early termination: arithmetic, without MPI.

Each node tells its parent how many of the ranks below it have finished, whenever that changes, and whether all of them
have left the phase. The root adds up. Once enough have finished, or everyone has left, it says so to its children, they
to theirs: one message down each edge, and as many up as there is news, so that no node talks to more than nine.
"""

from __future__ import annotations

from collections.abc import Callable

FAN_OUT = 8
"""Children of a node: 4,096 nodes are five levels."""

Message = tuple[int, int, int]
"""Phase; ranks that have finished; upwards whether all have left the phase, downwards 0."""


class Relay:
    """A node of the tree.

    Parameters
    ----------
    number, n_nodes : int
        Which node, the root being 0, of how many.

    Attributes
    ----------
    parent : int or None
        Number of the node above; None at the root.
    children : range
        Numbers of those below.
    """

    def __init__(self, number: int, n_nodes: int) -> None:
        self.parent = None if number == 0 else (number - 1) // FAN_OUT
        self.children = range(FAN_OUT * number + 1, min(FAN_OUT * (number + 1) + 1, n_nodes))
        self._early: list[tuple[int, Message]] = []
        self.begin(-2, 0)

    def begin(self, phase: int, enough: int) -> None:
        """Begin a phase, in which so many finished ranks are enough; messages of it that came before count now."""
        self._phase, self._enough = phase, enough
        self._own = self._told = (0, 0)
        self._below: dict[int, tuple[int, int]] = dict.fromkeys(self.children, (0, 0))
        self._total: int | None = None  # what the root has said
        self._untold = set(self.children)
        early, self._early = self._early, []
        for source, message in early:
            self.hear(source, message)

    def update(self, n_finished: int, *, all_left: bool) -> None:
        """Learn how many of the node's own ranks have finished, and whether all have left the phase."""
        # who has left may have gone on to another phase, and be counted there
        self._own = max(n_finished, self._own[0]), int(all_left)

    def hear(self, source: int, message: Message) -> None:
        """Take in a message of another node; one of a later phase is kept for it."""
        phase, count, left = message
        if phase > self._phase:
            self._early.append((source, message))
        elif phase == self._phase and source == self.parent:
            self._total = count
        elif phase == self._phase:
            self._below[source] = count, left

    def due(self, is_free: Callable[[int], bool]) -> list[tuple[int, Message]]:
        """Messages to send now, each to a node to which one can be sent; what cannot is asked for again."""
        messages = []
        if self.parent is None and self._total is None and (self._subtree[0] >= self._enough or self._subtree[1]):
            self._total = self._subtree[0]
        if self.parent is not None and self._subtree != self._told and is_free(self.parent):
            self._told = self._subtree
            messages.append((self.parent, (self._phase, *self._told)))
        if self._total is not None:
            ready = [child for child in sorted(self._untold) if is_free(child)]
            self._untold.difference_update(ready)
            messages += [(child, (self._phase, self._total, 0)) for child in ready]
        return messages

    @property
    def _subtree(self) -> tuple[int, int]:
        """Finished ranks of this node and of those below, and whether all have left."""
        views = [self._own, *self._below.values()]
        return sum(count for count, _ in views), min(left for _, left in views)

    @property
    def count(self) -> int:
        """Finished ranks that this node knows of: below it, or over all as the root has said."""
        return max(self._subtree[0], self._total or 0)

    @property
    def may_leave(self) -> bool:
        """Whether no node needs this one to hear of the end: all below have left, or they have been told."""
        told = self.parent is None or self._told == self._subtree
        return (bool(self._subtree[1]) and told) or (self._total is not None and not self._untold)

    @property
    def is_done(self) -> bool:
        """Whether nothing of this phase is under way to this node, and it has nothing to say."""
        told = self.parent is None or self._told == self._subtree
        return bool(self._subtree[1]) and told and self._total is not None and not self._untold
