"""Conversion of any source to a store, in memory independent of its size; text is parsed once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from distnewton.data.description import DataSource, Description
from distnewton.data.formats.libsvm import LibsvmSource
from distnewton.data.formats.tables import TableSource
from distnewton.data.store.layout_on_disk import SourceFile, StoreManifest, sum_of
from distnewton.data.store.reader import StoreSource
from distnewton.data.store.rows_of_blocks import BLOCK_VALUES, DenseRows, SparseRows
from distnewton.data.store.writer import StoreWriter, check_target
from distnewton.errors import ConfigError, DataError
from distnewton.packages import version

GROUP_BYTES = 1 << 28
"""Bytes of a group of columns; sources other than text are read once per group."""

OnProgress = Callable[[int, int], None]
"""(samples converted, bytes written); the count of samples restarts for each group of columns."""


def convert(
    source: DataSource,
    target: Path,
    *,
    files: list[Path],
    float32: bool = False,
    overwrite: bool = False,
    on_progress: OnProgress = lambda *_: None,
) -> StoreManifest:
    """Write all data of a source to a store.

    Parameters
    ----------
    source : DataSource
        Source from :func:`~distnewton.data.sources.open_data`.
    target : Path
        Folder to create.
    files : list of Path
        The source's files, whose sizes and checksums are recorded.
    float32 : bool
        Whether to round values to float32; otherwise they stay the same, to the last bit.
    overwrite : bool
        Whether to replace a store of that name.
    on_progress : callable
        Called periodically with the progress.

    Returns
    -------
    StoreManifest

    Raises
    ------
    DataError
        If the data are invalid, or change while they are read.
    CreateError, WriteError
        If the store cannot be made or written.

    Notes
    -----
    Memory: labels, a block (8 MB of float64, and the memory to transpose it), and for sources that are no text a
    group of columns (256 MB).
    """
    if isinstance(source, StoreSource):
        raise ConfigError(f"{source.name}: is a store already; copy its folder")
    check_target(target, overwrite=overwrite, files=files)
    sizes = [path.stat().st_size for path in files]

    def write() -> StoreManifest:
        with StoreWriter(target, float32=float32, overwrite=overwrite) as writer:
            description = _write(source, writer, on_progress)
            if [path.stat().st_size for path in files] != sizes:
                raise DataError(f"{source.name} changed while it was read; convert it again")
            made_by = f"distnewton {version('distnewton')}"
            return writer.finish(description, [SourceFile(name=str(path), **sum_of(path)) for path in files], made_by)

    return source.as_numbers(write) if isinstance(source, TableSource) else write()


def _write(source: DataSource, writer: StoreWriter, on_progress: OnProgress) -> Description:
    """Write all blocks."""
    if isinstance(source, LibsvmSource) or (isinstance(source, TableSource) and source.has_whole_rows):
        n, gathered = 0, SparseRows(writer) if isinstance(source, LibsvmSource) else DenseRows(writer)

        def take(rows: Any) -> None:
            nonlocal n
            gathered.add(rows)
            n += len(rows)
            on_progress(n, writer.n_bytes)

        description = source.scan(take)
        gathered.flush()
    else:
        description = source.describe()
        if description.sparse_format:
            raise ConfigError(f"{source.name}: sparse data are converted from LIBSVM text only")
        _write_groups(source, description, writer, on_progress)
    if not description.n_features:
        raise DataError(f"{source.name}: no sample has a feature; there is nothing to train on")
    return description


def _write_groups(source: DataSource, description: Description, writer: StoreWriter, on_progress: OnProgress) -> None:
    """Write a source that is read by columns, one group of columns at a time."""
    n_rows, n_columns = description.n_samples, description.n_features
    # images have values from 0 to 255
    dtype = np.dtype(np.uint8 if description.format == "images" else np.float64)
    width = min(n_columns, max(1, GROUP_BYTES // (dtype.itemsize * n_rows)))
    height = min(1 << 16, max(16, BLOCK_VALUES // width))
    for start in range(0, n_columns, width):
        values = source.read(start, min(start + width, n_columns), dtype)
        if values.shape[0] != n_rows:
            raise DataError(f"{source.name} changed while it was read: {n_rows} samples, then {values.shape[0]}")
        for row in range(0, n_rows, height):
            writer.write_dense(row, start, np.asarray(values[row : row + height]))
            on_progress(min(row + height, n_rows), writer.n_bytes)
