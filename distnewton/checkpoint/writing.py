"""Writing a checkpoint: each owner writes its part, then rank 0 the manifest; it gets its name only when complete."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from distnewton.checkpoint.blocks import block_table, tensors_of
from distnewton.checkpoint.files import make_folder, publish, write_tensors, write_text
from distnewton.checkpoint.folder import free_name, is_ours, part_of, remove
from distnewton.checkpoint.manifest import (
    FORMAT_VERSION,
    MANIFEST_FILE,
    CheckpointFacts,
    CheckpointManifest,
    Part,
    StateTree,
    identity_hash,
    render,
    writer,
)
from distnewton.checkpoint.state import State
from distnewton.errors import DistNewtonError, NumericalError, WriteError
from distnewton.guards.watchdog import watchdog
from distnewton.network.layout import ParameterLayout
from distnewton.outputs import sync_folder, writing
from distnewton.parallel.grid import ProcessGrid


def write_checkpoint(
    folder: Path, grid: ProcessGrid, layout: ParameterLayout, state: State, facts: CheckpointFacts
) -> Path:
    """Write a checkpoint of all ranks.

    Parameters
    ----------
    folder : Path
        Folder of the run's checkpoints.
    grid : ProcessGrid
        The ranks.
    layout : ParameterLayout
        This rank's blocks.
    state : State
        This rank's state.
    facts : CheckpointFacts
        Other contents of the manifest.

    Returns
    -------
    Path
        The checkpoint.

    Raises
    ------
    NumericalError
        If anything in the state is not finite; then nothing is written.
    WriteError
        If a rank cannot write; old checkpoints are untouched, and the new one is removed or named.

    Notes
    -----
    Collective. When it returns, the checkpoint is on disk under its name.
    """
    comm = grid.world
    with comm.collective_errors():
        if name := state.not_finite():
            raise NumericalError(f"{name} is not finite after iteration {facts.iteration}: no checkpoint is saved")
    path = Path(comm.broadcast_json(str(free_name(folder, facts.iteration)) if comm.rank == 0 else ""))
    part = part_of(path)
    with watchdog.patient():
        try:
            _write(part, path, grid, layout, state, facts)
        except DistNewtonError as error:
            left = ""
            if comm.rank == 0 and part.is_dir():
                left = f"; {part} is left" if not is_ours(part) else _removed(part)
            raise type(error)(f"{error}{comm.broadcast_json(left)}", collective=True) from None
    return path


def _removed(part: Path) -> str:
    """Remove an unfinished checkpoint; returns the error text if that fails too."""
    try:
        remove(part)
    except WriteError as error:
        return f"; {error}"
    return ""


def _write(
    part: Path, path: Path, grid: ProcessGrid, layout: ParameterLayout, state: State, facts: CheckpointFacts
) -> None:
    """Make folder, parts, manifest and name; each step starts when the previous one has succeeded on all ranks."""
    comm = grid.world
    written: dict[str, Any] | None = None
    with comm.collective_errors():
        if comm.rank == 0:
            if part.is_dir() and is_ours(part):
                remove(part)
            make_folder(part)
    with comm.collective_errors():
        # replicas of the grid hold the same state: the first writes for all
        if grid.replica == 0:
            written = write_tensors(part / f"part-{grid.rank:04d}.safetensors", tensors_of(state, layout))
    listed = comm.allgather_json([written, block_table(layout)])[: grid.size]
    with comm.collective_errors():
        if comm.rank == 0:
            parts = [Part(**file, blocks=table) for file, table in listed]
            write_text(part / MANIFEST_FILE, render(_manifest(grid, state, facts, parts)))
            publish(part, path)


def _manifest(grid: ProcessGrid, state: State, facts: CheckpointFacts, parts: list[Part]) -> CheckpointManifest:
    partition = grid.partition
    return CheckpointManifest(
        **facts.model_dump(),
        format_version=FORMAT_VERSION,
        writer=writer(),
        saved_at=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        config_sha256=identity_hash(facts.identity),
        widths=list(partition.widths),
        splits=list(partition.splits),
        speeds=list(partition.speeds),
        logical_blocks=list(partition.block_splits),
        files=list(partition.owners.columns) if partition.owners else [],
        files_of_ranks=[list(files) for files in partition.owners.files] if partition.owners else [],
        rows_per_unit=list(partition.all_rows_per_unit),
        parts=parts,
        state=StateTree.model_validate(state.tree()),
    )


def make_home(folder: Path) -> None:
    """Make the folder of checkpoints, and sync its name to disk.

    Raises
    ------
    WriteError
        If it cannot be made.
    """
    if not folder.is_dir():
        make_folder(folder)
        with writing(folder.parent):
            sync_folder(folder.parent)
