"""Writing a store: blocks in order of arrival, the manifest last; it gets its name when all is on disk."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from distnewton.checksums import PAGE_BYTES, page_sums
from distnewton.data.columns import StoredColumns
from distnewton.data.description import Description
from distnewton.data.fingerprint import fingerprint
from distnewton.data.store import MANIFEST_FILE
from distnewton.data.store.layout_on_disk import (
    FEATURES_FILE,
    LABELS_FILE,
    MAX_ROWS,
    OWN_FILES,
    SUMS_FILE,
    DenseBlock,
    FileSum,
    SourceFile,
    SparseBlock,
    StoreManifest,
    ValueType,
    manifest_text,
    padded,
    sum_of,
)
from distnewton.errors import CreateError, WriteError
from distnewton.files import real_path
from distnewton.outputs import check_folder, sync_folder, writing

_CHECKED_FIRST = 4096

Values = NDArray[Any]


def check_target(target: Path, *, overwrite: bool, files: Iterable[Path] = ()) -> None:
    """Refuse a path where no store can be made.

    Parameters
    ----------
    target : Path
        The store's folder.
    overwrite : bool
        Whether to replace a store of that name.
    files : iterable of Path
        Files from which it is made.

    Raises
    ------
    CreateError
        If something there must stay, or files cannot be created there.
    """
    check_folder(target.with_name(f"{target.name}.part"))
    is_store = _is_store(target)
    if target.exists() and not (overwrite and is_store):
        advice = "--overwrite replaces it" if is_store else "it is not a store: choose another name"
        raise CreateError(f"{target}: exists; {advice}")
    if any(real_path(target) in real_path(path).parents for path in files):
        raise CreateError(f"{target}: contains the data to convert; choose another name")


class StoreWriter:
    """A store being written, in ``TARGET.part``; a context manager that removes it after an error.

    Parameters
    ----------
    target : Path
        The store's folder.
    float32 : bool
        Whether to round values to float32.
    overwrite : bool
        Whether to replace a store of that name, and to remove the rest of an earlier attempt.

    Attributes
    ----------
    n_bytes : int
        Bytes written so far.

    Raises
    ------
    CreateError
        If the folder cannot be created, or exists.
    """

    def __init__(self, target: Path, *, float32: bool = False, overwrite: bool = False) -> None:
        self.target, self.part = target, target.with_name(f"{target.name}.part")
        self.n_bytes = 0
        self._float32, self._overwrite = float32, overwrite
        self._blocks: list[DenseBlock | SparseBlock] = []
        self._claim()
        self._file = (self.part / FEATURES_FILE).open("wb")
        self._sums: list[Values] = []
        self._unsummed = b""
        self._fingerprints = {"float32": 0, "float64": 0}

    def _claim(self) -> None:
        """Create the folder for writing."""
        try:
            if self._overwrite and self.part.is_dir() and _only_own(self.part):
                shutil.rmtree(self.part)
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self.part.mkdir()
        except FileExistsError:
            raise CreateError(
                f"{self.part}: exists because another conversion is running or was cut off; if none is running, remove "
                "that folder or use --overwrite"
            ) from None
        except OSError as error:
            raise CreateError(f"cannot create {self.part}: {error.strerror or error}") from None

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if error is not None:
            with suppress(OSError):
                shutil.rmtree(self.part)

    def write_dense(self, first_row: int, first_column: int, values: Values) -> None:
        """Write a block of dense features.

        Parameters
        ----------
        first_row, first_column : int
            Start of the block.
        values : ndarray of shape (n_rows, n_columns)
            Finite numbers, in at most 65,536 rows.
        """
        columns = self._narrow(np.ascontiguousarray(values.T))
        n_columns, n_rows = columns.shape
        self._take_fingerprints(columns.T, first_row, first_column)
        sha256, offset = self._append([columns])
        self._blocks.append(
            DenseBlock(
                first_row=first_row, n_rows=n_rows, first_column=first_column, n_columns=n_columns,
                dtype=cast("ValueType", columns.dtype.name), offset=offset, sha256=sha256,
            )
        )  # fmt: skip

    def write_sparse(self, first_row: int, lengths: Values, indices: Values, values: Values) -> None:
        """Write a block of sparse features.

        Parameters
        ----------
        first_row : int
            Start of the block.
        lengths : ndarray of int of shape (n_rows,)
            Number of values of each sample; at most 65,536 samples.
        indices : ndarray of int32 of shape (n_values,)
            Features, ascending within a sample.
        values : ndarray of float64 of shape (n_values,)
            Finite numbers.
        """
        from scipy import sparse

        values = self._narrow(values)
        pointers = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        shape = len(lengths), int(indices.max(initial=-1)) + 1
        self._take_fingerprints(sparse.csr_array((values, indices, pointers), shape=shape), first_row)
        columns, starts, rows, ordered = by_columns(lengths, indices, values)
        sha256, offset = self._append([columns, starts, ordered, rows])
        self._blocks.append(
            SparseBlock(
                first_row=first_row, n_rows=len(lengths), n_columns=len(columns), n_values=len(rows),
                dtype=cast("ValueType", ordered.dtype.name), offset=offset, sha256=sha256,
            )
        )  # fmt: skip

    def finish(self, description: Description, source_files: list[SourceFile], writer: str) -> StoreManifest:
        """Write labels and manifest, and give the store its name.

        Parameters
        ----------
        description : Description
            Description of the written data.
        source_files : list of SourceFile
            Files from which they came.
        writer : str
            Program and version.

        Returns
        -------
        StoreManifest

        Raises
        ------
        CreateError
            If something has taken the name in the meantime.
        WriteError
            If it cannot be written to disk.
        """
        with writing(self.target):
            _sync(self._file)
            sums_bytes = self._write_sums()
            labels = _write_labels(self.part / LABELS_FILE, description.labels)
            names = description.names
            manifest = StoreManifest(
                name=description.name,
                source_format=description.format,
                source_files=source_files,
                writer=writer,
                n_samples=description.n_samples,
                n_features=description.n_features,
                n_nonzeros=description.n_nonzeros,
                sparse=description.sparse_format,
                n_ignored_values=description.n_ignored_values,
                notes=description.notes,
                image_shape=description.image_shape,
                rounded_to_float32=self._float32,
                labels=labels,
                features_bytes=self.n_bytes,
                sums_bytes=sums_bytes,
                fingerprints={name: hash % 2**64 for name, hash in self._fingerprints.items()},
                dense_blocks=[block for block in self._blocks if isinstance(block, DenseBlock)],
                sparse_blocks=[block for block in self._blocks if isinstance(block, SparseBlock)],
                columns=None if names is None else StoredColumns.model_validate(names.to_json()),
            )
            with (self.part / MANIFEST_FILE).open("w", encoding="utf-8") as file:
                file.write(manifest_text(manifest))
                _sync(file)
            sync_folder(self.part)
            self._take_name()
        return manifest

    def _take_name(self) -> None:
        """Rename the folder, and only then remove the store that it replaces."""
        old = self.target.with_name(f"{self.target.name}.old")
        replaced = self._overwrite and _is_store(self.target)
        if replaced:
            self.target.rename(old)
        elif self.target.exists():
            raise CreateError(f"{self.target}: was created by another process in the meantime; choose another name")
        self.part.rename(self.target)
        sync_folder(self.target.parent)
        if replaced:
            shutil.rmtree(old)

    def _take_fingerprints(self, X: Any, first_row: int, first_column: int = 0) -> None:
        """Add a block's hashes, which identify data in runs, as read in either dtype."""
        rows = np.arange(first_row, first_row + X.shape[0])
        for name in self._fingerprints:
            with np.errstate(over="ignore"):
                part = X.astype(name)
            self._fingerprints[name] += fingerprint(part, rows, first_column)

    def _narrow(self, values: Values) -> Values:
        """Convert numbers to the narrowest type that holds them all, to the last bit."""
        if values.dtype == np.uint8:
            return values
        values = values.astype(np.float64, copy=False)
        if self._float32:
            with np.errstate(over="ignore"):
                rounded = values.astype(np.float32)
            if not np.isfinite(rounded).all():
                raise WriteError("a value is too large for float32: convert without --dtype float32")
            values = rounded.astype(np.float64)
        for kind in (np.uint8, np.float32):
            # in most data that do not fit, the first values show it
            if _fits(values.reshape(-1)[:_CHECKED_FIRST], kind) and _fits(values, kind):
                return values.astype(kind)
        return values

    def _append(self, arrays: list[Values]) -> tuple[str, int]:
        """Write arrays consecutively; return their checksum and offset."""
        digest, offset, n_bytes = hashlib.sha256(), self.n_bytes, 0
        with writing(self.target):
            for array in arrays:
                data = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False)).data.cast("B")
                digest.update(data)
                self._file.write(data)
                n_bytes += len(data)
                self._sum(data)
            padding = bytes(padded(n_bytes) - n_bytes)
            self._file.write(padding)
            self._sum(padding)
        self.n_bytes += padded(n_bytes)
        return digest.hexdigest(), offset

    def _sum(self, data: memoryview | bytes) -> None:
        """Compute the sums of the pages that this data completes."""
        waiting = np.frombuffer(b"".join((self._unsummed, data)), np.uint8)
        n_bytes = len(waiting) // PAGE_BYTES * PAGE_BYTES
        self._sums.append(page_sums(waiting[:n_bytes]))
        self._unsummed = waiting[n_bytes:].tobytes()

    def _write_sums(self) -> int:
        """Write the sums of all pages; returns the size of their file."""
        self._sums.append(page_sums(np.frombuffer(self._unsummed, np.uint8)))
        with (self.part / SUMS_FILE).open("wb") as file:
            file.write(np.concatenate(self._sums).astype("<u4").tobytes())
            _sync(file)
            return file.tell()


