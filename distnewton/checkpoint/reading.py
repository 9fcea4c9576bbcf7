"""Reading the newest undamaged checkpoint, by any number of ranks on any grid."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from distnewton.backend import Array
from distnewton.checkpoint.blocks import GetSlice, VectorReader, read_factors
from distnewton.checkpoint.folder import list_checkpoints
from distnewton.checkpoint.manifest import (
    MANIFEST_FILE,
    PART_NAME,
    CheckpointManifest,
    Part,
    StateTree,
    parse,
    partition_of,
)
from distnewton.checkpoint.state import BlockKey, State
from distnewton.errors import ConfigError, DataError, MissingInputError
from distnewton.guards.watchdog import watchdog
from distnewton.network.layout import ParameterLayout
from distnewton.parallel.collectives import Communicator
from distnewton.parallel.grid import ProcessGrid


def choose_checkpoint(folder: Path, comm: Communicator) -> tuple[Path, CheckpointManifest, list[str]]:
    """Find the newest checkpoint that is undamaged to the last bit; reports and skips damaged ones.

    Parameters
    ----------
    folder : Path
        Folder of a run's checkpoints.
    comm : Communicator
        All ranks, which share the work of reading the files.

    Returns
    -------
    Path
        The checkpoint.
    CheckpointManifest
        Its manifest.
    list of str
        Problems of the skipped ones.

    Raises
    ------
    MissingInputError
        If there is none.
    DataError
        If all are damaged, or a newer version wrote one.

    Notes
    -----
    Collective.
    """
    notes: list[str] = []
    with watchdog.patient():
        for name, text in _candidates(folder, comm, notes):
            manifest = parse(text.encode(), name)
            problems = _verify(folder / name, manifest, comm)
            if not problems:
                return folder / name, manifest, notes
            notes += problems
    if notes:
        listed = "\n".join(f"  {n}" for n in notes)
        raise DataError(f"{folder} holds no undamaged checkpoint:\n{listed}", collective=True)
    raise MissingInputError(
        f"there is no checkpoint in {folder} to resume from; --resume=auto starts anew if there is none",
        collective=True,
    )


def _candidates(folder: Path, comm: Communicator, notes: list[str]) -> list[tuple[str, str]]:
    """Return names and manifests as rank 0 sees them, newest first; adds problems of damaged ones to the notes."""

    def look() -> list[tuple[str, str, str]]:
        stored = list_checkpoints(folder)
        for one in stored:
            if one.newer:
                raise DataError(one.problem)
        texts = ["" if one.problem else (one.path / MANIFEST_FILE).read_text(encoding="utf-8") for one in stored]
        return [(one.path.name, text, one.problem) for one, text in zip(stored, texts, strict=True)]

    seen = comm.on_first(look)
    notes += [problem for _, _, problem in seen if problem]
    return [(name, text) for name, text, problem in seen if not problem]


def _verify(path: Path, manifest: CheckpointManifest, comm: Communicator) -> list[str]:
    """Return the problems of a checkpoint's parts; each rank reads its share of them once."""
    problems = []
    for part in manifest.parts[comm.rank :: comm.size]:
        if problem := _problem_of(path, part):
            problems.append(problem)
    if comm.rank == 0:
        known = {part.name for part in manifest.parts}
        others = sorted({name for name in _names(path) if re.fullmatch(PART_NAME, name)} - known)
        problems += [f"{path.name}/{name} is a part that the manifest does not know" for name in others]
    return [problem for by_rank in comm.allgather_json(problems) for problem in by_rank]


def _names(path: Path) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        # reading its parts fails too, and reports this
        return []


def _problem_of(path: Path, part: Part) -> str:
    """Describe how a part differs from the manifest; empty if it does not."""
    file, name = path / part.name, f"{path.name}/{part.name}"
    try:
        with file.open("rb") as content:
            size = os.fstat(content.fileno()).st_size
            if size != part.n_bytes:
                return f"{name} has {size:,} bytes, not {part.n_bytes:,}"
            digest = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        return f"{name}: {error.strerror or error}"
    return "" if digest == part.sha256 else f"{name} is damaged: its hash is not the one in the manifest"


