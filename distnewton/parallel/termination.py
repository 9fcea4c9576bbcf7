"""Rules that end the direction phase before all ranks have finished."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from distnewton.errors import DataError
from distnewton.guards.faults import faults


class Board(Protocol):
    """A board on which ranks announce without blocking that they have finished, and count how many have."""

    def begin(self, phase_number: int, enough: int | None = None) -> None: ...  # noqa: D102
    def announce(self) -> None: ...  # noqa: D102
    def n_finished(self) -> int: ...  # noqa: D102
    def leave(self) -> None: ...  # noqa: D102
    def end(self, finished_ranks: Sequence[int]) -> None: ...  # noqa: D102


class EarlyTermination:
    """The rule of early termination: stop once enough blocks have met their own stopping rule.

    A rank that owns several blocks announces once, when all of them have finished, and counts for all of them.

    Parameters
    ----------
    board : Board or None
        Board shared by the ranks; None never ends a phase early, which makes runs repeat bit for bit.
    threshold : int
        Sufficient number of finished blocks.
    """

    def __init__(self, board: Board | None, threshold: int = 1) -> None:
        self._board, self._threshold = board, threshold

    @property
    def stops_ranks(self) -> bool:
        """Whether a phase may end before a rank has finished."""
        return self._board is not None

    def begin(self, phase_number: int) -> None:
        """Open a direction phase; its number must exceed all earlier ones."""
        if self._board is not None:
            self._board.begin(phase_number, self._threshold)

    def announce(self) -> None:
        """Announce that this rank has finished; does not block."""
        if self._board is not None:
            self._board.announce()

    def enough_finished(self, n_steps: int, n_own: int = 0) -> bool:
        """Whether enough blocks are known to have finished after some steps of this rank; does not block.

        Parameters
        ----------
        n_steps : int
            Steps taken by each block of this rank.
        n_own : int
            Finished blocks of this rank while others have not finished, so that it has not announced.

        Returns
        -------
        bool
        """
        faults.at("cg")
        return self._board is not None and self._board.n_finished() + n_own >= self._threshold

    def leave(self) -> None:
        """End this rank's part of the phase, before the collective that follows."""
        if self._board is not None:
            self._board.leave()

    def end(self, finished_ranks: Sequence[int]) -> None:
        """Close the phase, after a collective that told every rank who announced."""
        if self._board is not None:
            self._board.end(finished_ranks)


class RecordedTermination(EarlyTermination):
    """Stops this rank after the steps that it took in a recorded run.

    Parameters
    ----------
    steps : iterator of int
        Steps of this rank, one number per direction phase.
    """

    def __init__(self, steps: Iterator[int]) -> None:
        super().__init__(None)
        self._steps, self._limit = steps, 0

    @property
    def stops_ranks(self) -> bool:
        """Always true: the record of the repeated run says where."""
        return True

    def begin(self, phase_number: int) -> None:
        """Read the number of steps of the next phase."""
        limit = next(self._steps, None)
        if limit is None:
            raise DataError(
                f"direction {phase_number} is not in the record of the run that is replayed: it had other settings, or "
                "another machine computes",
                collective=True,
            )
        self._limit = limit

    def enough_finished(self, n_steps: int, n_own: int = 0) -> bool:
        """Whether this rank had stopped, or finished, after this many steps."""
        faults.at("cg")
        return n_steps >= self._limit


NEVER = EarlyTermination(None)
"""Every rank continues to its own stopping rule."""
