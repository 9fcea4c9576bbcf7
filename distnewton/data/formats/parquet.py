"""Parquet, Arrow and Feather files: a rank reads only its own columns."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from distnewton.data.columns import Wanted
from distnewton.data.formats.base import Format, Location
from distnewton.data.formats.streams import check_growth, is_compressed
from distnewton.data.formats.tables import BATCH_VALUES, BLOCKS_BYTES, ArrowSource
from distnewton.errors import DataError
from distnewton.launch.host_memory import release_freed_memory


class _FileSource(ArrowSource):
    """Base of the sources that read a file with the Arrow library.

    Parameters
    ----------
    path : Path
        An existing file.
    wanted : Wanted
        Requested columns.
    """

    def __init__(self, path: Path, wanted: Wanted) -> None:
        self.path, self.name = path, str(path)
        if is_compressed(path):
            raise DataError(f"{path}: is a compressed {self.format.capitalize()} file; decompress it first")
        with self._damage_named():
            schema = self._schema()
            # texts in a damaged file may not be UTF-8
            _ = schema.names
        super().__init__(str(path), schema, wanted)

    @abstractmethod
    def _schema(self) -> Any:
        """Names and types of the columns."""

    def _check_rows(self, n_rows: int) -> None:
        """Refuse a number of rows that is implausible for the size of the file."""
        check_growth(self.name, self.path, n_bytes=8 * n_rows * len(self._columns), n_samples=n_rows)


class ParquetSource(_FileSource):
    """A Parquet file."""

    format = "parquet"
    # Arrow's reader takes about 15 kB for each column that it reads at once
    n_at_once = 1024

    def _schema(self) -> Any:
        from pyarrow import parquet

        schema = parquet.read_schema(self.path, memory_map=False)
        release_freed_memory()
        if len(set(schema.names)) < len(schema.names):
            # Parquet's readers select columns by name
            raise DataError(f"{self.path}: expected columns of different names, got {schema.names[:20]}")
        return schema

    @property
    def reading_bytes(self) -> float:
        """Memory for reading, including the footer, whose Arrow objects are 22 times as large."""
        with self.path.open("rb") as file:
            file.seek(-8, os.SEEK_END)
            footer = int.from_bytes(file.read(4), "little")
        return BLOCKS_BYTES + 22.0 * footer

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """Read the footer once, and free it afterwards: for a wide table it takes more memory than the columns."""
        try:
            yield
        finally:
            vars(self).pop("_file", None)
            release_freed_memory()

    @cached_property
    def _file(self) -> Any:
        from pyarrow import parquet

        file = parquet.ParquetFile(self.path, memory_map=False)
        self._check_rows(file.metadata.num_rows)
        return file

    def _batches(self, places: list[int]) -> Iterator[Any]:
        names = [self._columns[i] for i in places]
        size = max(1, BATCH_VALUES // max(1, len(places)))
        for batch in self._file.iter_batches(batch_size=size, columns=names, use_threads=False):
            yield batch.select(names)


class ArrowFileSource(_FileSource):
    """An Arrow or Feather file."""

    format = "arrow"

    def _schema(self) -> Any:
        import pyarrow as pa

        with pa.OSFile(str(self.path)) as file:
            return pa.ipc.open_file(file).schema

    def _batches(self, places: list[int]) -> Iterator[Any]:
        import pyarrow as pa
        from pyarrow import dataset

        # rows are counted from the headers before the columns, without unpacking columns
        self._check_rows(dataset.dataset(self.path, format="ipc").count_rows())
        options = pa.ipc.IpcReadOptions(included_fields=sorted(places), use_threads=False)
        with pa.OSFile(str(self.path)) as file:
            reader = pa.ipc.open_file(file, options=options)
            for i in range(reader.num_record_batches):
                batch = reader.get_batch(i).select([sorted(places).index(place) for place in places])
                # unchecked, a damaged file crashes the process: Arrow follows its offsets
                batch.validate(full=True)
                yield batch


class _FileFormat(Format):
    """A format of files that the Arrow library reads, recognised by a signature."""

    settings = ("label_column", "ignore_columns", "names")
    signature: ClassVar[bytes]
    source: ClassVar[type[_FileSource]]

    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether the content begins with the signature."""
        return head.startswith(self.signature)

    def open(self, location: Location, wanted: Wanted) -> _FileSource:
        """Open a file; reads the names and types of its columns."""
        return self.source(location.path, wanted)


class Parquet(_FileFormat):
    """Parquet files."""

    name, help = "parquet", "Parquet"
    signature, source = b"PAR1", ParquetSource


class Arrow(_FileFormat):
    """Arrow and Feather files."""

    name, help = "arrow", "Arrow and Feather files"
    signature, source = b"ARROW1", ArrowFileSource
