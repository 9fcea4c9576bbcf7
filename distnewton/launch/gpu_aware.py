"""Test whether MPI takes buffers in GPU memory, in a child process, because failure may be a segmentation fault.

What libraries and environment variables claim has been wrong in both directions; a message that arrives is proof.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

_LAUNCHERS = ("PMI", "PMIX", "OMPI_", "PRTE_", "HYDI_", "MPI_LOCAL", "SLURM_", "MPIR_")
_PROBE = """
import sys
from mpi4py import MPI
import numpy as np
if sys.argv[1] == "cupy":
    import cupy
    sent, received = cupy.arange(4096, dtype="f8"), cupy.zeros(4096, dtype="f8")
    cupy.cuda.get_current_stream().synchronize()
    first = lambda: float(received.sum())
else:
    # memory that the processor may not touch, as a GPU's is to a library that does not know of it
    import mmap, ctypes
    area = mmap.mmap(-1, 65536)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(address), ctypes.c_size_t(65536), 0) == 0
    sent = np.frombuffer((ctypes.c_char * 32768).from_address(address), dtype="f8")
    received = np.zeros(4096)
    first = lambda: float(received.sum())
MPI.COMM_SELF.Sendrecv(sent, 0, 0, received, 0, 0)
print("sum", first())
"""


def takes_gpu_buffers(kind: str = "cupy", limit: float = 60.0) -> tuple[bool, str]:
    """Send a buffer to itself, in a child process without the launcher's variables.

    Parameters
    ----------
    kind : str
        ``cupy``: memory of the first GPU; ``protected``: memory that no process may read, to test the probe itself.
    limit : float
        Seconds without an answer after which the test fails.

    Returns
    -------
    tuple of bool and str
        Whether the right numbers arrived, and what happened.
    """
    try:
        child = subprocess.run(  # noqa: S603
            [sys.executable, "-c", _PROBE, kind],
            env=_without_launcher(), capture_output=True, text=True, timeout=limit, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return False, f"no answer in {limit:.0f} s"
    if child.returncode == 0 and f"sum {4095 * 4096 / 2}" in child.stdout:
        return True, "a buffer in GPU memory arrived"
    return False, _what_happened(child.returncode, child.stderr)


def _without_launcher() -> dict[str, str]:
    """Return the environment without the variables that would make the child join this launch."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(_LAUNCHERS)}
    # Open MPI runs as root only with the user's consent, which was given for the parent
    return clean | {name: value for name, value in os.environ.items() if name.startswith("OMPI_ALLOW_RUN_AS_ROOT")}


def _what_happened(code: int, errors: str) -> str:
    """Say why a child failed: by a signal, to which a shell may have added 128, or by its last line of output."""
    number = -code if code < 0 else code - 128
    if number > 0:
        return f"MPI died of signal {number} ({signal.Signals(number).name})"
    words = [line for line in errors.splitlines() if line.strip()]
    return words[-1].strip() if words else f"exit code {code}"