def read_state(path: Path, manifest: CheckpointManifest, grid: ProcessGrid, layout: ParameterLayout) -> State:
    """Read this rank's state from the slices of the parts that overlap its blocks.

    Parameters
    ----------
    path : Path
        The chosen checkpoint, of a network with these shapes.
    manifest : CheckpointManifest
        Its manifest.
    grid : ProcessGrid
        The ranks, of any number and with any splits.
    layout : ParameterLayout
        This rank's blocks.

    Returns
    -------
    State
        State, without factors if the logical blocks differ.

    Raises
    ------
    DataError
        If the parts contradict the manifest.

    Notes
    -----
    Collective.
    """
    numbers, state = grid.partition.numbers(grid.rank), State()
    comm, ledger = grid.world, grid.ledger
    with watchdog.patient(), comm.collective_errors(), ledger.phase("checkpoint_read"), ExitStack() as opened:
        parts = _Parts(path, manifest, opened)
        reader = VectorReader(layout, np.dtype(manifest.dtype), [part.blocks for part in manifest.parts])
        try:
            before = partition_of(manifest)
            same_blocks = before.cut_of_blocks == grid.partition.cut_of_blocks
            holders = {number: before.holder(number) for number in numbers} if same_blocks else None
            state = _build(manifest.state, "", reader, parts, holders)
        except parts.errors as error:
            raise DataError(f"{path} does not match its manifest: {error}") from None
    return state


def _build(
    tree: StateTree, prefix: str, reader: VectorReader, parts: _Parts, holders: Mapping[int, int] | None
) -> State:
    """Build a state and its parts; ``holders`` maps own blocks to files with their factors, None if blocks differ."""
    vectors = {name: reader.read(f"{prefix}{name}", parts.tensors) for name in tree.vectors}
    factors: dict[str, dict[BlockKey, Array]] = {name: {} for name in tree.factors}
    for name, i_part in product(factors, sorted(set((holders or {}).values()))):
        names, tensors = parts.names(i_part), parts.whole(i_part)
        factors[name] |= read_factors(f"{prefix}{name}", holders or {}, names, tensors)
    inside = {name: _build(part, f"{prefix}{name}/", reader, parts, holders) for name, part in tree.parts.items()}
    return State(dict(tree.numbers), vectors, factors, inside, same_blocks=holders is not None)


class _Parts:
    """Parts of a checkpoint, each opened at its first use."""

    def __init__(self, path: Path, manifest: CheckpointManifest, opened: ExitStack) -> None:
        from safetensors import SafetensorError

        self.errors: tuple[type[Exception], ...] = (SafetensorError, OSError, ValueError, ConfigError)
        self._path, self._manifest, self._opened = path, manifest, opened
        self._files: dict[int, Any] = {}

    def _file(self, i_part: int) -> Any:
        from safetensors import safe_open

        if i_part not in self._files:
            name = self._path / self._manifest.parts[i_part].name
            self._files[i_part] = self._opened.enter_context(safe_open(name, framework="numpy"))
        return self._files[i_part]

    def tensors(self, i_part: int) -> GetSlice:
        """Return the function from a tensor's name to its slices, for a part."""
        get_slice: Callable[[str], Any] = self._file(i_part).get_slice
        return get_slice

    def whole(self, i_part: int) -> Callable[[str], Array]:
        """Return the function from a tensor's name to the tensor, for a part."""
        get_tensor: Callable[[str], Array] = self._file(i_part).get_tensor
        return get_tensor

    def names(self, i_part: int) -> dict[str, str]:
        """Map names of a part's tensors without the suffix for their order to full names."""
        return {name.removesuffix(".T"): name for name in self._file(i_part).keys()}  # noqa: SIM118
