"""Parquet, Arrow and Feather files: a rank reads only its own columns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distnewton.data.columns import Wanted
from distnewton.data.formats.base import Format, Location
from distnewton.data.formats.streams import is_compressed
from distnewton.data.formats.tables import BATCH_VALUES, ArrowSource
from distnewton.errors import DataError


class Parquet(Format):
    """Parquet files."""

    name = "parquet"
    help = "Parquet"
    settings = ("label_column", "ignore_columns", "names")

    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether the content begins with the signature of Parquet."""
        return head.startswith(b"PAR1")

    def open(self, location: Location, wanted: Wanted) -> ParquetSource:
        """Open a file; reads its metadata."""
        return ParquetSource(location.path, wanted)


class Arrow(Format):
    """Arrow's own files."""

    name = "arrow"
    help = "Arrow and Feather files"
    settings = ("label_column", "ignore_columns", "names")

    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether the content begins with the signature of Arrow's files."""
        return head.startswith(b"ARROW1")

    def open(self, location: Location, wanted: Wanted) -> ArrowFileSource:
        """Open a file; reads its schema."""
        return ArrowFileSource(location.path, wanted)


class _FileSource(ArrowSource):
    """A file of Arrow's library, with numbers in all columns but that of the labels.

    Parameters
    ----------
    path : Path
        An existing file.
    wanted : Wanted
        Which columns are asked for.
    """

    def __init__(self, path: Path, wanted: Wanted) -> None:
        self.path, self.name = path, str(path)
        if is_compressed(path):
            raise DataError(f"{path}: is a compressed {self.format.capitalize()} file; decompress it first")
        with self._damage_named():
            schema = self._schema()
        super().__init__(str(path), schema, wanted)

    def _schema(self) -> Any:
        """Names and types of the columns."""
        raise NotImplementedError


class ParquetSource(_FileSource):
    """A Parquet file."""

    format = "parquet"

    def _schema(self) -> Any:
        from pyarrow import parquet

        schema = parquet.read_schema(self.path, memory_map=False)
        if len(set(schema.names)) < len(schema.names):
            # Parquet's readers take columns by name
            raise DataError(f"{self.path}: expected columns of different names, got {schema.names[:20]}")
        return schema

    def _batches(self, places: list[int]) -> Iterator[Any]:
        from pyarrow import parquet

        file = parquet.ParquetFile(self.path, memory_map=False)
        names = [self._columns[i] for i in places]
        size = max(1, BATCH_VALUES // max(1, len(places)))
        for batch in file.iter_batches(batch_size=size, columns=names, use_threads=False):
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

        options = pa.ipc.IpcReadOptions(included_fields=sorted(places), use_threads=False)
        with pa.OSFile(str(self.path)) as file:
            reader = pa.ipc.open_file(file, options=options)
            for i in range(reader.num_record_batches):
                yield reader.get_batch(i).select([sorted(places).index(place) for place in places])
