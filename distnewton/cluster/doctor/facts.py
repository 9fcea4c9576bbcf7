"""What one rank sees of its set-up, as plain values; the checks evaluator those of all ranks together."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distnewton.cluster.launchers import THREAD_VARIABLES
from distnewton.launch.startup import launched_size, launcher_kind

PACKAGES = ("distnewton", "numpy", "scipy", "mpi4py", "safetensors", "pydantic")
_SLURM = ("SLURM_JOB_ID", "SLURM_JOB_NUM_NODES", "SLURM_CPUS_PER_TASK")


@dataclass(frozen=True)
class Facts:
    """Of one rank.

    Attributes
    ----------
    rank, size, launched : int
        Number, ranks that MPI connects, processes that the launcher says it started.
    host, launcher, library : str
        Host; MPI whose launcher this is; first line of the MPI library's version.
    cores : list of int
        Cores this process may use.
    n_threads : int
        BLAS threads that training would take.
    blas : list of dict
        BLAS libraries: ``internal_api, version, architecture, num_threads``.
    fast_cpu : bool
        Whether the processor has AVX2.
    variables : dict of str to str
        Numbers of threads in the environment.
    slurm : dict of str to str
        Of the job.
    n_tasks : int
        Tasks of the Slurm job, as rank 0 finds out; 0 outside of one, or where nobody says.
    versions : dict of str to str
        Python, packages, MPI library.
    recipe : str
        Digest of the recipe as this rank sees it; empty without one.
    cupy : list of str
        Installed wheels of cupy.
    gpus : list of str
        GPUs that this rank's host shows.
    visible : str
        CUDA_VISIBLE_DEVICES, or "all".
    """

    rank: int
    size: int
    launched: int
    host: str
    launcher: str
    library: str
    cores: list[int]
    n_threads: int
    blas: list[dict[str, Any]]
    fast_cpu: bool
    variables: dict[str, str]
    slurm: dict[str, str]
    n_tasks: int
    versions: dict[str, str]
    recipe: str
    cupy: list[str]
    gpus: list[str]
    visible: str

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def collect(rank: int, size: int, library: str, n_threads: int, recipe: str | None) -> Facts:
    """Look around on this rank.

    Parameters
    ----------
    rank, size, n_threads : int
        As MPI and the division of cores say.
    library : str
        First line of the MPI library's version; empty without MPI.
    recipe : str or None
        File to compare over the ranks.

    Returns
    -------
    Facts
    """
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    return Facts(
        rank,
        size,
        launched_size(),
        platform.node(),
        launcher_kind(),
        library,
        sorted(cores),
        n_threads,
        _blas(),
        _has_avx2(),
        {name: os.environ[name] for name in THREAD_VARIABLES if os.environ.get(name)},
        {name: os.environ[name] for name in _SLURM if os.environ.get(name)},
        _job_tasks() if rank == 0 else 0,
        {"Python": sys.version.split()[0], "MPI": library, **{name: _version(name) for name in PACKAGES}},
        _digest(recipe),
        cupy_wheels(),
        gpus_of_host(),
        os.environ.get("CUDA_VISIBLE_DEVICES", "all"),
    )


def _job_tasks() -> int:
    """Tasks of the job. Below an mpirun SLURM_NTASKS counts its helpers, one a node: Slurm itself is asked first."""
    job, program = os.environ.get("SLURM_JOB_ID", ""), shutil.which("squeue")
    asked = _lines([program, "-h", "-j", job, "-O", "NumTasks"]) if job and program else []
    if asked and asked[0].strip().isdigit():
        return int(asked[0])
    below_mpirun = "SLURM_STEP_ID" in os.environ and launcher_kind() != "Slurm"
    given = os.environ.get("SLURM_NTASKS", "")
    return int(given) if job and given.isdigit() and not below_mpirun else 0


def _lines(command: list[str]) -> list[str]:
    """What a command prints; nothing where it cannot be run or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


def cupy_wheels() -> list[str]:
    """Installed distributions that all bring the module cupy."""
    names = {(dist.metadata["Name"] or "").lower() for dist in importlib.metadata.distributions()}
    return sorted(name for name in names if re.fullmatch(r"cupy(-cuda\d+x?|-rocm-.*)?", name))


def gpus_of_host() -> list[str]:
    """GPUs that nvidia-smi lists; none where there is no such program."""
    program = shutil.which("nvidia-smi")
    listed = _lines([program, "-L"]) if program else []
    return [line.strip() for line in listed if line.startswith("GPU ")]


def _blas() -> list[dict[str, Any]]:
    import numpy as np
    from threadpoolctl import threadpool_info

    # a first product loads what is loaded late
    np.ones((2, 2)) @ np.ones((2, 2))
    keys = ("internal_api", "version", "architecture", "num_threads")
    return [{key: pool.get(key) for key in keys} for pool in threadpool_info() if pool.get("user_api") == "blas"]


def _has_avx2() -> bool:
    """Whether a processor of this kind has fast kernels in any BLAS; only Linux says."""
    info = Path("/proc/cpuinfo")
    return info.is_file() and " avx2 " in info.read_text(encoding="utf-8", errors="replace")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _digest(recipe: str | None) -> str:
    if not recipe:
        return ""
    try:
        return hashlib.sha256(Path(recipe).read_bytes()).hexdigest()
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
