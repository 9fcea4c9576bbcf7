"""Check whether MPI sends messages directly between GPUs."""

from __future__ import annotations

from distnewton.cluster.doctor.findings import CheckResult, ok, slow
from distnewton.launch.gpu_aware import takes_gpu_buffers


def check_gpu_aware(n_gpus: int, wheels: list[str], n_ranks: int) -> list[CheckResult]:
    """Check that MPI takes GPU buffers, if several ranks have GPUs."""
    if not n_gpus or not wheels or n_ranks == 1:
        return []
    aware, why = takes_gpu_buffers()
    if aware:
        return [ok("GPU MPI", f"GPU-aware: {why}")]
    advice = "messages go through host memory, twice the copies: load a CUDA-aware MPI, or use NCCL"
    return [slow("GPU MPI", f"not GPU-aware: {why}", advice)]
