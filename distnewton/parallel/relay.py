"""Messages between the nodes of a tree in a phase of early termination: arithmetic, without MPI.

Whenever it changes, each node tells its parent how many of the ranks below it have finished, and whether all of them
have left the phase. The root adds up these counts. Once enough ranks have finished, or all have left, it tells its
children, and they tell theirs. That is one message down each edge and as many up as there is news; no node talks to
more than nine others.
"""

from __future__ import annotations

from collections.abc import Callable

FAN_OUT = 8
"""Children per node: 4,096 nodes form five levels."""

Message = tuple[int, int, int]
"""Phase; number of finished ranks; and upwards whether all have left the phase, downwards 0."""


class Relay:
    """A node of the tree.

    Parameters
    ----------
    number, n_nodes : int
        Number of this node (the root is 0), and number of nodes.

    Attributes
    ----------
    parent : int or None
        Number of the parent; None at the root.
    children : range
        Numbers of the children.
    """

    def __init__(self, number: int, n_nodes: int) -> None:
        self.parent = None if number == 0 else (number - 1) // FAN_OUT
        self.children = range(FAN_OUT * number + 1, min(FAN_OUT * (number + 1) + 1, n_nodes))
        self._early: list[tuple[int, Message]] = []
        self.begin(-2, 0)

    def begin(self, phase: int, enough: int) -> None:
        """Start a phase that ends at `enough` finished ranks; messages for it that arrived early count from now on."""
        self._phase, self._enough = phase, enough
        self._own = self._told = (0, 0)
        self._below: dict[int, tuple[int, int]] = dict.fromkeys(self.children, (0, 0))
        self._total: int | None = None  # as announced by the root
        self._untold = set(self.children)
        early, self._early = self._early, []
        for source, message in early:
            self.hear(source, message)

    def update(self, n_finished: int, *, all_left: bool) -> None:
        """Record how many of the node's own ranks have finished, and whether all have left the phase."""
        # a rank that has left may be in a later phase, and count there instead
        self._own = max(n_finished, self._own[0]), int(all_left)

    def hear(self, source: int, message: Message) -> None:
        """Receive a message of another node; one for a later phase is kept until then."""
        phase, count, left = message
        if phase > self._phase:
            self._early.append((source, message))
        elif phase == self._phase and source == self.parent:
            self._total = count
        elif phase == self._phase:
            self._below[source] = count, left

    def due(self, is_free: Callable[[int], bool]) -> list[tuple[int, Message]]:
        """Return messages to send now, to nodes that can be sent to; the others stay due."""
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
        """Finished ranks of this node and those below, and whether all have left."""
        views = [self._own, *self._below.values()]
        return sum(count for count, _ in views), min(left for _, left in views)

    @property
    def count(self) -> int:
        """Finished ranks known to this node: those below it, or all as announced by the root."""
        return max(self._subtree[0], self._total or 0)

    @property
    def may_leave(self) -> bool:
        """Whether no node still needs this one to pass on the end: all below have left or have been told."""
        told = self.parent is None or self._told == self._subtree
        return (bool(self._subtree[1]) and told) or (self._total is not None and not self._untold)

    @property
    def is_done(self) -> bool:
        """Whether no message of this phase is in transit to this node, and it has none to send."""
        told = self.parent is None or self._told == self._subtree
        return bool(self._subtree[1]) and told and self._total is not None and not self._untold
