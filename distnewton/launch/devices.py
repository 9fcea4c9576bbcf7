"""Choose the device of each rank, one GPU a rank by its number on the node, and how arrays are summed."""

from __future__ import annotations

import platform
from typing import Any

from distnewton.backend import Backend
from distnewton.errors import ConfigError
from distnewton.frozen import frozen
from distnewton.guards.hangs import ranges
from distnewton.guards.watchdog import watchdog
from distnewton.launch.gpu_aware import takes_gpu_buffers
from distnewton.parallel.collectives import Communicator
from distnewton.parallel.transport import Direct, Nccl, Staged, Transport

SHARE = 0.9
"""Share of a GPU's free memory that its ranks' arrays may take together; libraries need the rest."""


class CudaGpus:
    """GPUs that cupy sees."""

    def count(self) -> tuple[int, str]:
        """Count the GPUs that this process sees, and say why if there are none."""
        from distnewton.backend.gpu import count_gpus

        return count_gpus()

    def name(self, number: int) -> str:
        """Return a GPU's bus address, which is the same for every process of the node."""
        from distnewton.backend.gpu import cupy_library

        return str(cupy_library().xp.cuda.runtime.deviceGetPCIBusId(number))

    def backend(self, number: int, dtype: str, n_sharing: int, *, tf32: bool) -> Backend:
        """Make the backend of a GPU, with a share of its memory if several ranks use it."""
        from distnewton.backend.gpu import CupyBackend

        return CupyBackend.on(number, dtype, SHARE / n_sharing, tf32=tf32)

    def nccl(self) -> tuple[Any, str]:
        """Return the library that :class:`~distnewton.parallel.transport.Nccl` takes, or None and the reason."""
        from distnewton.backend.gpu import cupy_library

        cupy = cupy_library().xp
        from cupy.cuda import nccl

        return (cupy, "") if nccl.available else (None, "cupy finds no NCCL library: pip install nvidia-nccl-cu12")

    def mpi_reads_them(self) -> bool:
        """Test in a child process whether MPI takes buffers in GPU memory."""
        return takes_gpu_buffers()[0]


GPUS = CudaGpus()
"""The GPUs; tests replace them by arrays that only look like a GPU's."""


@frozen
class Device:
    """The devices of a run.

    Attributes
    ----------
    backend : Backend
        Backend of this rank.
    names : list of str
        Device of each rank, in words.
    transport : str
        How arrays on GPUs are summed; empty on the CPU.
    notes : list of str
        Notes to the user.
    """

    backend: Backend
    names: list[str]
    transport: str
    notes: list[str]


def choose_device(
    comm: Communicator, device: str, dtype: str, transport: str = "auto", *, tf32: bool = False
) -> Device:
    """Choose the device of each rank, and set how the communicator sums its arrays.

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
        On every rank alike: if the user requires a GPU and a rank has none, NCCL and it cannot be used, or TF32 and a
        GPU lacks it.

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
    """Fall back to the CPU if some ranks have no GPU, unless the user requires one."""
    if device == "gpu":
        raise ConfigError(f"device = gpu, but {reason}; use cpu or auto", collective=True)
    if transport == "nccl":
        raise ConfigError(f"run.comm = nccl needs GPUs, but {reason}", collective=True)
    return _cpu(comm, dtype, [f"no GPU, the CPU computes{', without TF32' if tf32 else ''}: {reason}"])


def _cpu(comm: Communicator, dtype: str, notes: list[str]) -> Device:
    backend = Backend.of(dtype)
    return Device(backend, [backend.description] * comm.size, "", notes)


def _transport(comm: Communicator, kind: str, *, shared: bool) -> Transport:
    """Choose how arrays are summed; the same kind on all ranks."""
    if kind == "nccl":
        if shared:
            raise ConfigError(
                "run.comm = nccl: two ranks are on one GPU, which NCCL refuses; start at most one rank for each GPU, "
                "or use run.comm = mpi",
                collective=True,
            )
        cupy, problem = GPUS.nccl()
        missing = [text for text in comm.allgather_json(problem) if text]
        if missing:
            raise ConfigError(f"run.comm = nccl, but {missing[0]}; or use run.comm = mpi", collective=True)
        return Nccl(cupy)
    if comm.size == 1:
        return Staged()
    # one rank tests for all, since they use the same library
    aware = comm.broadcast_json(GPUS.mpi_reads_them() if comm.rank == 0 else None)
    return Direct() if aware else Staged()
