"""Views of the set-up on each rank, as plain values that the checks compare."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distnewton.cluster.launchers import THREAD_VARIABLES
from distnewton.config.recipes import locate_recipe
from distnewton.frozen import frozen
from distnewton.launch.deadline import output_of
from distnewton.launch.startup import launcher_kind
from distnewton.launch.threads import blas_libraries, own_cores
from distnewton.runs.run_folder import package_versions

VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
_SLURM = ("SLURM_JOB_ID", "SLURM_JOB_NUM_NODES", "SLURM_CPUS_PER_TASK")


@frozen
class LaunchView:
    """What rank 0 sees of the launch."""

    size: int  # ranks that MPI connects
    # MPI whose launcher this is, and first line of the MPI library's version; empty without MPI
    launcher: str
    library: str
    slurm: dict[str, str]  # variables of the Slurm job; empty outside of one
    n_tasks: int  # tasks of the Slurm job; 0 outside of one, or if unknown
    fast_cpu: bool  # whether the processor has AVX2


@frozen
class RankView:
    """What a rank sees of its set-up."""

    rank: int  # number of the rank
    host: str  # name of its host
    cores: list[int]  # cores that the process may use
    n_threads: int  # BLAS threads that training would take
    blas: list[dict[str, Any]]  # BLAS libraries: ``internal_api, version, architecture, num_threads``
    variables: dict[str, str]  # environment variables on numbers of threads and on visible GPUs
    versions: dict[str, str]  # versions of Python, of packages and of the MPI library
    recipe: str  # digest of the recipe; empty without one
    # installed wheels of cupy, and GPUs that the host shows
    cupy: list[str]
    gpus: list[str]

    @property
    def visible_gpus(self) -> str:
        """Value of CUDA_VISIBLE_DEVICES, or ``all``."""
        return self.variables.get(VISIBLE_GPUS, "all")


def view_launch(size: int, library: str) -> LaunchView:
    """Collect the view of rank 0, given the number of ranks and the MPI library."""
    return LaunchView(size, launcher_kind(), library, _environment(_SLURM), _job_tasks(), _has_avx2())


def view_rank(rank: int, library: str, n_threads: int, recipe: str | None) -> RankView:
    """Collect the view of this rank.

    Parameters
    ----------
    rank : int
        Number of this rank.
    library : str
        First line of the MPI library's version; empty without MPI.
    n_threads : int
        BLAS threads that training would take.
    recipe : str or None
        File to compare between the ranks.

    Returns
    -------
    RankView
    """
    return RankView(
        rank,
        platform.node(),
        sorted(own_cores()),
        n_threads,
        blas_libraries(),
        _environment((*THREAD_VARIABLES, VISIBLE_GPUS)),
        {"Python": sys.version.split()[0], "MPI": library, **package_versions()},
        _digest(recipe),
        cupy_wheels(),
        gpus_of_host(),
    )


def _environment(names: Sequence[str]) -> dict[str, str]:
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def _job_tasks() -> int:
    """Count the tasks of the job; ask Slurm first, because under mpirun SLURM_NTASKS counts its helpers, one a node."""
    job = os.environ.get("SLURM_JOB_ID", "")
    asked = output_of(["squeue", "-h", "-j", job, "-O", "NumTasks"]).split() if job else []
    if asked and asked[0].isdigit():
        return int(asked[0])
    below_mpirun = "SLURM_STEP_ID" in os.environ and launcher_kind() != "Slurm"
    given = os.environ.get("SLURM_NTASKS", "")
    return int(given) if job and given.isdigit() and not below_mpirun else 0


def cupy_wheels() -> list[str]:
    """List the installed distributions that provide the module cupy."""
    names = {(dist.metadata["Name"] or "").lower() for dist in importlib.metadata.distributions()}
    return sorted(name for name in names if re.fullmatch(r"cupy(-cuda\d+x?|-rocm-.*)?", name))


def gpus_of_host() -> list[str]:
    """List the GPUs that nvidia-smi shows; empty if there is no such program."""
    return [line.strip() for line in output_of(["nvidia-smi", "-L"]).splitlines() if line.startswith("GPU ")]


def _has_avx2() -> bool:
    """Whether the processor has AVX2, for which any BLAS has fast kernels; known only on Linux."""
    info = Path("/proc/cpuinfo")
    return info.is_file() and " avx2 " in info.read_text(encoding="utf-8", errors="replace")


def _digest(recipe: str | None) -> str:
    if not recipe:
        return ""
    try:
        return hashlib.sha256(locate_recipe(recipe).read_bytes()).hexdigest()
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