def by_columns(lengths: Values, indices: Values, values: Values) -> tuple[Values, Values, Values, Values]:
    """Sort sparse rows by column.

    Parameters
    ----------
    lengths : ndarray of int of shape (n_rows,)
        Number of values of each row.
    indices : ndarray of int of shape (n_values,)
        Columns.
    values : ndarray of shape (n_values,)
        Numbers.

    Returns
    -------
    columns : ndarray of uint32
        Columns that occur, ascending.
    starts : ndarray of uint32 of shape (n_columns + 1,)
        Start of each column's values.
    rows : ndarray of uint16 of shape (n_values,)
        Rows, ascending within a column.
    values : ndarray of shape (n_values,)
    """
    from scipy import sparse

    n_columns = int(indices.max()) + 1 if len(indices) else 0
    known = None
    if n_columns > 4 * len(indices) + MAX_ROWS:
        # counting over all columns would cost more than the values do
        known, indices = np.unique(indices, return_inverse=True)
        n_columns = len(known)
    pointers = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    matrix = sparse.csr_array((values, indices, pointers), shape=(len(lengths), n_columns)).tocsc()
    columns = np.flatnonzero(np.diff(matrix.indptr))
    starts = np.append(matrix.indptr[columns], len(values))
    columns = columns if known is None else known[columns]
    return columns.astype(np.uint32), starts.astype(np.uint32), matrix.indices.astype(np.uint16), matrix.data


def _fits(values: Values, kind: type[np.generic]) -> bool:
    """Whether all numbers stay the same in a type, including -0.0."""
    with np.errstate(all="ignore"):
        back = values.astype(kind).astype(np.float64)
    return bool((back.view(np.uint64) == values.view(np.uint64)).all())


def _is_store(path: Path) -> bool:
    return (path / MANIFEST_FILE).is_file() and _only_own(path)


def _only_own(path: Path) -> bool:
    """Whether a folder contains only files of a store, and so may be removed."""
    return path.is_dir() and all(entry.name in OWN_FILES and entry.is_file() for entry in path.iterdir())


def _write_labels(path: Path, labels: Values) -> FileSum:
    with path.open("wb") as file:
        np.save(file, labels, allow_pickle=False)
        _sync(file)
    return FileSum(**sum_of(path))


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
