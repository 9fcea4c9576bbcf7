"""The format of a store: a folder with a manifest, the labels, and the features in blocks ordered by columns.

================  =====================================================================================================
``store.json``    the manifest, written last: sizes, source, blocks, checksums (:class:`StoreManifest`)
``labels.npy``    float64 or text, of shape (n_samples,), or float64 of (n_samples, n_targets)
``features.bin``  the consecutive blocks, little-endian
``sums.bin``      a uint32 for each page of the features (:mod:`distnewton.checksums`), checked when reading
================  =====================================================================================================

A *dense* block contains a range of columns for a range of samples, column by column: the array (n_columns, n_rows) in C
order. A *sparse* block contains all stored values of a range of samples in four arrays: ``columns`` (uint32, those that
occur, ascending), ``starts`` (uint32, of n_columns + 1), ``values``, and ``rows`` (uint16, counted from the block's
first sample). A rank's features are contiguous in both, so it reads only one range of each array. The values of a block
have the narrowest lossless type: uint8, float32 or float64. Blocks begin at multiples of 8 bytes.

Reasons for blocks of samples: text is read once, with the memory of one block; a whole file in column order would need
a second pass over the disk. Row numbers in a block are below 65,536 and take 2 bytes. The conversion back to rows,
which the networks need, stays in the processor's cache.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from distnewton.checksums import PAGE_BYTES
from distnewton.data.columns import StoredColumns
from distnewton.data.store import MANIFEST_FILE
from distnewton.errors import DataError, MissingInputError
from distnewton.files import parse_json
from distnewton.options import Count, Digest, Options

FORMAT_NAME, VERSION = "distnewton store", 3
"""2: without ``sums.bin``."""
LABELS_FILE, FEATURES_FILE, SUMS_FILE = "labels.npy", "features.bin", "sums.bin"
OWN_FILES = (MANIFEST_FILE, LABELS_FILE, FEATURES_FILE, SUMS_FILE)
MAX_ROWS = 1 << 16
ALIGNMENT = 8
ITEMSIZES = {"uint8": 1, "float32": 4, "float64": 8}
_MAX_MANIFEST_BYTES = 1 << 28

Positive = Annotated[int, Field(ge=1)]
ValueType = Literal["uint8", "float32", "float64"]


class Block(Options):
    """A range of samples at an offset in the file."""

    first_row: Count
    n_rows: Annotated[int, Field(ge=1, le=MAX_ROWS)]
    dtype: ValueType
    offset: Count
    sha256: Digest


class DenseBlock(Block):
    """Columns from ``first_column`` of the samples from ``first_row``, column by column."""

    first_column: Count
    n_columns: Positive

    @property
    def n_bytes(self) -> int:
        """Bytes in the file, without padding to the next block."""
        return self.n_rows * self.n_columns * ITEMSIZES[self.dtype]


class SparseBlock(Block):
    """Stored values of the samples from ``first_row``: ``n_values`` numbers in ``n_columns`` columns that occur."""

    n_columns: Count
    n_values: Annotated[int, Field(ge=0, lt=2**31)]

    @property
    def n_bytes(self) -> int:
        """Bytes in the file, without padding to the next block."""
        return 4 * (2 * self.n_columns + 1) + self.n_values * (2 + ITEMSIZES[self.dtype])


def sum_of(path: Path) -> dict[str, Any]:
    """Return size and hash of a file, as in the manifest."""
    with path.open("rb") as file:
        return {"n_bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


class FileSum(Options):
    """A file of the store."""

    n_bytes: Count
    sha256: Digest


class SourceFile(FileSum):
    """A file that was converted."""

    name: str


class StoreManifest(Options):
    """Contents of a store; the fields of :class:`~distnewton.data.description.Description` have the same meaning.

    Each attribute is a key in the file ``store.json``.
    """

    name: str
    source_format: str
    source_files: list[SourceFile]
    writer: str
    n_samples: Positive
    n_features: Positive
    n_nonzeros: Count
    sparse: bool
    n_ignored_values: Count
    notes: list[str]
    image_shape: Annotated[tuple[Positive, Positive, Positive], Field(strict=False)] | None
    rounded_to_float32: bool
    labels: FileSum
    features_bytes: Count
    sums_bytes: Count = 0
    fingerprints: dict[str, Count] = Field({})
    dense_blocks: list[DenseBlock]
    sparse_blocks: list[SparseBlock]
    columns: StoredColumns | None = None

    @property
    def blocks(self) -> list[DenseBlock | SparseBlock]:
        """All blocks, in the order of the file."""
        return [*self.dense_blocks, *self.sparse_blocks]


def padded(n_bytes: int) -> int:
    """Return the bytes of a block with padding to the next one."""
    return -(-n_bytes // ALIGNMENT) * ALIGNMENT


def manifest_text(manifest: StoreManifest) -> str:
    """Return a manifest's text, with its own checksum.

    Parameters
    ----------
    manifest : StoreManifest
        Manifest of a whole store.

    Returns
    -------
    str
    """
    content = manifest.model_dump()
    head = {"format": FORMAT_NAME, "version": VERSION, "checksum": _checksum(content)}
    return json.dumps({**head, "content": content}, indent=1) + "\n"


def read_manifest(folder: Path) -> StoreManifest:
    """Read and check the manifest of a store.

    Parameters
    ----------
    folder : Path
        The store.

    Returns
    -------
    StoreManifest

    Raises
    ------
    MissingInputError
        If it cannot be read.
    DataError
        If the store is incomplete or of a newer version, or its manifest is inconsistent.
    """
    path = folder / MANIFEST_FILE
    content = _content(path, _read_json(path))
    try:
        manifest = StoreManifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}: {where}: {first['msg']}; convert the data again") from None
    if problem := _problem(manifest):
        raise DataError(f"{path}: {problem}; convert the data again")
    return manifest


def _content(path: Path, tree: Any) -> Any:
    """Return a manifest's content after checking that it is undamaged, and of this or an older version."""
    if not isinstance(tree, dict) or tree.get("format") != FORMAT_NAME or not isinstance(tree.get("version"), int):
        raise DataError(f"{path}: is not the manifest of a store: its format is not {FORMAT_NAME!r}")
    if tree["version"] > VERSION:
        raise DataError(
            f"{path}: is a store of version {tree['version']}, this program reads up to {VERSION}; update distnewton"
        )
    content = tree.get("content")
    if (
        set(tree) != {"format", "version", "checksum", "content"}
        or tree["checksum"] != _checksum(content)
        or (isinstance(content, dict) and ("sums_bytes" in content) != (tree["version"] > 2))
    ):
        raise DataError(f"{path}: was changed or damaged: its checksum does not match; convert the data again")
    return content


