"""A thread that lets MPI send and receive while this rank computes.

MPI libraries make progress only when they are called, and a matrix product does not call them: a sum that has started
would travel only once its completion is waited for. So a thread periodically tests the pending sums (``MPI_Test``; MPI
4.1 calls this progress). Numpy lets other threads run during its products, so this costs little more than the calls
themselves; without messages the thread sleeps.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

INTERVAL = 2e-4
"""Seconds between two tests: in this time a network of 1 GB/s fills the 200 KB that a socket buffers."""


class ProgressThread:
    """Tester of pending sums; one per process."""

    def __init__(self) -> None:
        self._requests: list[Any] = []
        self._lock, self._some = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    def follow(self, request: Any) -> Callable[[], None]:
        """Test a message periodically until its completion is waited for.

        Parameters
        ----------
        request : mpi4py.MPI.Request
            Request of a non-blocking call.

        Returns
        -------
        callable
            Function that waits for completion.

        Notes
        -----
        If MPI was not started with thread support, this only waits.
        """
        from mpi4py import MPI

        if MPI.Query_thread() >= MPI.THREAD_MULTIPLE:
            self._ask_after(request)

        def wait() -> None:
            # two threads must not test the same message
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
                # a completed request is null, and takes no time to wait for
                self._requests = [request for request in self._requests if not request.Test()]
                if not self._requests:
                    self._some.clear()
            time.sleep(INTERVAL)


progress_thread = ProgressThread()
