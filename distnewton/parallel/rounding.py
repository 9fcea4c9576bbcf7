"""Sums sent with eight significant bits per number: bfloat16, rounded to nearest with ties to even."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from distnewton.parallel.collectives import Communicator, PendingSum

_QUIET_NAN = np.uint16(0x7FC0)


def rounded(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round float32 to the bits of bfloat16: to nearest with ties to even; numbers too large become infinite."""
    bits = x.view(np.uint32)
    halves = ((bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16).astype(np.uint16)
    halves[np.isnan(x)] = _QUIET_NAN
    return halves


def widened(halves: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Convert the bits of bfloat16 to float32, exactly."""
    return (halves.astype(np.uint32) << 16).view(np.float32)


class RoundedSums:
    """Sums over a group of ranks sent as bfloat16: half the bytes of float32.

    Parameters
    ----------
    group : Communicator
        The ranks.
    """

    def __init__(self, group: Communicator) -> None:
        self._group = group

    def sum_inplace(self, array: NDArray[Any]) -> NDArray[Any]:
        """Sum a float32 array by :meth:`Communicator.sum_rounded`."""
        return self._group.sum_rounded(array)

    def start_sum(self, array: NDArray[Any]) -> PendingSum:
        """Sum immediately; there is nothing left to wait for."""
        from distnewton.parallel.collectives import PendingSum

        self._group.sum_rounded(array)
        return PendingSum()