def _read_json(path: Path) -> Any:
    """Read the JSON of a manifest, or raise an error that says why there is none."""
    folder = path.parent
    try:
        if path.stat().st_size > _MAX_MANIFEST_BYTES:
            raise DataError(f"{path}: is too large for a manifest; convert the data again")
        return parse_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        if not folder.exists():
            raise MissingInputError(f"store {folder}: does not exist") from None
        raise DataError(
            f"{folder}: is an incomplete store: {MANIFEST_FILE}, written last, is missing; convert the data again"
        ) from None
    except OSError as error:
        raise MissingInputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise DataError(f"{path}: is not the manifest of a store ({error}); convert the data again") from None


def _checksum(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _problem(manifest: StoreManifest) -> str:
    """Describe an inconsistency of the manifest; empty if there is none."""
    offset = 0
    for block in manifest.blocks:
        if block.offset != offset:
            return f"a block begins at byte {block.offset}, but the previous one ends at {offset}"
        offset += padded(block.n_bytes)
    if offset != manifest.features_bytes:
        return f"the blocks take {offset} bytes, but the features {manifest.features_bytes}"
    n_pages = -(-manifest.features_bytes // PAGE_BYTES)
    if manifest.sums_bytes not in (0, 4 * n_pages):
        return f"the sums take {manifest.sums_bytes} bytes, not 4 for each of {n_pages} pages"
    if manifest.columns is not None and manifest.columns.n_features != manifest.n_features:
        return f"the columns become {manifest.columns.n_features} features, but the store has {manifest.n_features}"
    others, kinds = (manifest.dense_blocks, "sparse features have dense") if manifest.sparse else (
        manifest.sparse_blocks, "dense features have sparse"
    )  # fmt: skip
    if others:
        return f"{kinds} blocks"
    return _sparse_problem(manifest) if manifest.sparse else _dense_problem(manifest)


def _sparse_problem(manifest: StoreManifest) -> str:
    """Describe missing samples or values in sparse blocks."""
    blocks = manifest.sparse_blocks
    if sum(block.n_values for block in blocks) != manifest.n_nonzeros:
        return "the blocks do not hold as many values as the store"
    return _gap([(block.first_row, block.n_rows) for block in blocks], manifest.n_samples)


def _dense_problem(manifest: StoreManifest) -> str:
    """Describe missing columns in dense blocks, or missing samples of a group of columns."""
    rows_of: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for block in manifest.dense_blocks:
        rows_of.setdefault((block.first_column, block.n_columns), []).append((block.first_row, block.n_rows))
    gaps = (_gap(rows, manifest.n_samples) for rows in rows_of.values())
    return _gap(list(rows_of), manifest.n_features) or next((gap for gap in gaps if gap), "")


def _gap(ranges: list[tuple[int, int]], n: int) -> str:
    """Describe where ranges (first, length) are not contiguous from 0 to n; empty if they are."""
    at = 0
    for first, length in ranges:
        if first != at:
            return f"a block begins at {first}, expected {at}"
        at += length
    return "" if at == n else f"the blocks reach to {at} of {n}"
