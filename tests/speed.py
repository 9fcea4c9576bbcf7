"""How slow this machine is now: limits of tests count in its seconds."""

from __future__ import annotations

import os
import subprocess
import sys
import time

NAME = "DISTNEWTON_TEST_SLOWNESS"
SECONDS = 0.45  # of `_work` on a quiet core, for which the limits in the tests are meant


def _work() -> None:
    """What tests do most: start a Python, import, interpret, multiply."""
    subprocess.run([sys.executable, "-c", "import numpy, json, argparse"], check=True)
    import numpy as np

    matrix = np.ones((300, 300))
    for _ in range(8):
        matrix = matrix @ matrix / 300
    sum(k * k for k in range(500_000))


def measured() -> float:
    """Seconds of that work by those of a quiet machine, from 1 to 10; processes that wait for a core count as well."""
    begin = time.perf_counter()
    _work()
    seconds = time.perf_counter() - begin
    waiting = os.getloadavg()[0] / (os.cpu_count() or 1)
    return min(10.0, max(1.0, seconds / SECONDS, waiting))


def slowness() -> float:
    """The factor of all limits: measured once, by the first process of a run of tests."""
    if NAME not in os.environ:
        os.environ[NAME] = f"{measured():.2f}"
    return float(os.environ[NAME])


if __name__ == "__main__":
    print(f"{slowness():.2f}")
