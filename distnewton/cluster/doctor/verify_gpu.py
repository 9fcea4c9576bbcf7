"""Compare a GPU with the CPU: all operations, kernels and directions, all kinds of transfers, and their number."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np

from distnewton.backend import Backend, on_device, to_host
from distnewton.cluster.doctor.findings import CheckResult, ok, problem, slow
from distnewton.cluster.doctor.gpu_cases import (
    ALLOWED,
    LIBRARY_CASES,
    NETWORKS,
    OPERATIONS,
    SAME_STEPS,
    difference,
    kernel_cases,
    records,
    runs,
)
from distnewton.cluster.doctor.gpu_transfers import transfers
from distnewton.cluster.doctor.views import cupy_wheels
from distnewton.frozen import frozen
from distnewton.launch import devices
from distnewton.launch.deadline import output_of
from distnewton.launch.gpu_aware import takes_gpu_buffers
from distnewton.runs.run_folder import package_versions

_RUN_ALLOWED = 1e-9
_TOLD = 20
_SIZE = 4096
"""Size of the square matrices whose products are timed."""
_NCCL = """
import numpy as np
from types import SimpleNamespace
from distnewton.backend.gpu import cupy_library
from distnewton.parallel.transport import Nccl
cupy = cupy_library().xp
array = cupy.arange(4096, dtype="f8")
Nccl(cupy).sum(SimpleNamespace(place=(0, 1), broadcast_json=lambda value: value), array)
assert float(array.sum().get()) == 4095 * 4096 / 2
"""


@frozen
class Trial:
    """Result of a trial: ``agrees``, ``differs`` or ``not tried``, with the difference."""

    group: str
    name: str
    verdict: str
    difference: float | None = None
    text: str = ""


@frozen
class Verification:
    """All trials, and the rates of the device by name."""

    device: str
    trials: list[Trial]
    rates: dict[str, float]
    seconds: float

    def results(self) -> list[CheckResult]:
        """Return a line for each group, and for each trial that differs."""
        lines: list[CheckResult] = []
        for group in dict.fromkeys(trial.group for trial in self.trials):
            lines += _results_of_group(group, [trial for trial in self.trials if trial.group == group])
        rates = ", ".join(f"{name} {value:.3g}" for name, value in self.rates.items())
        return [*lines, ok("GPU", f"rates of {self.device}: {rates}")]

    def to_json(self) -> dict[str, Any]:
        """Return plain values, with the versions of the software involved."""
        versions = {"Python": sys.version.split()[0], **package_versions()}
        versions |= {wheel: version(wheel) for wheel in cupy_wheels()}
        versions["driver"] = output_of(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]).strip()
        return asdict(self) | {"versions": versions}


def _results_of_group(group: str, trials: list[Trial]) -> Iterator[CheckResult]:
    """Yield a line on the trials of a group that agree or were not tried, and one on each that differs."""
    n = Counter(trial.verdict for trial in trials)
    largest = max((trial.difference or 0.0 for trial in trials if trial.verdict == "agrees"), default=0.0)
    if n["not tried"] == n.total():
        yield slow("GPU", f"{group}: not tried: {trials[0].text}", "nothing is known of it here")
    elif not n["differs"]:
        yield ok("GPU", f"{group}: {n['agrees']} of {n.total()} agree with the CPU, up to {largest:.1e}")
    wrong = [trial for trial in trials if trial.verdict == "differs"]
    for trial in wrong[:_TOLD]:
        yield problem("GPU", f"{group}, {trial.name}: {trial.text}", _ADVICE)


_ADVICE = "do not train on this GPU; write the report by --json FILE and attach it to an issue"


def verify(groups: tuple[str, ...] = ()) -> Verification:
    """Compare the first GPU that this process sees with the CPU, in about a minute.

    Parameters
    ----------
    groups : tuple of str
        Groups of trials; all by default.

    Returns
    -------
    Verification
    """
    begin = time.perf_counter()
    backends = {dtype: devices.GPUS.backend(0, dtype, 1, tf32=False) for dtype in ALLOWED}
    known: dict[str, Callable[[], Iterator[Trial]]] = {
        f"{group} {dtype}": partial(_cases, f"{group} {dtype}", backend, cases)
        for dtype, backend in backends.items()
        for group, cases in (
            ("operations", OPERATIONS), ("functions", LIBRARY_CASES), ("kernels", kernel_cases(backend.dtype)),
        )
    }  # fmt: skip
    known |= {
        "transfers": partial(_transfers, backends["float64"]), "crossings": partial(_crossings, backends["float64"]),
        "directions": _directions, "messages": _messages,
    }  # fmt: skip
    trials = [trial for group in groups or known for trial in known[group]()]
    rates = {} if groups else _rates(backends)
    return Verification(backends["float64"].description, trials, rates, time.perf_counter() - begin)


def _tried(group: str, name: str, work: Callable[[], tuple[float, str]]) -> Trial:
    """Do a trial; any exception counts as a difference."""
    try:
        off, text = work()
    except Exception as error:  # the report shows the exception
        return Trial(group, name, "differs", None, f"{type(error).__name__}: {error}")
    return Trial(group, name, "differs" if text else "agrees", off if np.isfinite(off) else None, text)


def _cases(group: str, gpu: Backend, cases: dict[str, Callable[[Backend], Any]]) -> Iterator[Trial]:
    """Compute the cases of a backend on both devices."""
    cpu, allowed = Backend(gpu.dtype), ALLOWED[gpu.dtype.name]

    def compare(case: Callable[[Backend], Any]) -> tuple[float, str]:
        with np.errstate(all="ignore"):
            result, wanted = case(gpu), case(cpu)
        if isinstance(wanted, float):
            return difference(result, wanted, allowed)
        if not on_device(result):
            return np.inf, "its result is no array of the device"
        return difference(to_host(result), wanted, allowed)

    for name, case in cases.items():
        yield _tried(group, name, partial(compare, case))


def _transfers(gpu: Backend) -> Iterator[Trial]:
    yield from (_tried("transfers", name, work) for name, work in transfers(gpu))


def _directions() -> Iterator[Trial]:
    """Do short runs on both devices."""
    for name, run in runs():

        def compare(run: Callable[[str], Any] = run) -> tuple[float, str]:
            wanted, found = (np.array([record.objective for record in run(where)]) for where in ("cpu", "gpu"))
            return difference(found, wanted, _RUN_ALLOWED)

        yield _tried("directions", name, compare)


def _crossings(gpu: Backend) -> Iterator[Trial]:
    """Check that the number of transfers in a run does not grow with the data."""

    def crossed(kind: str) -> tuple[float, str]:
        counts = []
        for n in (40, 80):
            with _counted(gpu.library) as count:
                records("gpu", kind, SAME_STEPS, n)
            counts.append(dict(count))
        return 0.0, "" if counts[0] == counts[1] else f"of 40 samples cross {counts[0]}, of 80 {counts[1]}"

    for kind in NETWORKS:
        yield _tried("crossings", kind, partial(crossed, kind))


@contextmanager
def _counted(library: Any) -> Iterator[Counter[str]]:
    """Count the transfers by direction."""
    count, ways = Counter[str](), ("to_host", "to_device", "scalar", "download", "upload")

    def counting(way: str, move: Callable[..., Any], *args: Any) -> Any:
        count[way] += 1
        return move(*args)

    before = dict(vars(library))
    try:
        for way in ways:
            setattr(library, way, partial(counting, way, getattr(library, way)))
        yield count
    finally:
        vars(library).clear()
        vars(library).update(before)


def _messages() -> Iterator[Trial]:
    """Sum by MPI on the device's memory and by NCCL, in child processes, because a failure may be a crash."""
    if type(devices.GPUS) is not devices.CudaGpus:
        yield Trial("messages", "MPI and NCCL", "not tried", None, "the device is not a CUDA GPU")
        return
    aware, why = takes_gpu_buffers()
    yield Trial("messages", "MPI on GPU memory", "agrees" if aware else "not tried", None, why)
    library, why = devices.GPUS.nccl()
    if library is None:
        yield Trial("messages", "NCCL", "not tried", None, why)
        return
    command = [sys.executable, "-c", _NCCL]
    child = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)  # noqa: S603
    last = (child.stderr.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
    yield Trial("messages", "NCCL", "differs" if child.returncode else "agrees", None, last if child.returncode else "")


def _rates(backends: dict[str, Backend]) -> dict[str, float]:
    """Measure rates of products of square matrices and of one-pass updates, the best of five."""
    rates = {}
    for dtype, gpu in backends.items():
        library: Any = gpu.library
        A, C = gpu.asarray(np.random.default_rng(3).standard_normal((_SIZE, _SIZE))), gpu.empty(_SIZE, _SIZE)
        seconds = _best(library, partial(gpu.product, A, A, C))
        rates[f"{dtype} products TFLOP/s"] = 2e-12 * _SIZE**3 / seconds
        seconds = _best(library, partial(library.update, C, "a * x + v", a=0.5, v=A))
        rates[f"{dtype} updates GB/s"] = 3e-9 * A.nbytes / seconds
    return rates


def _best(library: Any, work: Callable[[], Any]) -> float:
    """Return the best seconds of work on the device."""
    seconds = []
    for _ in range(6):
        library.synchronize()
        begin = time.perf_counter()
        work()
        library.synchronize()
        seconds.append(time.perf_counter() - begin)
    return max(min(seconds[1:]), 1e-9)
