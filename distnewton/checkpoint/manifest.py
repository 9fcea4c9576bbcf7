"""The manifest of a checkpoint, written last; a folder without a valid one is no checkpoint.

It is JSON in one canonical form, with its own hash, which reveals any changed byte. Every later format keeps
``format_version``, ``writer``, the canonical form and the hash: they distinguish a newer checkpoint from a damaged one.
"""

import hashlib
import json
import re
from typing import Annotated, Any

from pydantic import Field, ValidationError

from distnewton.errors import DataError
from distnewton.files import parse_json
from distnewton.options import Count, Digest, Options
from distnewton.packages import version
from distnewton.parallel.cuts import FileOwners
from distnewton.parallel.partition import Partition

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
MAX_BYTES = 10_000_000
"""Limit of a manifest's size, for reading and writing."""
PART_NAME = r"part-\d{4,}\.safetensors"

_StateName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class NewerFormatError(DataError):
    """A manifest of a format that this version does not know."""


class Part(Options):
    """A file of the checkpoint: the blocks of one rank.

    Attributes
    ----------
    name : str
        Name without folder; other forms are refused, which prevents opening files outside.
    n_bytes : int
        Size of the file.
    sha256 : str
        Hash of the file.
    blocks : list of list of int
        Block table in global units: layer, half-open range of inputs, half-open range of outputs.
    """

    name: Annotated[str, Field(pattern=f"^{PART_NAME}$")]
    n_bytes: Count
    sha256: Digest
    blocks: list[Annotated[list[Count], Field(min_length=5, max_length=5)]]


class StateTree(Options):
    """Numbers of a state and names of its arrays; see :class:`~distnewton.checkpoint.state.State`."""

    numbers: dict[str, Any]
    vectors: list[_StateName]
    factors: list[_StateName]
    parts: "dict[_StateName, StateTree]"


class CheckpointFacts(Options):
    """Facts that a run records about a checkpoint besides its state; the same on all ranks.

    Attributes
    ----------
    run : str
        Identifier of the run, kept when it resumes.
    sequence : int
        Number of the checkpoint in its run; the highest is the newest.
    iteration : int
        Iterations done; the history has one more record.
    identity : dict
        Facts that a resumed run must share: network, data, method, seed and dtype.
    dtype : str
        Type of the variables.
    record : dict
        Record of the iteration, as in ``metrics.jsonl``.
    metric : float or None
        Main metric of the task at this point.
    """

    run: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    sequence: Count
    iteration: Count
    identity: dict[str, Any]
    dtype: str
    record: dict[str, Any]
    metric: float | None


class CheckpointManifest(CheckpointFacts):
    """Description of a checkpoint: one attribute for each key of the file, whose format is flat.

    Attributes
    ----------
    format_version, writer : int, str
        Format, and the program that wrote it.
    saved_at : str
        Local time of writing.
    config_sha256 : str
        Hash of the identity.
    widths, splits, rows_per_unit : list of int
        Global shapes, and their division into groups.
    speeds : list of float
        Relative speeds of unequal ranks; empty: all equal.
    logical_blocks : list of int
        Splits of the logical blocks; empty: those of the ranks.
    files, files_of_ranks : list of int, list of (list of int)
        Features of each file by columns, and the files of each rank; empty: one file has all features.
    parts : list of Part
        Files by rank.
    state : StateTree
        Solver state other than arrays.
    """

    format_version: int
    writer: str
    saved_at: str
    config_sha256: Digest
    widths: list[int]
    splits: list[int]
    speeds: list[float] = Field([])
    logical_blocks: list[int] = Field([])
    files: list[Count] = Field([])
    files_of_ranks: list[Annotated[list[Count], Field(min_length=2, max_length=2)]] = Field([])
    rows_per_unit: list[int]
    parts: list[Part]
    state: StateTree


def partition_of(manifest: CheckpointManifest) -> Partition:
    """Make the partition of a manifest; raises :class:`~distnewton.errors.ConfigError` if it is impossible."""
    files = tuple((first, last) for first, last in manifest.files_of_ranks)
    return Partition(
        tuple(manifest.widths),
        tuple(manifest.splits),
        tuple(manifest.rows_per_unit),
        speeds=tuple(manifest.speeds),
        block_splits=tuple(manifest.logical_blocks),
        owners=FileOwners(tuple(manifest.files), files) if manifest.files else None,
    )


def writer() -> str:
    """Return the name and version of this program."""
    return f"distnewton {version('distnewton')}"


def identity_hash(identity: dict[str, Any]) -> str:
    """Hash the facts that a resumed run must share."""
    return hashlib.sha256(_canonical(identity)).hexdigest()


def render(manifest: CheckpointManifest) -> str:
    """Return a manifest's canonical text; refuses one too large to be read."""
    text = _with_hash(manifest.model_dump())
    if len(text) > MAX_BYTES:
        raise DataError(f"the manifest of a checkpoint has {len(text):,} bytes, but at most {MAX_BYTES:,} are "
                        "allowed: there are too many ranks or labels")  # fmt: skip
    return text.decode()


def parse(data: bytes, name: str) -> CheckpointManifest:
    """Read a manifest and detect any damage.

    Parameters
    ----------
    data : bytes
        Content of the file.
    name : str
        Name of the file, for messages.

    Returns
    -------
    CheckpointManifest

    Raises
    ------
    NewerFormatError
        If a newer version wrote it.
    DataError
        If it is damaged, or not ours.
    """
    values = _intact_values(data, name)
    number = values.get("format_version")
    if isinstance(number, int) and number > FORMAT_VERSION:
        raise NewerFormatError(
            f"{name} is of format {number}, written by {values.get('writer')!r}; this is {writer()}, which reads up to "
            f"format {FORMAT_VERSION}: update distnewton"
        )
    try:
        manifest = CheckpointManifest.model_validate(values)
    except (ValidationError, RecursionError) as error:
        raise DataError(f"{name} is not a manifest of distnewton: {_short(error)}") from None
    if len({part.name for part in manifest.parts}) < len(manifest.parts):
        raise DataError(f"{name} names a part twice")
    return manifest


def _intact_values(data: bytes, name: str) -> dict[str, Any]:
    """Return the values of a manifest after checking its hash."""
    if len(data) > MAX_BYTES:
        raise DataError(f"{name} has more than {MAX_BYTES:,} bytes")
    try:
        values = parse_json(data)
        intact = isinstance(values, dict) and _with_hash({k: v for k, v in values.items() if k != "sha256"}) == data
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} is damaged: {_short(error)}") from None
    if not intact:
        raise DataError(f"{name} is damaged: its hash does not match its content")
    return {key: value for key, value in values.items() if key != "sha256"}


def _with_hash(values: dict[str, Any]) -> bytes:
    """Return the canonical text, with the hash of the values."""
    digest = hashlib.sha256(_canonical(values)).hexdigest()
    return _canonical({**values, "sha256": digest})


def _canonical(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=True) + "\n").encode()


def _short(error: Exception) -> str:
    """Return an error's text on one line."""
    return re.sub(r"\s+", " ", str(error))[:200]
