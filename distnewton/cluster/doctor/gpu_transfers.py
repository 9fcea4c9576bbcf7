"""Transfers of numbers to a device and back, blocking and while either side continues."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from distnewton.backend import Backend, to_host
from distnewton.cluster.doctor.gpu_cases import ALLOWED, difference
from distnewton.parallel.transport import Staged


def transfers(gpu: Backend) -> Iterator[tuple[str, Callable[[], tuple[float, str]]]]:
    """Yield trials of transfers to the device and back, by name.

    Parameters
    ----------
    gpu : Backend
        Of a device.

    Yields
    ------
    tuple of str and callable
        The largest difference, and what is wrong; empty if nothing.
    """
    library: Any = gpu.library
    values = np.random.default_rng(2).standard_normal(1 << 18)

    def uploaded() -> tuple[float, str]:
        wrong = 0.0
        for k in range(8):
            host, there = values + k, gpu.empty(values.size)
            library.upload(host, there)
            # the copy must be complete: its source may be overwritten
            host[:] = np.nan
            wrong = max(wrong, difference(to_host(there), values + k, 0.0)[0])
        return wrong, "numbers were overwritten before they had arrived" if wrong else ""

    def downloaded() -> tuple[float, str]:
        wrong, there, wanted = 0.0, gpu.asarray(values), values
        for _ in range(8):
            out = np.full_like(values, np.nan)
            there, wanted = there * 1.5 + 0.25, wanted * 1.5 + 0.25
            library.download(there, out)
            wrong = max(wrong, difference(out, wanted, ALLOWED["float64"])[0])
        return wrong, "the host read numbers before they had arrived" if wrong > ALLOWED["float64"] else ""

    def ordered() -> tuple[float, str]:
        there = gpu.asarray(values.reshape(512, 512)).T
        back = to_host(there)
        as_it_lies = "" if back.flags.f_contiguous else "an array comes back in another order"
        off, text = difference(back, values.reshape(512, 512).T, 0.0)
        return off, text or as_it_lies

    def refused() -> tuple[float, str]:
        for leave in (np.asarray, float, lambda a: a + np.ones(1)):
            try:
                leave(gpu.asarray(np.ones(1)))
            except TypeError:
                continue
            if leave is not float:
                return np.inf, "numbers cross between host and device without a word"
        return 0.0, ""

    def staged() -> tuple[float, str]:
        transport, arrays = Staged(1 << 12), [gpu.asarray(values[:3000] + k) for k in range(3)]
        for wait in [transport.begin(_Doubling(), arrays[0]), transport.begin(_Doubling(), arrays[1])]:
            wait()
        transport.sum(_Doubling(), arrays[2])
        wanted = [2 * (values[:3000] + k) for k in range(3)]
        return difference(np.array([to_host(array) for array in arrays]), np.array(wanted), 0.0)

    for work in (uploaded, downloaded, ordered, refused, staged):
        yield work.__name__, work


class _Doubling:
    """Sums over two ranks that have the same numbers."""

    place = 0, 2

    def sum_buffer(self, buffer: Any) -> None:
        buffer *= 2

    def begin_sum_buffer(self, buffer: Any) -> Callable[[], None]:
        return partial(self.sum_buffer, buffer)

    def broadcast_json(self, value: Any = None, root: int = 0) -> Any:
        return value
