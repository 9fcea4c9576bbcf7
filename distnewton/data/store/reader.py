"""A store as a data source: each rank reads only its range of every block, and a description reads no features."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnewton.checksums import PAGE_BYTES, page_sums
from distnewton.data.columns import ColumnNames, Wanted
from distnewton.data.description import Description
from distnewton.data.row_selection import RowSelection
from distnewton.data.source import Source
from distnewton.data.store.layout_on_disk import (
    FEATURES_FILE,
    ITEMSIZES,
    LABELS_FILE,
    SUMS_FILE,
    SparseBlock,
    padded,
    read_manifest,
    sum_of,
)
from distnewton.errors import DataError, MissingInputError

if TYPE_CHECKING:
    from scipy import sparse

    from distnewton.data.description import Features, Labels

_MAX_INT32 = 2**31 - 1
_STRIP = 64
_HASHED_AT_ONCE = 1 << 20
_SUMMED_AT_ONCE = 1 << 18
"""Bytes checked while they are in the cache; whole pages."""


class StoreSource(Source):
    """A folder written by ``distnewton convert``.

    Parameters
    ----------
    path : Path
        The folder.
    wanted : Wanted
        Features that the caller wants; a store of sparse data may have fewer.

    Raises
    ------
    DataError
        If the store is incomplete, or of a newer version.
    """

    def __init__(self, path: Path, wanted: Wanted | None = None) -> None:
        self.path, self.name = path, str(path)
        self.manifest = m = read_manifest(path)
        _check_size(path / FEATURES_FILE, m.features_bytes)
        _check_size(path / LABELS_FILE, m.labels.n_bytes)
        if m.sums_bytes:
            _check_size(path / SUMS_FILE, m.sums_bytes)
        # memory-mapped, since a rank uses only those of its own columns
        self._sums = np.asarray(np.memmap(path / SUMS_FILE, "<u4", "r")) if m.sums_bytes else None
        wanted = wanted or Wanted()
        # sparse values name their features, so fewer features do not imply other data
        n_wanted = wanted.n_features or m.n_features
        by_number = m.sparse and (wanted.ignore_extra_features or n_wanted > m.n_features)
        self._n_kept = n_wanted if by_number else wanted.n_kept(self.name, m.n_features)

    def stored_fingerprint(self, dtype: DTypeLike) -> int | None:
        """Return the hash of all values in a dtype, which the store holds.

        Parameters
        ----------
        dtype : dtype
            float32 or float64.

        Returns
        -------
        int or None
            None if features are omitted, or if an older version wrote the store.
        """
        whole = self._n_kept >= self.manifest.n_features
        return self.manifest.fingerprints.get(np.dtype(dtype).name) if whole else None

    def describe(self) -> Description:
        """Describe size and labels from the manifest; conversion has checked the values."""
        m = self.manifest
        n_beyond = n_zero = 0
        if self._n_kept < m.n_features:
            n_beyond, n_zero = self._count_beyond()
        notes = list(m.notes)
        if n_beyond:
            values = "values" if m.sparse else "features"
            n = n_beyond if m.sparse else m.n_features - self._n_kept
            notes.append(f"{n} {values} beyond the {self._n_kept} features expected were ignored")
        if m.rounded_to_float32:
            notes.append(f"values of {m.name} were rounded to float32 when they were converted")
        image_shape = m.image_shape if self._n_kept == m.n_features else None
        names = None
        if m.columns is not None:
            columns = m.columns.model_dump()
            if not m.columns.encoding:
                columns["features"] = m.columns.features[: self._n_kept]
            names = ColumnNames.from_json(columns)
        return Description(
            self.name, "store", m.n_samples, self._n_kept, m.n_nonzeros - (n_beyond - n_zero), m.sparse,
            self._labels(), m.n_ignored_values + n_beyond, notes, image_shape, names=names,
        )  # fmt: skip

    def _count_beyond(self) -> tuple[int, int]:
        """Count stored values of unwanted features, and the zeros among them in a dense store."""
        m = self.manifest
        with self._opened() as file:
            if m.sparse:
                ranges = (self._ranges(file, block, self._n_kept, m.n_features) for block in m.sparse_blocks)
                return sum(last - first for _, _, first, last in ranges), 0
            n_zero = 0
            for _, _, part in self._dense_parts(file, self._n_kept, m.n_features):
                n_zero += part.size - int(np.count_nonzero(part))
            return m.n_samples * (m.n_features - self._n_kept), n_zero

    def _labels(self) -> Labels:
        """Read the labels as they were converted."""
        path = self.path / LABELS_FILE
        self._check_labels()
        try:
            labels: Labels = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path}: cannot be read ({error}); convert the data again") from None
        if labels.shape[:1] != (self.manifest.n_samples,) or labels.dtype.kind not in "fU":
            raise DataError(f"{path}: does not hold the labels of the store; convert the data again")
        return labels

    def _check_labels(self) -> None:
        """Compare the labels with their checksum."""
        path = self.path / LABELS_FILE
        try:
            found = sum_of(path)["sha256"]
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error}); convert the data again") from None
        if found != self.manifest.labels.sha256:
            raise DataError(f"{path}: was changed or damaged; copy or convert the data again")

    def locate(self, i_sample: int) -> str:
        """Return ``store: sample i``, counted from 1, with the name of the original source."""
        return f"{super().locate(i_sample)} (of {self.manifest.name})"

    def _n_readable(self) -> int:
        return self._n_kept

    def _read(self, start: int, stop: int, dtype: np.dtype[Any], wanted: RowSelection) -> Features:
        """Read the same numbers, bit for bit, as from the original source; reads no other columns."""
        with self._opened() as file:
            if self.manifest.sparse:
                return self._read_sparse(file, start, stop, dtype, wanted)
            result = np.empty((wanted.count(self.manifest.n_samples), stop - start), dtype=dtype)
            for row, column, part in self._dense_parts(file, start, stop):
                at = column - start
                place, chosen = wanted.of(row, part.shape[1])
                part = part[:, chosen]
                target = result[place, at : at + len(part)]
                # one strip at a time: rows of the result and columns of the block stay in the cache together
                for i in range(0, part.shape[1], _STRIP):
                    target[i : i + _STRIP] = part[:, i : i + _STRIP].T
            return result

    def verify(self) -> Iterator[int]:
        """Compare all stored data with their checksums.

        Yields
        ------
        int
            Bytes of a block that was found intact.

        Raises
        ------
        DataError
            If a block has changed; names the file, its bytes and its samples.
        """
        self._check_labels()
        yield self.manifest.labels.n_bytes
        with self._opened() as file:
            for block in self.manifest.blocks:
                digest, missing = hashlib.sha256(), block.n_bytes
                file.seek(block.offset)
                while missing and (data := file.read(min(missing, _HASHED_AT_ONCE))):
                    digest.update(data)
                    missing -= len(data)
                if digest.hexdigest() != block.sha256:
                    raise self._damaged(
                        f"between bytes {block.offset} and {block.offset + padded(block.n_bytes)}, samples "
                        f"{block.first_row + 1} to {block.first_row + block.n_rows}"
                    )
                yield block.n_bytes

    def _opened(self) -> BinaryIO:
        """Open the features' file, without buffering, since reads are large."""
        try:
            return (self.path / FEATURES_FILE).open("rb", buffering=0)
        except OSError as error:
            raise MissingInputError(f"{self.path / FEATURES_FILE}: cannot be read ({error.strerror})") from None

    def _numbers(self, file: BinaryIO, offset: int, dtype: str, n: int) -> NDArray[Any]:
        """Read numbers at an offset, and check all of their pages."""
        kind = np.dtype(dtype).newbyteorder("<")
        first, stop = offset, offset + n * kind.itemsize
        if self._sums is not None and n:
            first -= first % PAGE_BYTES
            stop = min(-(-stop // PAGE_BYTES) * PAGE_BYTES, self.manifest.features_bytes)
        data = np.empty(stop - first, np.uint8)
        try:
            file.seek(first)
            for i in range(0, len(data), _SUMMED_AT_ONCE):
                self._fill(file, first + i, data[i : i + _SUMMED_AT_ONCE])
        except OSError as error:
            raise MissingInputError(f"{self.path / FEATURES_FILE}: cannot be read ({error.strerror})") from None
        values = data[offset - first : offset - first + n * kind.itemsize].view(kind)
        return values if values.flags.aligned else values.copy()

    def _fill(self, file: BinaryIO, offset: int, part: NDArray[np.uint8]) -> None:
        """Read bytes at an offset, and compare their sums while they are in the cache."""
        stop, n_read = offset + len(part), 0
        while n_read < len(part):
            n_more = file.readinto(part[n_read:])  # type: ignore[attr-defined]  # unbuffered
            if not n_more:
                raise DataError(f"{self.path / FEATURES_FILE}: ends before byte {stop}")
            n_read += n_more
        if self._sums is not None:
            found, k = page_sums(part), offset // PAGE_BYTES
            if (found != self._sums[k : k + len(found)]).any():
                raise self._damaged(f"between bytes {offset} and {stop}, or {SUMS_FILE} was")

    def _damaged(self, where: str) -> DataError:
        """Make the error for a damaged part of the features."""
        return DataError(f"{self.path / FEATURES_FILE}: was changed or damaged {where}; copy or convert the data again")

    def _dense_parts(self, file: BinaryIO, start: int, stop: int) -> Iterator[tuple[int, int, NDArray[Any]]]:
        """Yield first row, first column and values, (n_columns, n_rows), of blocks in a range of columns."""
        for block in self.manifest.dense_blocks:
            first, last = max(start, block.first_column), min(stop, block.first_column + block.n_columns)
            if first < last:
                offset = block.offset + (first - block.first_column) * block.n_rows * ITEMSIZES[block.dtype]
                values = self._numbers(file, offset, block.dtype, (last - first) * block.n_rows)
                yield block.first_row, first, values.reshape(-1, block.n_rows)

    def _ranges(
        self, file: BinaryIO, block: SparseBlock, start: int, stop: int
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint32], int, int]:
        """Return a block's columns in a range, the start of each, and the half-open range of their values."""
        if not block.n_columns or start == stop:
            return np.zeros(0, np.uint32), np.zeros(1, np.uint32), 0, 0
        i, j = 0, block.n_columns
        if start > 0 or stop < self.manifest.n_features:
            # memory-mapped, since a search reads few of them
            mapped = np.memmap(
                self.path / FEATURES_FILE, dtype="<u4", mode="r", offset=block.offset, shape=(block.n_columns,)
            )
            i, j = np.searchsorted(mapped, [start, stop]).tolist()
        # with their neighbours, which reveal a search misled by damage
        low, high = max(i - 1, 0), min(j + 1, block.n_columns)
        known = self._numbers(file, block.offset + 4 * low, "uint32", max(0, high - low))
        columns = known[i - low : j - low]
        if not ((known[: i - low] < start).all() and (known[j - low :] >= stop).all() and i <= j
                and ((columns >= start) & (columns < stop)).all()):  # fmt: skip
            raise self._damaged(f"near byte {block.offset}")
        begin = block.offset + 4 * (block.n_columns + i)
        starts = self._numbers(file, begin, "uint32", j - i + 1)
        first, last = int(starts[0]), int(starts[-1])
        if not 0 <= first <= last <= block.n_values or (starts[1:] < starts[:-1]).any():
            raise self._damaged(f"near byte {begin}")
        starts -= np.uint32(first)
        return columns, starts, first, last

    def _read_sparse(
        self, file: BinaryIO, start: int, stop: int, dtype: np.dtype[Any], wanted: RowSelection
    ) -> sparse.csr_array:
        """Join the blocks' values in a range of columns to rows."""
        from scipy import sparse

        blocks = self.manifest.sparse_blocks
        parts = [self._ranges(file, block, start, stop) for block in blocks]
        n_values = sum(last - first for _, _, first, last in parts)
        index_type = np.int32 if max(n_values, stop - start) <= _MAX_INT32 else np.int64
        n_samples = wanted.count(self.manifest.n_samples)
        pointers = np.zeros(n_samples + 1, index_type)
        indices, values = np.empty(n_values, index_type), np.empty(n_values, dtype)
        at = 0
        for block, (columns, starts, first, last) in zip(blocks, parts, strict=True):
            offset = block.offset + 4 * (2 * block.n_columns + 1)
            data = self._numbers(file, offset + first * ITEMSIZES[block.dtype], block.dtype, last - first)
            offset += block.n_values * ITEMSIZES[block.dtype]
            rows = self._numbers(file, offset + 2 * first, "uint16", last - first)
            if len(rows) and int(rows.max()) >= block.n_rows:
                raise self._damaged(f"near byte {offset}")
            # set directly: the constructor from parts would scan all indices
            by_column = sparse.csc_array((block.n_rows, len(columns)), dtype=dtype)
            by_column.data, by_column.indices = data.astype(dtype, copy=False), rows.astype(np.int32)
            by_column.indptr = starts.view(np.int32)
            turned = by_column.tocsr()
            place, chosen = wanted.of(block.first_row, block.n_rows)
            turned = turned if isinstance(chosen, slice) else turned[chosen]
            end = at + turned.nnz
            pointers[place.start + 1 : place.stop + 1] = at + turned.indptr[1:]
            columns -= np.uint32(start)
            np.take(columns.astype(index_type), turned.indices, out=indices[at:end], mode="clip")
            values[at:end] = turned.data
            at = end
        if at < n_values:
            values, indices = values[:at].copy(), indices[:at].copy()
        matrix = sparse.csr_array((values, indices, pointers), shape=(n_samples, stop - start))
        matrix.has_canonical_format = True  # columns ascend in a row; spares scipy a scan of all indices
        return matrix


def _check_size(file: Path, expected: int) -> None:
    """Refuse a file that is missing, or whose size differs from what was written."""
    try:
        size = file.stat().st_size
    except OSError as error:
        raise DataError(f"{file}: is missing ({error.strerror}); convert the data again") from None
    if size != expected:
        raise DataError(f"{file}: has {size} bytes, but {expected} were written; copy or convert the data again")
