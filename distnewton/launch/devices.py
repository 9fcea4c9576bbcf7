"""Which device each rank computes on, and how sums of its arrays travel: one GPU a rank, by its number on the node."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

from distnewton.backend import Backend
from distnewton.errors import ConfigError
from distnewton.guards.hangs import ranges
from distnewton.guards.watchdog import watchdog
from distnewton.launch.gpu_aware import takes_gpu_buffers
from distnewton.parallel.collectives import Communicator
from distnewton.parallel.transport import Direct, Nccl, Staged, Transport

SHARE = 0.9
"""Of a GPU's free memory that its ranks' arrays may take together: libraries need some for themselves."""


class CudaGpus:
    """GPUs that cupy sees."""

    def count(self) -> tuple[int, str]:
        """How many this process sees, and why there are none."""
        from distnewton.backend.gpu import count_gpus

        return count_gpus()

    def name(self, number: int) -> str:
        """A GPU's address on the bus, the same for every process of the node."""
        from distnewton.backend.gpu import cupy_library

        return str(cupy_library().xp.cuda.runtime.deviceGetPCIBusId(number))

    def backend(self, number: int, dtype: str, n_sharing: int, *, tf32: bool) -> Backend:
        """Arrays on a GPU, in its share of the memory where several ranks compute there."""
        from distnewton.backend.gpu import CupyBackend

        return CupyBackend.on(number, dtype, SHARE / n_sharing, tf32=tf32)

    def nccl(self) -> tuple[Any, str]:
        """What :class:`~distnewton.parallel.transport.Nccl` is made of, or None and why."""
        from distnewton.backend.gpu import cupy_library

        cupy = cupy_library().xp
        from cupy.cuda import nccl

        return (cupy, "") if nccl.available else (None, "cupy finds no NCCL library: pip install nvidia-nccl-cu12")

    def mpi_reads_them(self) -> bool:
        """Whether MPI takes buffers in GPU memory, tried in a child process."""
        return takes_gpu_buffers()[0]


GPUS = CudaGpus()
"""Replaced in tests by arrays that only look like a GPU's."""


@dataclass(frozen=True)
class Device:
    """What a run computes on.

    Attributes
    ----------
    backend : Backend
        This rank's.
    names : list of str
        Of each rank: the device in words.
    transport : str
        How sums travel; empty on the CPU.
    notes : list of str
        What the user should know.
    """

    backend: Backend
    names: list[str]
    transport: str
    notes: list[str]


def choose_device(
    comm: Communicator, device: str, dtype: str, transport: str = "auto", *, tf32: bool = False
) -> Device:
    """The backend of each rank; tells the communicator how sums of its arrays travel.

    Parameters
    ----------
    comm : Communicator
        All ranks.
    device : str
        ``cpu``, ``gpu``, or ``auto``: a GPU if every rank has one.
    dtype : str
        float32 or float64.
    transport : str
        ``mpi``, ``nccl`` or ``auto``, which is MPI.
    tf32 : bool
        Whether a GPU may round the factors of float32 products to TF32.

    Returns
    -------
    Device
        The same notes on all ranks.

    Raises
    ------
    ConfigError
        On every rank alike: if a GPU is asked for and a rank has none, or NCCL is and does not fit, or TF32 is and a
        GPU has none.

    Notes
    -----
    Collective, unless the device is ``cpu``.
    """
    if device == "cpu":
        if transport == "nccl":
            raise ConfigError("run.comm = nccl sums arrays on GPUs: it needs run.device = gpu", collective=True)
        return _cpu(comm, dtype, [])
    with watchdog.patient():
        n_gpus, problem = GPUS.count()
        problems = comm.allgather_json(problem)
        without = [rank for rank, text in enumerate(problems) if text]
        if without:
            reason = f"{problems[without[0]]} (rank {ranges(without)})"
            return _cpu_instead(comm, device, dtype, transport, reason, tf32=tf32)
        number = comm.local_place()[0] % n_gpus
        gpu = f"{platform.node()} {GPUS.name(number)}"
        gpus = comm.allgather_json(gpu)
        most = max(gpus.count(name) for name in gpus)
        chosen = _transport(comm, transport, shared=most > 1)
        with comm.collective_errors():
            backend = GPUS.backend(number, dtype, gpus.count(gpu), tf32=tf32)
        comm.transport = chosen
        notes = [f"up to {most} ranks share a GPU, each with its part of the memory"] if most > 1 else []
        return Device(backend, comm.allgather_json(backend.description), chosen.name if comm.size > 1 else "", notes)


def _cpu_instead(
    comm: Communicator, device: str, dtype: str, transport: str, reason: str, *, tf32: bool
) -> Device:
    """The CPU where some ranks have no GPU, unless the user insists on one."""
    if device == "gpu":
        raise ConfigError(f"device = gpu, but {reason}; take cpu, or auto", collective=True)
    if transport == "nccl":
        raise ConfigError(f"run.comm = nccl needs GPUs, but {reason}", collective=True)
    return _cpu(comm, dtype, [f"no GPU, the CPU computes{', without TF32' if tf32 else ''}: {reason}"])


def _cpu(comm: Communicator, dtype: str, notes: list[str]) -> Device:
    backend = Backend.of(dtype)
    return Device(backend, [backend.description] * comm.size, "", notes)


def _transport(comm: Communicator, kind: str, *, shared: bool) -> Transport:
    """How sums travel; the same kind on all ranks."""
    if kind == "nccl":
        if shared:
            raise ConfigError(
                "run.comm = nccl: two ranks are on one GPU, which NCCL refuses; start at most a rank a GPU, or take "
                "run.comm = mpi",
                collective=True,
            )
        cupy, problem = GPUS.nccl()
        missing = [text for text in comm.allgather_json(problem) if text]
        if missing:
            raise ConfigError(f"run.comm = nccl, but {missing[0]}; or take run.comm = mpi", collective=True)
        return Nccl(cupy)
    if comm.size == 1:
        return Staged()
    # tried by one rank: its word counts for all, which use the same library
    aware = comm.broadcast_json(GPUS.mpi_reads_them() if comm.rank == 0 else None)
    return Direct() if aware else Staged()
