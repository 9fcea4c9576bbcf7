"""When the direction phase may end although some ranks have not finished."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from distnewton.errors import DataError
from distnewton.guards.faults import faults


class Board(Protocol):
    """Where ranks say without blocking that they have finished, and see how many have."""

    def begin(self, phase_number: int, enough: int | None = None) -> None: ...  # noqa: D102
    def announce(self) -> None: ...  # noqa: D102
    def n_finished(self) -> int: ...  # noqa: D102
    def leave(self) -> None: ...  # noqa: D102
    def end(self, finished_ranks: Sequence[int]) -> None: ...  # noqa: D102


class EarlyTermination:
    """The rule of early termination: enough blocks have met their own stopping rule.

    A rank that owns several says so once, when all of them have, and counts for as many.

    Parameters
    ----------
    board : Board or None
        Shared by the ranks; None never ends a phase early, which makes runs repeat bit for bit.
    threshold : int
        Number of finished blocks that is enough.
    """

    def __init__(self, board: Board | None, threshold: int = 1) -> None:
        self._board, self._threshold = board, threshold

    @property
    def stops_ranks(self) -> bool:
        """Whether a phase may end before a rank has finished."""
        return self._board is not None

    def begin(self, phase_number: int) -> None:
        """Open a direction phase; numbers only grow."""
        if self._board is not None:
            self._board.begin(phase_number, self._threshold)

    def announce(self) -> None:
        """Say that this rank has finished; does not block."""
        if self._board is not None:
            self._board.announce()

    def enough_finished(self, n_steps: int, n_own: int = 0) -> bool:
        """Whether enough blocks are known to be finished after so many steps of this rank; does not block.

        Parameters
        ----------
        n_steps : int
            Steps of each block of this rank.
        n_own : int
            Blocks of this rank that have finished, which has not said so: others have not.

        Returns
        -------
        bool
        """
        faults.at("cg")
        return self._board is not None and self._board.n_finished() + n_own >= self._threshold

    def leave(self) -> None:
        """Say that this rank's part of the phase is over, before the collective that follows."""
        if self._board is not None:
            self._board.leave()

    def end(self, finished_ranks: Sequence[int]) -> None:
        """Close the phase, after a collective from which every rank knows who announced."""
        if self._board is not None:
            self._board.end(finished_ranks)


class RecordedTermination(EarlyTermination):
    """Stops this rank after the steps that it took in a recorded run.

    Parameters
    ----------
    steps : iterator of int
        Of this rank, one direction phase after the other.
    """

    def __init__(self, steps: Iterator[int]) -> None:
        super().__init__(None)
        self._steps, self._limit = steps, 0

    @property
    def stops_ranks(self) -> bool:
        """Yes: the record of the repeated run says where."""
        return True

    def begin(self, phase_number: int) -> None:
        """Take the steps of the next phase."""
        limit = next(self._steps, None)
        if limit is None:
            raise DataError(
                f"direction {phase_number} is not in the record of the run that is replayed: it had other settings, or "
                "another machine computes",
                collective=True,
            )
        self._limit = limit

    def enough_finished(self, n_steps: int, n_own: int = 0) -> bool:
        """Whether this rank had stopped, or finished, after so many steps."""
        faults.at("cg")
        return n_steps >= self._limit


NEVER = EarlyTermination(None)
"""Every rank runs to its own stopping rule."""
