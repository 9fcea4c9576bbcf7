"""A thread that lets MPI send and receive while this rank computes.

MPI libraries move a message on when they are called, and a matrix product does not call them: a sum that was begun
would travel only when its end is waited for. So a thread asks now and then how far the sums are (``MPI_Test``; MPI 4.1
calls this progress). Numpy lets other threads run during its products, so it costs little more than the calls
themselves; without messages the thread sleeps.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

INTERVAL = 2e-4
"""Seconds between two questions: in them a network of 1 GB/s fills the 200 KB that a socket buffers."""


class ProgressThread:
    """Asks after sums that were begun; one a process."""

    def __init__(self) -> None:
        self._requests: list[Any] = []
        self._lock, self._some = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    def follow(self, request: Any) -> Callable[[], None]:
        """Ask after a message from time to time until its end is waited for.

        Parameters
        ----------
        request : mpi4py.MPI.Request
            Of a non-blocking call.

        Returns
        -------
        callable
            Waits for its end.

        Notes
        -----
        Where MPI was not started for several threads this only waits.
        """
        from mpi4py import MPI

        if MPI.Query_thread() >= MPI.THREAD_MULTIPLE:
            self._ask_after(request)

        def wait() -> None:
            # two threads must not ask after the same message
            with self._lock:
                self._requests = [other for other in self._requests if other is not request]
            request.Wait()

        return wait

    def _ask_after(self, request: Any) -> None:
        with self._lock:
            self._requests.append(request)
        if self._thread is None:
            self._thread = threading.Thread(target=self._ask, name="MPI progress", daemon=True)
            self._thread.start()
        self._some.set()

    def _ask(self) -> None:
        while True:
            self._some.wait()
            with self._lock:
                # one that has ended is null, and costs nothing to wait for
                self._requests = [request for request in self._requests if not request.Test()]
                if not self._requests:
                    self._some.clear()
            time.sleep(INTERVAL)


progress_thread = ProgressThread()
