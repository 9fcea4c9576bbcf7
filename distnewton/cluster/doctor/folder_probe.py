"""Check that all ranks see one and the same run folder, writable, with atomic rename and with room."""

from __future__ import annotations

import os
import platform
import secrets
import shutil
from pathlib import Path

from distnewton.cluster.doctor.findings import CheckResult, ok, problem
from distnewton.parallel.collectives import Communicator

ROOM_BYTES = 2**30
"""Bytes that should be free: three models of 90 million variables in float32."""


def check_folder(comm: Communicator, path: Path) -> CheckResult:
    """Try the folder for runs from every rank; a missing folder is created, and removed again (collective)."""
    token = comm.broadcast_json(secrets.token_hex(8) if comm.rank == 0 else None)
    probe, made, trouble = path / f".distnewton-doctor-{token}", _missing(path) if comm.rank == 0 else [], ""
    if comm.rank == 0:
        try:
            probe.mkdir(parents=True)
            (probe / "token").write_text(token, encoding="utf-8")
        except OSError as error:
            trouble = f"cannot be written: {error.strerror or error}"
    troubles = comm.allgather_json(trouble)
    if not any(troubles):
        troubles = comm.allgather_json(_try(probe, token, comm.rank))
        seen = len(list(probe.glob("rank-*.txt"))) if comm.rank == 0 else 0
        comm.barrier()
        free = shutil.disk_usage(probe).free if comm.rank == 0 else 0
    else:
        seen, free = comm.size, ROOM_BYTES
    if comm.rank == 0:
        _clean(probe, made)
    seen, free = comm.broadcast_json([seen, free])
    hosts = comm.allgather_json(platform.node())
    return _judge(path, troubles, hosts, seen, free)


def _judge(path: Path, troubles: list[str], hosts: list[str], seen: int, free: int) -> CheckResult:
    bad, folder = {rank: trouble for rank, trouble in enumerate(troubles) if trouble}, path.absolute()
    if bad:
        kinds = dict.fromkeys(bad.values())
        parts = [f"{kind} ({', '.join(f'{hosts[r]}, rank {r}' for r in bad if bad[r] == kind)})" for kind in kinds]
        advice = "choose a --run-dir on a file system that all nodes mount, and that you may write"
        return problem("folder", f"{folder}: {'; '.join(parts)}", advice)
    if seen < len(hosts):
        advice = "it is another folder on some hosts: choose a --run-dir on a shared file system"
        return problem("folder", f"{folder}: rank 0 sees the files of {seen} of {len(hosts)} ranks", advice)
    if free < ROOM_BYTES:
        advice = "free some space, or choose a --run-dir on another file system"
        return problem("folder", f"{folder} has {free / 1e6:.0f} MB left", advice)
    return ok("folder", f"{folder} is seen and written by all ranks, {free / 1e9:.1f} GB free")


def _try(probe: Path, token: str, rank: int) -> str:
    """Say what keeps this rank from reading, writing or renaming; empty if nothing does."""
    try:
        if (probe / "token").read_text(encoding="utf-8") != token:
            return "holds another content"
    except FileNotFoundError:
        return "is not the folder that rank 0 sees"
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    try:
        part = probe / f"rank-{rank}.part"
        part.write_text(token, encoding="utf-8")
        os.replace(part, probe / f"rank-{rank}.txt")
    except OSError as error:
        return f"cannot be written: {error.strerror or error}"
    return ""


def _missing(path: Path) -> list[Path]:
    return [folder for folder in (path, *path.parents) if not folder.exists()]


def _clean(probe: Path, made: list[Path]) -> None:
    """Remove the probe, and empty folders that were created for it."""
    if probe.is_dir():
        for file in probe.iterdir():
            file.unlink()
        probe.rmdir()
    for folder in made:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
